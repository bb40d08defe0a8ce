//! The admin socket: versioned JSON over HTTP for root alone. `api` has the paths.
//!
//! The kernel says who is at the other end (SO_PEERCRED); only root and the user that runs synwall are answered. Every
//! change is logged with the number of the user who made it. Nothing here waits for the packet threads or makes them wait;
//! what takes time in proportion to the tables runs on a thread of its own, one at a time.

mod flows;
mod problem;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Extension, Router};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::api::{
    Attacks, BlockRequest, Blocks, CONFIGURED, MAX_BLOCK_SECONDS, MODES, ModeAnswer, ModeRequest,
    UnblockRequest,
};
use super::attacks::Board;
use super::in_force::InForce;
use super::rotate::unix_time;
use super::server;
use super::socket::Socket;
use super::status::{self, Status, Surroundings};
use crate::engine::Shared;
use crate::engine::policy::Mode;
use crate::io::{Clock, MonotonicClock};
use crate::metrics::Sample;
use crate::time::Instant;
use problem::{Problem, known_service, parse, prefix};

/// What the answers are made from.
pub struct Admin {
    /// A sample of what is counted, taken now.
    pub sample: Box<dyn Fn() -> Sample + Send + Sync>,
    /// The tables.
    pub shared: Arc<Shared>,
    /// Events and traffic.
    pub board: Arc<Board>,
    /// Configuration and overrides.
    pub in_force: Arc<InForce>,
    /// The clock of the packet threads.
    pub clock: MonotonicClock,
    /// When synwall was started, by that clock.
    pub started: Instant,
    /// Packet threads that were started.
    pub workers: usize,
}

impl Admin {
    /// The status as of now.
    pub fn status(&self) -> Status {
        let around = Surroundings {
            board: &self.board,
            configured_modes: &self.in_force.configured_modes(),
            blocks: &self.in_force.blocks(),
            workers: self.workers,
            time: unix_time().as_secs_f64(),
            uptime_seconds: self.clock.now().since(self.started).as_secs_f64(),
        };
        Status::new(&(self.sample)(), &around)
    }
}

/// Starts answering on `socket`, as a task of the present runtime.
///
/// # Errors
/// The socket cannot be handed to the runtime.
pub fn serve(socket: &Socket, admin: Admin) -> io::Result<JoinHandle<Infallible>> {
    let listener = socket.listener()?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let router = router(admin);
    Ok(tokio::spawn(server::accept("admin", Unix { listener, router })))
}

struct Unix {
    listener: tokio::net::UnixListener,
    router: Router,
}

impl server::Listener for Unix {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Router)> {
        let (stream, _) = self.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        let is_welcome = uid == 0 || uid == geteuid().as_raw();
        let router =
            if is_welcome { self.router.clone().layer(Extension(Peer { uid })) } else { turned_away(uid) };
        Ok((stream, router))
    }
}

/// Who asks.
#[derive(Clone, Copy)]
struct Peer {
    uid: u32,
}

fn router(admin: Admin) -> Router {
    let desk = Arc::new(Desk { admin: Arc::new(admin), listings: Arc::new(Semaphore::new(1)) });
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/attacks", get(attacks))
        .route("/v1/flows", get(flows::flows))
        .route("/v1/blocks", get(blocks).post(block).delete(unblock))
        .route("/v1/services/{name}/mode", put(mode))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "no_such_path", "there is no such path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "wrong_method",
                "this path does not take this method",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_OCTETS))
        .with_state(desk)
}

fn turned_away(uid: u32) -> Router {
    let answer = move || async move {
        let message = format!("user {uid} may not operate synwall: use root, or the user that runs it");
        Problem::new(StatusCode::FORBIDDEN, "forbidden", message)
    };
    Router::new().fallback(answer)
}

struct Desk {
    admin: Arc<Admin>,
    /// Listings walk the tables: one at a time.
    listings: Arc<Semaphore>,
}

type Place = State<Arc<Desk>>;

async fn status(State(desk): Place) -> Response {
    json(&desk.admin.status())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttackQuery {
    service: Option<String>,
}

async fn attacks(State(desk): Place, query: Result<Query<AttackQuery>, QueryRejection>) -> Answer {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    if let Some(name) = &query.service {
        known_service(&desk.admin, name)?;
    }
    let mut attacks = desk.admin.board.events();
    attacks.retain(|event| query.service.as_ref().is_none_or(|name| event.service == *name));
    Ok(json(&Attacks { attacks, time: unix_time().as_secs_f64() }))
}

async fn blocks(State(desk): Place) -> Response {
    all_blocks(&desk.admin)
}

async fn block(State(desk): Place, Extension(peer): Extension<Peer>, body: Body) -> Answer {
    let request: BlockRequest = parse(body)?;
    let prefix = prefix(&request.prefix)?;
    if let Some(seconds) = request.for_seconds.filter(|seconds| !(1..=MAX_BLOCK_SECONDS).contains(seconds)) {
        return Err(Problem::bad_request(format!(
            "for_seconds: {seconds} is out of range, 1 to {MAX_BLOCK_SECONDS}"
        )));
    }
    desk.admin.in_force.block(prefix, request.for_seconds.map(Duration::from_secs))?;
    tracing::info!(uid = peer.uid, %prefix, for_seconds = request.for_seconds, "blocked");
    Ok(all_blocks(&desk.admin))
}

async fn unblock(State(desk): Place, Extension(peer): Extension<Peer>, body: Body) -> Answer {
    let request: UnblockRequest = parse(body)?;
    let prefix = prefix(&request.prefix)?;
    desk.admin.in_force.unblock(prefix)?;
    tracing::info!(uid = peer.uid, %prefix, "unblocked");
    Ok(all_blocks(&desk.admin))
}

async fn mode(
    State(desk): Place,
    Path(name): Path<String>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Answer {
    let request: ModeRequest = parse(body)?;
    let mode = Mode::ALL.into_iter().find(|mode| mode.label() == request.mode);
    if mode.is_none() && request.mode != CONFIGURED {
        let message = format!("{:?} is no mode; there are: {}", request.mode, MODES.join(", "));
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_mode", message));
    }
    desk.admin.in_force.set_mode(&name, mode)?;
    let configured = known_service(&desk.admin, &name)?;
    let answer = ModeAnswer {
        mode: mode.unwrap_or(configured).label().to_owned(),
        configured_mode: configured.label().to_owned(),
        service: name,
    };
    tracing::info!(uid = peer.uid, service = answer.service, mode = answer.mode, "mode changed");
    Ok(json(&answer))
}

/// An answer, be it a problem.
type Answer = Result<Response, Problem>;

type Body = Result<Bytes, BytesRejection>;

fn all_blocks(admin: &Admin) -> Response {
    json(&Blocks { blocks: admin.in_force.blocks().iter().map(status::block).collect() })
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(mut text) => {
            text.push('\n');
            ([(CONTENT_TYPE, "application/json")], text).into_response()
        }
        Err(error) => {
            tracing::warn!(%error, "admin: an answer cannot be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The longest body of a request; the longest that makes sense is a hundred octets.
const MAX_BODY_OCTETS: usize = 4096;
