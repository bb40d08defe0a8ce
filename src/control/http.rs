//! `/metrics`, `/healthz`, `/readyz`, and the live page (`page`).
//!
//! One request a connection and little time for it; when there are too many connections the oldest goes, so that idle
//! ones cannot keep a scrape out. No request body is read.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinHandle};

use super::live::Live;
use super::page;

/// Why the address cannot be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// Something listens there.
    #[error(
        "{0} is in use: stop what listens there (`ss -ltnp` shows it; it may be synwall itself), or change [metrics] listen"
    )]
    InUse(SocketAddr),
    /// No interface has it.
    #[error("{0} is no address of this host: change [metrics] listen")]
    NotHere(SocketAddr),
    /// The system refused for another reason.
    #[error("{address} cannot be listened on: {error}")]
    System {
        /// The address.
        address: SocketAddr,
        /// What the system answered.
        error: io::Error,
    },
}

/// Listens on `address`.
///
/// # Errors
/// The system refuses.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        io::ErrorKind::AddrNotAvailable => BindError::NotHere(address),
        _ => BindError::System { address, error },
    })
}

/// What the paths answer.
pub struct Answers {
    /// The text of `/metrics`.
    pub metrics: Box<dyn Fn() -> prometheus::Result<String> + Send + Sync>,
    /// The state behind `/readyz`.
    pub readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
    /// What the live page shows.
    pub live: Arc<Live>,
}

/// Whether traffic may be sent through the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The port towards the clients is up.
    pub outside_up: bool,
    /// The port towards the servers is up.
    pub inside_up: bool,
    /// There is a cookie key.
    pub keys: bool,
    /// Every packet thread runs.
    pub workers: bool,
}

impl Readiness {
    /// Whether nothing is missing.
    pub fn is_ready(self) -> bool {
        self.outside_up && self.inside_up && self.keys && self.workers
    }

    fn json(self) -> String {
        let Readiness { outside_up, inside_up, keys, workers } = self;
        format!(
            "{{\"ready\":{},\"outside_up\":{outside_up},\"inside_up\":{inside_up},\"keys\":{keys},\"workers\":{workers}}}\n",
            self.is_ready()
        )
    }
}

/// Starts answering on `listener`, as a task of the present runtime.
///
/// # Errors
/// The listener cannot be handed to the runtime. Later failures to accept are waited out.
pub fn serve(listener: TcpListener, answers: Answers) -> io::Result<JoinHandle<Infallible>> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(tokio::spawn(accept(listener, router(answers))))
}

async fn accept(listener: tokio::net::TcpListener, router: Router) -> Infallible {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely (EMFILE): trying again at once would only spin.
                tracing::debug!(%error, "metrics: a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tokio::spawn(connection(stream, router.clone())).abort_handle());
    }
}

async fn connection(stream: TcpStream, router: Router) {
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

fn router(answers: Answers) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .merge(page::routes(answers.live.clone()))
        .with_state(Arc::new(answers))
}

type Answer = (StatusCode, [(HeaderName, &'static str); 1], String);

async fn metrics(State(answers): State<Arc<Answers>>) -> Answer {
    match (answers.metrics)() {
        Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text),
        Err(error) => {
            tracing::warn!(%error, "metrics: cannot be rendered");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                [(CONTENT_TYPE, "text/plain")],
                "cannot be rendered\n".to_owned(),
            )
        }
    }
}

async fn readyz(State(answers): State<Arc<Answers>>) -> Answer {
    let readiness = (answers.readiness)();
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(CONTENT_TYPE, "application/json")], readiness.json())
}

/// The most connections at a time; bounds memory and descriptors.
const MAX_CONNECTIONS: usize = 256;

/// The longest time for a request's head; bounds what a slow or silent peer holds.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time for a whole connection; bounds what a peer holds that does not read its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest request; hyper takes no less.
const MAX_REQUEST_OCTETS: usize = 8192;

/// How long to leave the listener alone after a failure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
