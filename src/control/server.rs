//! The accept loop that both HTTP listeners share.
//!
//! One request a connection and little time for it; when there are too many connections the oldest goes, so that idle
//! ones cannot keep anybody out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

/// Where connections come from.
pub(super) trait Listener: Send + 'static {
    /// One of them.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and what answers on it.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Router)>> + Send;
}

/// Answers for ever; `name` is the listener's in the log.
pub(super) async fn accept(name: &'static str, listener: impl Listener) -> Infallible {
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let (stream, router) = match listener.next().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely (EMFILE): trying again at once would only spin.
                tracing::debug!(%error, "{name}: a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            // Its descriptor is open until its task has been dropped, which a busy runtime does later.
            let _ = oldest.await;
        }
        open.push_back(tokio::spawn(connection(stream, router)));
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = TowerToHyperService::new(router);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_REQUEST_OCTETS)
        .serve_connection(TokioIo::new(stream), service);
    // What a peer does wrong is its own affair.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await;
}

/// The most connections of a listener at a time; bounds memory and descriptors.
const MAX_CONNECTIONS: usize = 256;

/// The longest time for a request's head; bounds what a slow or silent peer holds.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time for a whole connection; bounds what a peer holds that does not read its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest head of a request; hyper takes no less.
const MAX_REQUEST_OCTETS: usize = 8192;

/// How long to leave the listener alone after a failure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
