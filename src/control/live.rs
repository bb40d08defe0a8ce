//! What the live page shows, as JSON.
//!
//! Looks at the counters once a second and keeps what it saw ([`History`]); answers from that, the detector's board and
//! the ports. An answer is bounded: the samples of one service, at most [`MAX_EVENTS`] events that are over, and what
//! little there is of each service. Only ever reads; the packet threads do not notice.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use super::attacks::{Attack, Board, Traffic};
use super::history::{History, Present, Series};
use super::rotate::unix_time;
use crate::engine::{Shared, Side};
use crate::io::{Clock, MonotonicClock, PortStats};
use crate::time::Instant;

/// The history and the sources of everything else.
pub struct Live {
    shared: Arc<Shared>,
    ports: Arc<PortStats>,
    board: Arc<Board>,
    history: Mutex<History>,
}

/// What a page asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Query {
    /// Only samples younger than this, in seconds since 1970.
    pub after: f64,
    /// The samples of this service; of all together if empty.
    pub service: String,
}

/// What it gets.
#[derive(Debug, Serialize)]
struct Answer {
    /// Seconds since 1970, by the host's clock.
    time: f64,
    version: &'static str,
    ports: Vec<Port>,
    all: Present,
    services: Vec<Present>,
    /// Whose samples `series` has: the query's service, if there is such a one.
    service: String,
    series: Option<Series>,
    traffic: Vec<Traffic>,
    attacks: Vec<Attack>,
}

#[derive(Debug, Serialize)]
struct Port {
    port: &'static str,
    interface: String,
    up: bool,
    /// Frames lost before the engine saw them, since the start.
    receive_dropped: u64,
    /// Frames that could not be sent, since the start.
    send_failed: u64,
}

impl Live {
    /// An empty history of these.
    pub fn new(shared: Arc<Shared>, ports: Arc<PortStats>, board: Arc<Board>) -> Arc<Live> {
        Arc::new(Live { shared, ports, board, history: Mutex::default() })
    }

    /// Takes a sample each second, for ever.
    pub async fn watch(self: Arc<Self>, clock: MonotonicClock) {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            seconds.tick().await;
            self.sample(unix_time(), clock.now());
        }
    }

    /// Takes a sample at `now`, which is `unix` since 1970.
    pub fn sample(&self, unix: Duration, now: Instant) {
        let (snapshot, traffic) = (self.shared.snapshot(), self.board.traffic());
        self.lock().push(unix, now, &snapshot, &traffic);
    }

    /// The answer to `query` at `unix` since 1970.
    ///
    /// # Errors
    /// Something cannot be written as JSON, which would be a fault of this program.
    pub fn json(&self, query: &Query, unix: Duration) -> serde_json::Result<String> {
        let (services, all, series) = {
            let history = self.lock();
            (history.services(), history.all(), history.series(&query.service, query.after))
        };
        serde_json::to_string(&Answer {
            time: unix.as_secs_f64(),
            version: env!("CARGO_PKG_VERSION"),
            ports: self.ports(),
            all,
            services,
            service: query.service.clone(),
            series,
            traffic: self.board.traffic(),
            attacks: self.attacks(),
        })
    }

    fn ports(&self) -> Vec<Port> {
        let sum = |row: &[(&str, u64)]| row.iter().fold(0u64, |sum, (_, count)| sum.saturating_add(*count));
        let described = |(side, port): (Side, crate::io::PortSnapshot)| Port {
            port: side.port(),
            receive_dropped: sum(&port.receive_dropped),
            send_failed: sum(&port.send_failed),
            interface: port.interface,
            up: port.up,
        };
        Side::ALL.into_iter().zip(self.ports.snapshot().ports).map(described).collect()
    }

    /// Events that last, however old, and the newest of the others.
    fn attacks(&self) -> Vec<Attack> {
        let mut over = 0;
        let mut events = self.board.events();
        events.retain(|event| {
            over += usize::from(event.ended.is_some());
            event.ended.is_none() || over <= MAX_EVENTS
        });
        events
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Events of the past in an answer: what fits a page.
pub const MAX_EVENTS: usize = 50;
