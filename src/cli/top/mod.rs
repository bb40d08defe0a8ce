//! `synwall top`: a screen that is drawn anew each second.
//!
//! One thread asks, this one draws and listens to the keyboard, so that a synwall that is slow or gone holds up neither. The
//! terminal is put back however it ends: by `q`, by a signal, by a panic (ratatui's hook).

mod view;

use std::io::{IsTerminal, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use hyper::Method;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{CallError, Client};
use super::complain;
use super::operate::STATUS;
use crate::control::status::Status;
use view::View;

/// Shows the synwall behind `client` until the operator has seen enough.
///
/// # Errors
/// It does not answer at the very start.
pub(super) fn run(client: &Client) -> Result<ExitCode, CallError> {
    if !(stdin().is_terminal() && stdout().is_terminal()) {
        complain("top needs a terminal; `synwall status --json` is for programs");
        return Ok(ExitCode::FAILURE);
    }
    let first: Status = client.call(Method::GET, STATUS, None)?.read()?;
    let (sender, news) = channel();
    let socket = client.socket().to_owned();
    // It ends with the process.
    std::thread::spawn(move || watch(socket, &sender));
    let shown = ratatui::try_init().and_then(|terminal| show(terminal, View::new(first), &news));
    ratatui::restore();
    if let Err(error) = shown {
        complain(&format!("the terminal cannot be used: {error}"));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// What the asking thread tells the drawing one.
enum News {
    Status(Box<Status>),
    Trouble(String),
    /// A signal says that it is enough.
    Quit,
}

fn watch(socket: PathBuf, news: &Sender<News>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.and_then(|runtime| runtime.block_on(ask_each_second(&socket, news)));
    if let Err(error) = outcome {
        let _ = news.send(News::Trouble(format!("cannot watch: {error}")));
    }
}

async fn ask_each_second(socket: &Path, news: &Sender<News>) -> std::io::Result<()> {
    let client = Client::new(socket.to_owned());
    let (mut terminate, mut hang_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let mut second = tokio::time::interval(SECOND);
    second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let told = tokio::select! {
            _ = terminate.recv() => News::Quit,
            _ = hang_up.recv() => News::Quit,
            _ = second.tick() => match client.ask(Method::GET, STATUS, None).await.and_then(|answer| answer.read()) {
                Ok(status) => News::Status(Box::new(status)),
                Err(error) => News::Trouble(error.to_string()),
            },
        };
        // The other thread has ended, and the process is about to.
        if news.send(told).is_err() {
            return Ok(());
        }
    }
}

fn show(mut terminal: DefaultTerminal, mut view: View, news: &Receiver<News>) -> std::io::Result<()> {
    loop {
        terminal.draw(|frame| view.draw(frame))?;
        loop {
            match news.try_recv() {
                Ok(News::Status(status)) => view.update(*status),
                Ok(News::Trouble(what)) => view.notice = Some(what),
                Ok(News::Quit) => return Ok(()),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    view.notice.get_or_insert("nobody asks any more".to_owned());
                    break;
                }
            }
        }
        if event::poll(GLANCE)? && heed(&event::read()?, &mut view) {
            return Ok(());
        }
    }
}

/// Does what a key says; whether that is to quit.
fn heed(event: &Event, view: &mut View) -> bool {
    let Event::Key(key) = event else { return false };
    if key.kind == KeyEventKind::Release {
        return false;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Up | KeyCode::Char('k') => view.select_previous(),
        KeyCode::Down | KeyCode::Char('j') => view.select_next(),
        _ => {}
    }
    false
}

/// How often synwall is asked.
const SECOND: Duration = Duration::from_secs(1);

/// How long the keyboard is listened to before news are looked for.
const GLANCE: Duration = Duration::from_millis(100);
