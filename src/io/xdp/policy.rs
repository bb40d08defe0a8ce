//! The policy, as the program reads it: everything that the engine's decisions depend on and an operator can change.
//!
//! While more than one thing changes, all goes up to the engine ([`setting::BYPASS`]); so it stays if a policy does not fit.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::time::Duration;

use super::abi::{self, FEW_AREAS, PORT_BLOCK, PORT_BLOCKS, rule, service_flag, setting};
use super::areas::{self, AreaPlan, MappedPrefix};
use super::fast::nanos;
use super::trie::Entries;
use super::{Path, clock, locked};
use crate::cookie::KeyRing;
use crate::engine::Side;
use crate::engine::fast::Promises;
use crate::engine::policy::filter::Rule;
use crate::engine::policy::{MAX_SERVICES, Mode, Policy, Prefix, Rate, ServerOptions, Service};

/// Why a policy is not in force in the kernel: then everything goes up to the engine, which enforces it.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// More prefixes than the filter holds.
    #[error(
        "[filter] has {count} prefixes, and the XDP program holds {}: until there are fewer, all frames take the slow path",
        MAX_RULES
    )]
    TooManyRules {
        /// How many there are.
        count: usize,
    },
    /// The kernel refused an entry.
    #[error("the kernel does not take the {what}: {reason}; until it does, all frames take the slow path")]
    Refused {
        /// What of the policy.
        what: &'static str,
        /// What it said.
        reason: String,
    },
}

impl Path {
    /// Puts a policy in force, with what is promised in the name of its services, by their ids.
    ///
    /// # Errors
    /// It does not fit the maps. Then all goes up to the engine until one does.
    pub fn set_policy(&self, policy: &Policy, promises: &[Promises]) -> Result<(), Unfit> {
        let rules: Vec<(Prefix, Rule)> = policy.filter.rules().collect();
        let mut tries = locked(&self.tries);
        self.set_flag(setting::BYPASS, true);
        if rules.len() > MAX_RULES {
            return Err(Unfit::TooManyRules { count: rules.len() });
        }
        let areas = areas::areas(policy);
        let refused = |what| move |reason| Unfit::Refused { what, reason };
        tries.filter.replace(rules_of(&rules)).map_err(refused("filter"))?;
        tries.areas.replace(indices(&areas)).map_err(refused("addresses of the services"))?;
        self.write_areas(&areas);
        self.set_flag(setting::MANY_AREAS, areas.len() > FEW_AREAS);
        self.set_flag(setting::FILTER, !rules.is_empty());
        self.set_flag(setting::LINGERING, policy.lingering().is_some());
        for (mtu, side) in self.settings().mtu.iter().zip(Side::ALL) {
            mtu.store(policy.link_mtu(side), Relaxed);
        }
        self.write_services(policy);
        self.set_promises(policy, promises);
        self.set_flag(setting::BYPASS, false);
        Ok(())
    }

    /// Notes what is promised in the name of the services of the policy in force, by their ids.
    pub fn set_promises(&self, policy: &Policy, promises: &[Promises]) {
        for ((row, service), promises) in self.services.iter().zip(policy.services()).zip(promises) {
            row.flags.store(flags(service, promises), Relaxed);
            for (promised, wscale) in row.promised_wscale.iter().zip(promises.wscale) {
                promised.store(wscale, Relaxed);
            }
            for (mss, headers) in row.mss.iter().zip([40, 60]) {
                let limit = policy.mtu.saturating_sub(headers);
                mss.store(promises.server.mss.unwrap_or(limit).min(limit), Relaxed);
            }
        }
    }

    /// Takes up the keys of the two newest epochs: before the first cookie of the newer one is made.
    pub fn set_keys(&self, ring: &KeyRing) {
        let settings = self.settings();
        let keys = ring.by_parity();
        for ((slot, has_key), key) in settings.keys.iter().zip(&settings.has_key).zip(&keys) {
            let Some(key) = key else {
                has_key.store(0, Relaxed);
                continue;
            };
            for (to, from) in slot.iter().zip(key.iter()) {
                to.store(*from, Relaxed);
            }
            has_key.store(1, Release);
        }
        settings.parity.store(u8::from(ring.epoch() & 1 == 1), Release);
    }

