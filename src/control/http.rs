//! `/metrics`, `/healthz`, `/readyz`, and the live page (`page`).
//!
//! No request body is read.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::live::Live;
use super::{page, server};

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
    Ok(tokio::spawn(server::accept("metrics", Tcp { listener, router: router(answers) })))
}

/// A TCP listener whose connections all get the same answers.
struct Tcp {
    listener: tokio::net::TcpListener,
    router: Router,
}

impl server::Listener for Tcp {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Router)> {
        let (stream, _) = self.listener.accept().await?;
        Ok((stream, self.router.clone()))
    }
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
