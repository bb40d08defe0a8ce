//! What the ports lost, and whether they are up: written by the workers on their slow paths, read by `metrics`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::BySide;
use crate::engine::Side;

/// Declares a cause with its metric label and a row of counters for it.
macro_rules! causes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every cause.
            pub const ALL: [$name; [$($label),*].len()] = [$($name::$variant),*];

            /// The label in the metrics.
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }
        }
    };
}

causes! {
    /// Where a frame that arrived was lost before the engine saw it: the label `where` of `receive_dropped_total`.
    ReceiveDrop {
        /// The socket's queue was full: the worker is too slow.
        Kernel => "kernel",
        /// Longer than any frame that fits a buffer (BIG TCP).
        Truncated => "truncated",
        /// A super-frame of a kind that a `virtio_net_hdr` cannot describe.
        Offload => "offload",
        /// Any other error of the socket.
        Error => "error",
    }
}

causes! {
    /// Why a frame was not transmitted.
    SendFailure {
        /// The interface's queue is full (ENOBUFS): the link is slower than what is sent.
        QueueFull => "queue_full",
        /// The socket's send buffer is full (EAGAIN).
        NotReady => "not_ready",
        /// The interface is down or gone (ENETDOWN, ENXIO, ENODEV).
        PortDown => "port_down",
        /// Longer than the interface's MTU allows (EMSGSIZE).
        TooLong => "too_long",
        /// The kernel refused it for any other reason.
        Refused => "refused",
    }
}

/// The statistics of both ports, shared by all workers and whoever reads them.
#[derive(Debug)]
pub struct PortStats {
    ports: BySide<PortCounters>,
}

#[derive(Debug)]
struct PortCounters {
    interface: String,
    up: AtomicBool,
    held_down: AtomicBool,
    receive_dropped: [AtomicU64; ReceiveDrop::ALL.len()],
    send_failed: [AtomicU64; SendFailure::ALL.len()],
}

impl PortStats {
    /// All counters at zero, both ports up; the names are those of the interfaces, for the log.
    pub fn new(outside: &str, inside: &str) -> PortStats {
        PortStats { ports: BySide::new(PortCounters::new(outside), PortCounters::new(inside)) }
    }

    /// Counts `count` frames that arrived on `side` and were lost.
    pub fn count_receive_dropped(&self, side: Side, cause: ReceiveDrop, count: u64) {
        if let Some(counter) = self.ports.at(side).receive_dropped.get(cause as usize) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Counts a frame that was not transmitted on `side`.
    pub fn count_send_failed(&self, side: Side, cause: SendFailure) {
        if let Some(counter) = self.ports.at(side).send_failed.get(cause as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes whether the port on `side` is up; a change is logged, once, by whichever worker notices first.
    pub fn set_up(&self, side: Side, up: bool) {
        let port = self.ports.at(side);
        if port.up.load(Ordering::Relaxed) == up || port.up.swap(up, Ordering::Relaxed) == up {
            return;
        }
        if up {
            tracing::info!(port = side.port(), interface = port.interface, "port is up");
        } else {
            tracing::warn!(port = side.port(), interface = port.interface, "port is down");
        }
    }

    /// Notes whether the port on `side` is held down because the other one has no carrier.
    pub fn set_held_down(&self, side: Side, is_held: bool) {
        self.ports.at(side).held_down.store(is_held, Ordering::Relaxed);
    }

    /// The values at the moment.
    pub fn snapshot(&self) -> IoSnapshot {
        IoSnapshot { ports: Side::ALL.map(|side| self.ports.at(side).snapshot()) }
    }
}

impl PortCounters {
    fn new(interface: &str) -> PortCounters {
        PortCounters {
            interface: interface.to_owned(),
            up: AtomicBool::new(true),
            held_down: AtomicBool::new(false),
            receive_dropped: Default::default(),
            send_failed: Default::default(),
        }
    }

    fn snapshot(&self) -> PortSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PortSnapshot {
            interface: self.interface.clone(),
            up: self.up.load(Ordering::Relaxed),
            held_down: self.held_down.load(Ordering::Relaxed),
            receive_dropped: ReceiveDrop::ALL
                .iter()
                .zip(&self.receive_dropped)
                .map(|(cause, counter)| (cause.label(), read(counter)))
                .collect(),
            send_failed: SendFailure::ALL
                .iter()
                .zip(&self.send_failed)
                .map(|(cause, counter)| (cause.label(), read(counter)))
                .collect(),
        }
    }
}

/// Both ports at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoSnapshot {
    /// By [`Side::index`].
    pub ports: [PortSnapshot; 2],
}

/// One port at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSnapshot {
    /// The interface's name.
    pub interface: String,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Whether it is held down because the other port has no carrier.
    pub held_down: bool,
    /// Frames lost before the engine saw them, by [`ReceiveDrop::label`].
    pub receive_dropped: Vec<(&'static str, u64)>,
    /// Frames that were not transmitted, by [`SendFailure::label`].
    pub send_failed: Vec<(&'static str, u64)>,
}

impl PortSnapshot {
    /// The sum of all losses, for a health check that only asks whether there were any.
    pub fn lost(&self) -> u64 {
        let sum = |row: &[(&'static str, u64)]| row.iter().map(|(_, count)| count).sum::<u64>();
        sum(&self.receive_dropped).saturating_add(sum(&self.send_failed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_own_counter_and_label() {
        let stats = PortStats::new("eth0", "eth1");
        for (count, cause) in (1..).zip(ReceiveDrop::ALL) {
            stats.count_receive_dropped(Side::Server, cause, count);
        }
        stats.count_send_failed(Side::Client, SendFailure::TooLong);
        let [outside, inside] = stats.snapshot().ports;
        assert_eq!(inside.receive_dropped, [("kernel", 1), ("truncated", 2), ("offload", 3), ("error", 4)]);
        assert_eq!(outside.lost(), 1);
        assert!(outside.send_failed.contains(&("too_long", 1)));
    }

    #[test]
    fn up_and_down_are_kept_apart_by_side() {
        let stats = PortStats::new("eth0", "eth1");
        stats.set_up(Side::Server, false);
        let [outside, inside] = stats.snapshot().ports;
        assert!(outside.up && !inside.up);
        stats.set_up(Side::Server, true);
        assert!(stats.snapshot().ports[1].up);
    }
}
