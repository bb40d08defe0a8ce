//! The other end of the admin socket: one request, one answer, five seconds.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

use crate::control::api::Failure;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// Nobody there.
    #[error("synwall cannot be reached at {}: {error}: {}", socket.display(), advice(error))]
    Unreachable { socket: PathBuf, error: io::Error },
    /// Somebody there who says nothing.
    #[error(
        "synwall at {} did not answer within {} s: look at its log",
        socket.display(),
        PATIENCE.as_secs()
    )]
    Silent { socket: PathBuf },
    /// Somebody there who says something else.
    #[error("what answers at {} is not this version of synwall: {what}", socket.display())]
    Strange { socket: PathBuf, what: String },
    /// synwall says no.
    #[error("{0}")]
    Refused(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "is it running? `systemctl status synwall` tells; if its [admin] socket is elsewhere, name it with --socket"
        }
        io::ErrorKind::ConnectionRefused => {
            "the synwall that made it has ended without removing it: start it again"
        }
        io::ErrorKind::PermissionDenied => "use root, or the user that runs synwall",
        _ => "name the socket of a running synwall with --socket",
    }
}

/// Asks the synwall behind one socket.
pub(super) struct Client {
    socket: PathBuf,
}

/// What it said.
pub(super) struct Answer {
    socket: PathBuf,
    text: String,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends one request and waits for its answer. On a thread that has no runtime of its own.
    ///
    /// # Errors
    /// No answer, or one that says no.
    pub(super) fn call(&self, method: Method, path: &str, body: Option<String>) -> Result<Answer, CallError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.unreachable(error))?;
        runtime.block_on(self.ask(method, path, body))
    }

    /// The same within a runtime.
    ///
    /// # Errors
    /// The same.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Answer, CallError> {
        let exchange = tokio::time::timeout(PATIENCE, self.exchange(method, path, body.unwrap_or_default()));
        let silent = |_| CallError::Silent { socket: self.socket.clone() };
        let (is_success, text) = exchange.await.map_err(silent)??;
        let answer = Answer { socket: self.socket.clone(), text };
        if is_success { Ok(answer) } else { Err(CallError::Refused(answer.read::<Failure>()?.error.message)) }
    }

    async fn exchange(&self, method: Method, path: &str, body: String) -> Result<(bool, String), CallError> {
        let strange = |error: &dyn std::fmt::Display| self.strange(error.to_string());
        let stream = self.connect().await.map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| strange(&error))?;
        // It ends with the sender; what goes wrong on it the sender tells.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "synwall")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| strange(&error))?;
        let response = sender.send_request(request).await.map_err(|error| strange(&error))?;
        let is_success = response.status().is_success();
        let body = Limited::new(response.into_body(), MAX_ANSWER_OCTETS).collect().await;
        let octets = body.map_err(|error| strange(&error))?.to_bytes();
        Ok((is_success, String::from_utf8_lossy(&octets).into_owned()))
    }

    /// The kernel has a non-blocking socket try again while too many others wait to be accepted.
    async fn connect(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.socket).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    fn unreachable(&self, error: io::Error) -> CallError {
        CallError::Unreachable { socket: self.socket.clone(), error }
    }

    fn strange(&self, what: String) -> CallError {
        CallError::Strange { socket: self.socket.clone(), what }
    }
}

impl Answer {
    /// The JSON as it came.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What it means.
    ///
    /// # Errors
    /// It means something else.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        let strange = |error: serde_json::Error| CallError::Strange {
            socket: self.socket.clone(),
            what: error.to_string(),
        };
        serde_json::from_str(&self.text).map_err(strange)
    }
}

/// The longest time for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to leave a listener alone that many others wait for.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// The longest answer: ten thousand connections take two million octets.
const MAX_ANSWER_OCTETS: usize = 64 << 20;