    /// Wipes the keys. The program answers nothing any more.
    pub(super) fn forget_keys(&self) {
        let settings = self.settings();
        settings.has_key.iter().for_each(|has_key| has_key.store(0, SeqCst));
        settings.keys.iter().flatten().for_each(|word| word.store(0, SeqCst));
    }

    /// Says that the flows are tended to and what time it is: to be called a few times a second. Without it the program
    /// drops SYNs after two seconds.
    pub fn heartbeat(&self, unix: Duration) {
        self.set_clock(unix, clock());
        self.settings().alive_until.store(clock().saturating_add(nanos(LIFE)), Relaxed);
    }

    /// Says that Unix time was `unix` at `read_at`, in nanoseconds of CLOCK_MONOTONIC; in the future, the program's clock stands
    /// still until then. The two words are not written at once, so they are left alone as long as they tell the time.
    pub fn set_clock(&self, unix: Duration, read_at: u64) {
        let settings = self.settings();
        let offset = |unix: u64, read_at: u64| unix.wrapping_sub(read_at);
        let told = offset(settings.unix_nanos.load(Relaxed), settings.unix_read_at.load(Relaxed));
        let off_by = told.wrapping_sub(offset(nanos(unix), read_at)).cast_signed().unsigned_abs();
        if off_by >= nanos(DRIFT) || read_at > clock() {
            settings.unix_nanos.store(nanos(unix), Relaxed);
            settings.unix_read_at.store(read_at, Relaxed);
        }
    }

    /// Sets or clears one of the settings.
    pub(super) fn set_flag(&self, flag: u32, is_set: bool) {
        if is_set {
            self.settings().flags.fetch_or(flag, SeqCst);
        } else {
            self.settings().flags.fetch_and(!flag, SeqCst);
        }
    }

    fn write_areas(&self, areas: &[AreaPlan]) {
        for (area, plan) in self.areas.iter().zip(areas) {
            let pairs = area.address.iter().zip(plan.prefix.address);
            pairs
                .chain(area.mask.iter().zip(plan.prefix.mask()))
                .for_each(|(to, from)| to.store(from, Relaxed));
            area.is_protected.store(u32::from(plan.is_protected), Relaxed);
        }
        for (blocks, plan) in self.ports.chunks(PORT_BLOCKS).zip(areas) {
            for (block, services) in blocks.iter().zip(plan.ports.chunks(PORT_BLOCK)) {
                block.service.iter().zip(services).for_each(|(to, from)| to.store(*from, Relaxed));
            }
        }
        self.settings().areas.store(u32::try_from(areas.len()).unwrap_or(0), Relaxed);
    }

    fn write_services(&self, policy: &Policy) {
        for (row, service) in self.services.iter().zip(policy.services()) {
            write_service(row, service, self.settings().cpus.load(Relaxed));
        }
        for row in self.services.iter().skip(policy.services().len()) {
            row.mode.store(MODE_OFF, Relaxed);
            row.pressed.store(0, Relaxed);
        }
    }
}

fn write_service(row: &abi::Service, service: &Service, cpus: u32) {
    let Service { budgets, activate_at, .. } = service;
    row.mode.store(mode(service.mode), Relaxed);
    row.early_data.store(service.early_data, Relaxed);
    row.synack_chunk.store(chunk(budgets.synack, cpus), Relaxed);
    row.synack_interval.store(interval(budgets.synack), Relaxed);
    row.source_interval.store(interval(budgets.syn_per_source), Relaxed);
    row.reset_interval.store(interval(budgets.reset), Relaxed);
    let pressure = interval(NonZeroU32::new(activate_at.syn_rate));
    row.pressure_interval.store(pressure, Relaxed);
    row.pressure_window.store(pressure.saturating_mul(FEW).max(nanos(RATE_WINDOW)), Relaxed);
}

fn mode(mode: Mode) -> u8 {
    match mode {
        Mode::Off => MODE_OFF,
        Mode::Monitor => 1,
        Mode::Adaptive => 2,
        Mode::Always => 3,
    }
}

fn flags(service: &Service, promises: &Promises) -> u8 {
    let ServerOptions { wscale, sack, timestamps, ecn, .. } = promises.server;
    [
        (service.require_timestamps, service_flag::REQUIRE_TIMESTAMPS),
        (service.server_speaks_first, service_flag::SPEAKS_FIRST),
        (service.reset_unknown, service_flag::RESET_UNKNOWN),
        (promises.has_grace, service_flag::GRACE),
        (wscale.is_some(), service_flag::WSCALE),
        (sack, service_flag::SACK),
        (timestamps, service_flag::TIMESTAMPS),
        (ecn, service_flag::ECN),
    ]
    .into_iter()
    .fold(0, |flags, (is_set, flag)| if is_set { flags | flag } else { flags })
}

