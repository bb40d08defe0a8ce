//! Feeds the detector, and passes on what it finds: to the board, to the log and to the hook.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::{Change, Detector};
use crate::config::Hook;
use crate::control::attacks::{Attack, Board};
use crate::control::hook::{Occasion, Runner};
use crate::control::key::{self, KeyError};
use crate::control::rotate::unix_time;
use crate::engine::Shared;
use crate::engine::sightings::CAPACITY;

/// Starts detection, as a task of the present runtime.
///
/// # Errors
/// The system gives no random numbers.
pub fn start(shared: Arc<Shared>, board: Arc<Board>, hook: Option<Hook>) -> Result<JoinHandle<()>, KeyError> {
    let mut detector = Detector::new(key::hash_key()?);
    let runner = hook.map(|hook| Runner::start(hook, board.clone()));
    Ok(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            look(&mut detector, &shared, &board, runner.as_ref());
        }
    }))
}

/// One look: what was sighted since the last, and what follows.
fn look(detector: &mut Detector, shared: &Shared, board: &Board, runner: Option<&Runner>) {
    // More than fit come only while it is being emptied.
    for sighting in std::iter::from_fn(|| shared.next_sighting()).take(CAPACITY) {
        detector.note(&sighting);
    }
    let changes = detector.review(unix_time(), &shared.snapshot());
    shared.set_sampling(detector.sampling());
    board.set_traffic(detector.traffic());
    for change in changes {
        pass_on(&change, board, runner);
    }
}

fn pass_on(change: &Change, board: &Board, runner: Option<&Runner>) {
    match change {
        Change::Started(event) => {
            board.put(event);
            log_start(event);
            if let Some(runner) = runner {
                runner.tell(Occasion::Start, event);
            }
        }
        Change::Updated(event) => board.put(event),
        Change::Settled(event) => board.count(&event.service, event.kind),
        Change::Ended(event) => {
            board.put(event);
            log_end(event);
            if let Some(runner) = runner {
                runner.tell(Occasion::End, event);
            }
        }
    }
}

/// A crowd is worth knowing, too, but nothing to be warned of.
fn log_start(event: &Attack) {
    macro_rules! log {
        ($log:ident, $message:literal) => {
            tracing::$log!(
                id = event.id,
                service = event.service,
                kind = event.kind.label(),
                syn_rate = event.peak_syn_rate.round(),
                half_open = event.peak_half_open,
                distinct_sources = event.distinct_sources,
                completed_share = rounded(event.completed_share),
                new_source_share = rounded(event.new_source_share),
                top_prefixes = prefixes(event),
                $message
            )
        };
    }
    if event.kind.is_attack() { log!(warn, "attack began") } else { log!(info, "crowd came") }
}

fn log_end(event: &Attack) {
    macro_rules! log {
        ($log:ident, $message:literal) => {
            tracing::$log!(
                id = event.id,
                service = event.service,
                kind = event.kind.label(),
                seconds = rounded(event.ended.unwrap_or(event.started) - event.started),
                peak_syn_rate = event.peak_syn_rate.round(),
                peak_half_open = event.peak_half_open,
                syns = event.totals.syns,
                cookies_sent = event.totals.cookies_sent,
                completed = event.totals.completed,
                dropped = event.totals.dropped,
                distinct_sources = event.distinct_sources,
                completed_share = rounded(event.completed_share),
                new_source_share = rounded(event.new_source_share),
                top_prefixes = prefixes(event),
                $message
            )
        };
    }
    if event.kind.is_attack() { log!(warn, "attack ended") } else { log!(info, "crowd went") }
}

/// Three decimals say all that an estimate has to say.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// Such as `198.18.3.0/24 61%, 198.18.9.0/24 12%`; empty if none stands out.
fn prefixes(event: &Attack) -> String {
    let shown: Vec<String> = event
        .top_prefixes
        .iter()
        .map(|heavy| format!("{} {:.0}%", heavy.prefix, heavy.share * 100.0))
        .take(LOGGED_PREFIXES)
        .collect();
    shown.join(", ")
}

/// Time between two looks: also bounds how late an event begins.
const PERIOD: Duration = Duration::from_millis(250);

/// Prefixes in a log line.
const LOGGED_PREFIXES: usize = 3;
