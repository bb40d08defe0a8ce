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
        .filter(|heavy| heavy.share >= LEAST_SHARE)
        .map(|heavy| format!("{} {:.0}%", heavy.prefix, heavy.share * 100.0))
        .take(LOGGED_PREFIXES)
        .collect();
    shown.join(", ")
}

/// Time between two looks: also bounds how late an event begins.
const PERIOD: Duration = Duration::from_millis(250);

/// Prefixes in a log line.
const LOGGED_PREFIXES: usize = 3;

/// A prefix with less of the SYNs would be said to have 0%.
const LEAST_SHARE: f64 = 0.005;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::control::attacks::{HeavyPrefix, Kind, Totals};

    fn event(kind: Kind, ended: Option<f64>) -> Attack {
        let heavy = |prefix: &str, share| HeavyPrefix { prefix: prefix.to_owned(), share };
        Attack {
            id: "1790000000-1".to_owned(),
            service: "web".to_owned(),
            kind,
            started: 1_790_000_000.25,
            ended,
            peak_syn_rate: 5_000.4,
            peak_half_open: 128,
            totals: Totals { syns: 9, cookies_sent: 8, completed: 7, dropped: 6 },
            distinct_sources: 5,
            new_source_share: 0.1239,
            completed_share: 0.25,
            top_prefixes: vec![heavy("198.18.3.0/24", 0.614), heavy("2001:db8:0:7::/64", 0.2)],
            source_ports: 4,
            top_ports: Vec::new(),
            hop_limits: [57, 64],
        }
    }

    /// What is logged in JSON while `changes` are passed on.
    fn logged(changes: &[Change], board: &Board) -> Vec<serde_json::Value> {
        let written: Arc<Mutex<Vec<u8>>> = Arc::default();
        struct Writer(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Writer {
            fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(octets)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(move || Writer(writer.clone()))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            changes.iter().for_each(|change| pass_on(change, board, None));
        });
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn an_event_is_one_line_at_its_start_and_one_at_its_end() {
        let board = Board::default();
        let [lasting, over] = [None, Some(1_790_000_010.5)].map(|ended| event(Kind::SpoofedSyn, ended));
        let changes = [
            Change::Started(event(Kind::FewSources, None)),
            Change::Updated(lasting.clone()),
            Change::Settled(lasting.clone()),
        ];
        let lines = logged(&changes, &board);
        assert_eq!(lines.len(), 1);
        assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&"WARN".into(), &"attack began".into()));
        for (field, value) in [
            ("id", serde_json::Value::from("1790000000-1")),
            ("service", "web".into()),
            ("kind", "few_sources".into()),
            ("syn_rate", 5_000.0.into()),
            ("half_open", 128.into()),
            ("new_source_share", 0.124.into()),
            ("top_prefixes", "198.18.3.0/24 61%, 2001:db8:0:7::/64 20%".into()),
        ] {
            assert_eq!(lines[0][field], value, "{field}");
        }
        assert_eq!((board.current("web"), board.events().len()), (Some(lasting), 1));
        let lines = logged(&[Change::Ended(over.clone())], &board);
        assert_eq!((lines.len(), &lines[0]["message"]), (1, &"attack ended".into()));
        assert_eq!(
            (&lines[0]["seconds"], &lines[0]["syns"], &lines[0]["dropped"]),
            (&10.25.into(), &9.into(), &6.into())
        );
        assert_eq!((board.current("web"), board.events()), (None, vec![over]));
        assert!(board.counts().contains(&("web".to_owned(), Kind::SpoofedSyn, 1)));
        assert_eq!(
            board.counts().iter().map(|(_, _, count)| count).sum::<u64>(),
            1,
            "as what it was when it settled"
        );
    }

    #[test]
    fn a_crowd_is_no_warning() {
        let lines = logged(
            &[
                Change::Started(event(Kind::Crowd, None)),
                Change::Ended(event(Kind::Crowd, Some(1_790_000_001.0))),
            ],
            &Board::default(),
        );
        let said: Vec<_> = lines.iter().map(|line| (&line["level"], &line["message"])).collect();
        assert_eq!(said, [(&"INFO".into(), &"crowd came".into()), (&"INFO".into(), &"crowd went".into())]);
    }
}
