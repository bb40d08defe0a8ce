//! The hook: a program of the operator's that is told of attacks.
//!
//! It runs in a task and a process group of its own, gets the event as JSON, and is killed with all its children when it
//! takes too long. Nothing ever waits for it: events that find too many others waiting are dropped, logged and counted.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::attacks::{Attack, Board, HookRun};
use crate::config::Hook;

/// Why a program will not run.
#[derive(Debug, Error)]
pub enum HookError {
    /// Nothing there, or nothing that can be seen.
    #[error("hook {path} cannot be used: {error}: put the program there, or change [attack] hook")]
    Missing {
        /// The program.
        path: String,
        /// What the system answered.
        error: std::io::Error,
    },
    /// A directory, or not executable.
    #[error("hook {path} is not a program that this user may execute: make it one with `chmod +x {path}`")]
    NotExecutable {
        /// The program.
        path: String,
    },
}

/// Whether `program` can be run, as far as can be told without running it.
///
/// # Errors
/// It cannot.
pub fn examine(program: &Path) -> Result<(), HookError> {
    let path = program.display().to_string();
    let is_file = match std::fs::metadata(program) {
        Ok(metadata) => metadata.is_file(),
        Err(error) => return Err(HookError::Missing { path, error }),
    };
    if is_file && access(program, AccessFlags::X_OK).is_ok() {
        Ok(())
    } else {
        Err(HookError::NotExecutable { path })
    }
}

/// What the hook is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// An event has begun.
    Start,
    /// It is over.
    End,
}

impl Occasion {
    /// The value of `SYNWALL_EVENT`.
    pub const fn label(self) -> &'static str {
        match self {
            Occasion::Start => "start",
            Occasion::End => "end",
        }
    }
}

/// Hands events to the hook's task. The task ends with the value, and with it what runs.
pub struct Runner {
    queue: mpsc::Sender<Job>,
    board: Arc<Board>,
}

struct Job {
    occasion: Occasion,
    id: String,
    json: Vec<u8>,
}

impl Runner {
    /// A runner of `hook`, as a task of the present runtime, that counts on `board` how runs end.
    pub fn start(hook: Hook, board: Arc<Board>) -> Runner {
        let (queue, jobs) = mpsc::channel(MAX_WAITING);
        tokio::spawn(serve(hook, jobs, board.clone()));
        Runner { queue, board }
    }

    /// Has the hook told of `event`, after all that it was to be told of before.
    pub fn tell(&self, occasion: Occasion, event: &Attack) {
        let json = match serde_json::to_vec(event) {
            Ok(json) => json,
            Err(error) => {
                return tracing::error!(id = event.id, %error, "hook: the event cannot be written as JSON");
            }
        };
        if self.queue.try_send(Job { occasion, id: event.id.clone(), json }).is_err() {
            self.board.count_hook_run(HookRun::Dropped);
            tracing::warn!(
                id = event.id,
                occasion = occasion.label(),
                "hook: dropped, {MAX_WAITING} events wait already"
            );
        }
    }
}

/// One after the other: nobody is told of an end before its start.
async fn serve(hook: Hook, mut jobs: mpsc::Receiver<Job>, board: Arc<Board>) {
    while let Some(job) = jobs.recv().await {
        let occasion = job.occasion.label();
        let run = match run(&hook, &job).await {
            Ok(()) => HookRun::Ok,
            Err(Failure::Timeout) => {
                tracing::warn!(id = job.id, occasion, timeout = ?hook.timeout, "hook: killed, it took too long");
                HookRun::Timeout
            }
            Err(Failure::Other(what)) => {
                tracing::warn!(id = job.id, occasion, "hook: failed: {what}");
                HookRun::Failed
            }
        };
        board.count_hook_run(run);
    }
}

enum Failure {
    Timeout,
    Other(String),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Other(error.to_string())
    }
}

async fn run(hook: &Hook, job: &Job) -> Result<(), Failure> {
    let mut child = spawn(hook, job.occasion)?;
    // However this ends, be it that the runtime does: what was started goes with it.
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let stdin = child.stdin.take();
    let feed_and_wait = async {
        if let Some(mut stdin) = stdin {
            // A program need not read what it is told.
            let _ = stdin.write_all(&job.json).await;
        }
        child.wait().await
    };
    let Ok(status) = tokio::time::timeout(hook.timeout, feed_and_wait).await else {
        group.kill();
        child.wait().await?;
        return Err(Failure::Timeout);
    };
    // What it left behind on purpose may go on; its number may be another's from now on.
    group.0 = None;
    let status = status?;
    if status.success() { Ok(()) } else { Err(Failure::Other(status.to_string())) }
}

/// Starts the program. What it writes to standard error comes with synwall's own.
fn spawn(hook: &Hook, occasion: Occasion) -> std::io::Result<Child> {
    Command::new(&hook.program)
        .args(&hook.arguments)
        .env("SYNWALL_EVENT", occasion.label())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
}

/// The process group of a child that was not waited for yet, so that its number is no other's.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // It may have ended just now.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Events that may wait for the hook; bounds what a hook that hangs makes synwall remember.
pub const MAX_WAITING: usize = 16;
