//! The commands that reach a running synwall through its admin socket.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::{Answer, CallError, Client};
use super::{Operation, Reach, Socket, complain, configured, print, text, top};
use crate::control::api::{
    Attacks, BlockRequest, Blocks, FlowQuery, Flows, ModeAnswer, ModeRequest, UnblockRequest,
};
use crate::control::status::{Health, Status};

/// Does what `operation` says; `config` is where the socket is told unless the command line tells.
pub(super) fn operate(config: &Path, operation: Operation) -> ExitCode {
    match operation {
        Operation::Status(reach) => reached(config, &reach.socket, DOWN, |client| status(client, reach.json)),
        Operation::Top(socket) => reached(config, &socket, FAILURE, top::run),
        Operation::Flows { prefix, service, state, limit, reach } => {
            let query = FlowQuery { prefix, service, state, limit };
            ask(config, &reach, Method::GET, &with_query("/v1/flows", &query), None, |flows: &Flows| {
                text::flows(flows)
            })
        }
        Operation::Attacks { service, reach } => {
            let query: Vec<_> = service.iter().map(|service| ("service", service)).collect();
            ask(config, &reach, Method::GET, &with_query("/v1/attacks", &query), None, |attacks: &Attacks| {
                text::attacks(attacks)
            })
        }
        Operation::Block { prefix, time, reach } => {
            let request = BlockRequest { prefix, for_seconds: time.map(|time| time.as_secs()) };
            ask(config, &reach, Method::POST, BLOCKS, body(&request), |blocks: &Blocks| {
                text::blocked(&request, blocks)
            })
        }
        Operation::Unblock { prefix, reach } => {
            let request = UnblockRequest { prefix };
            ask(config, &reach, Method::DELETE, BLOCKS, body(&request), |_: &Blocks| {
                format!("{} is no longer blocked\n", request.prefix)
            })
        }
        Operation::Blocks(reach) => ask(config, &reach, Method::GET, BLOCKS, None, text::blocks),
        Operation::Mode { service, mode, reach } => {
            if !service.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) {
                complain(&format!("no service {service:?}"));
                return ExitCode::from(FAILURE);
            }
            let path = format!("/v1/services/{service}/mode");
            ask(config, &reach, Method::PUT, &path, body(&ModeRequest { mode }), |answer: &ModeAnswer| {
                text::mode(answer)
            })
        }
    }
}

/// Sends one request and prints what came of it, as it came or as `show` words it.
fn ask<T: DeserializeOwned>(
    config: &Path,
    reach: &Reach,
    method: Method,
    path: &str,
    body: Option<String>,
    show: impl FnOnce(&T) -> String,
) -> ExitCode {
    reached(config, &reach.socket, FAILURE, |client| {
        let answer = client.call(method, path, body)?;
        Ok(if reach.json { print(answer.text()) } else { print(&show(&answer.read()?)) })
    })
}

fn status(client: &Client, as_json: bool) -> Result<ExitCode, CallError> {
    let answer: Answer = client.call(Method::GET, STATUS, None)?;
    let status: Status = answer.read()?;
    // Who asks by exit status may not read what is printed.
    let _ = if as_json { print(answer.text()) } else { print(&text::status(&status)) };
    Ok(match status.health {
        Health::Healthy => ExitCode::SUCCESS,
        Health::Degraded => ExitCode::from(FAILURE),
        Health::Down => ExitCode::from(DOWN),
    })
}

/// Does `act` with the synwall that is meant; whatever keeps it from that ends with `failed`.
fn reached(
    config: &Path,
    named: &Socket,
    failed: u8,
    act: impl FnOnce(&Client) -> Result<ExitCode, CallError>,
) -> ExitCode {
    let reach = |socket: PathBuf| {
        act(&Client::new(socket)).unwrap_or_else(|error| {
            complain(&error.to_string());
            ExitCode::from(failed)
        })
    };
    match &named.socket {
        Some(socket) => reach(socket.clone()),
        None => configured(config, |parsed| match parsed.admin.socket {
            Some(socket) => reach(socket),
            None => {
                let file = config.display();
                complain(&format!(
                    "{file} says that there is no admin socket: set [admin] socket, and restart synwall"
                ));
                ExitCode::from(failed)
            }
        }),
    }
}

fn with_query(path: &str, query: &impl Serialize) -> String {
    match serde_urlencoded::to_string(query) {
        Ok(query) if !query.is_empty() => format!("{path}?{query}"),
        Ok(_) | Err(_) => path.to_owned(),
    }
}

fn body(request: &impl Serialize) -> Option<String> {
    serde_json::to_string(request).ok()
}

/// The path of the status.
pub(super) const STATUS: &str = "/v1/status";
const BLOCKS: &str = "/v1/blocks";

const FAILURE: u8 = 1;
/// Of `status`: down, or not reachable.
const DOWN: u8 = 2;