/// Nanoseconds an event, as `table::budget` has it.
fn interval(rate: Rate) -> u64 {
    rate.map_or(0, |rate| SECOND.checked_div(u64::from(rate.get())).unwrap_or(0).max(1))
}

/// What a CPU takes of the budget at a time: so little that what all of them hold is a hundredth of a second's.
fn chunk(rate: Rate, cpus: u32) -> u16 {
    let share =
        rate.map_or(MOST_AT_A_TIME, |rate| rate.get().checked_div(cpus.saturating_mul(100)).unwrap_or(0));
    u16::try_from(share.clamp(1, MOST_AT_A_TIME)).unwrap_or(1)
}

/// The rules by prefix. Where an IPv6 prefix would hold IPv4 addresses too, IPv4 has a rule that says nothing.
fn rules_of(rules: &[(Prefix, Rule)]) -> Entries {
    let hole = rules.iter().any(|(prefix, _)| MappedPrefix::swallows_ipv4(prefix));
    let entries = rules.iter().map(|(prefix, rule)| {
        let value = match rule {
            Rule::Deny => rule::DENY,
            Rule::Allow => rule::ALLOW,
        };
        (MappedPrefix::of(prefix), value)
    });
    hole.then_some((MappedPrefix::IPV4, rule::NONE)).into_iter().chain(entries).collect()
}

fn indices(areas: &[AreaPlan]) -> Entries {
    areas.iter().zip(0..).map(|(area, index)| (area.prefix, index)).collect()
}

/// One less than the map's size: there may be a hole.
const MAX_RULES: usize = 65_535;

const MODE_OFF: u8 = 0;

/// For how long the program goes on without hearing of this process.
const LIFE: Duration = Duration::from_secs(2);
/// How far the program's clock may be from Unix time: less than its unit in a cookie.
const DRIFT: Duration = Duration::from_millis(1);

/// As in `engine::pressure`.
const RATE_WINDOW: Duration = Duration::from_millis(100);
const FEW: u64 = 16;

const SECOND: u64 = 1_000_000_000;
const MOST_AT_A_TIME: u32 = 64;

const _: () = assert!(MAX_SERVICES < abi::SERVICE_ROWS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_and_chunks_follow_the_rate() {
        let rate = NonZeroU32::new;
        assert_eq!([rate(0), rate(1), rate(1_000), rate(u32::MAX)].map(interval), [0, SECOND, 1_000_000, 1]);
        assert_eq!(chunk(None, 4), 64);
        assert_eq!([10, 1_000, 10_000, 5_000_000].map(|n| chunk(rate(n), 4)), [1, 2, 25, 64]);
    }

    #[test]
    fn all_that_is_promised_becomes_flags() {
        let none = ServerOptions { mss: None, wscale: None, sack: false, timestamps: false, ecn: false };
        let all = ServerOptions { mss: None, wscale: Some(0), sack: true, timestamps: true, ecn: true };
        let promises = |server, has_grace| Promises { server, wscale: [7; 2], has_grace };
        assert_eq!(flags(&Service::default(), &promises(none, false)), 0);
        let service = Service {
            require_timestamps: true,
            server_speaks_first: true,
            reset_unknown: true,
            ..Service::default()
        };
        assert_eq!(flags(&service, &promises(all, true)), 0xff);
    }

    #[test]
    fn a_rule_for_all_of_ipv6_is_none_for_ipv4() {
        let prefix = |text: &str, len| Prefix::new(text.parse().unwrap(), len).unwrap();
        let all = rules_of(&[(prefix("::", 0), Rule::Deny)]);
        assert_eq!(all.get(&MappedPrefix::IPV4), Some(&rule::NONE));
        let both = rules_of(&[(prefix("::", 0), Rule::Deny), (prefix("0.0.0.0", 0), Rule::Allow)]);
        assert_eq!(both.get(&MappedPrefix::IPV4), Some(&rule::ALLOW));
        assert_eq!(rules_of(&[(prefix("2001:db8::", 32), Rule::Deny)]).len(), 1);
    }
}
