//! What an operator changes in a running synwall: blocked prefixes and modes of services, laid over the configuration.
//!
//! They survive a reload and end with the process: what is to stay belongs in the file. Plain values; `in_force` puts them
//! in force.

use std::collections::{BTreeMap, HashMap};

use thiserror::Error;

use crate::config::Config;
use crate::engine::policy::{Mode, PolicyError, Prefix};
use crate::time::Instant;

/// Why a change is refused; nothing has changed.
#[derive(Debug, Error)]
pub enum OverrideError {
    /// It would lock out everybody.
    #[error("{0} is every address: block longer prefixes")]
    Everything(Prefix),
    /// The configuration says the opposite.
    #[error(
        "{0} is allowed by [filter] allow, which a block of the same prefix cannot overrule: block parts of it, or change the file and reload"
    )]
    Allowed(Prefix),
    /// The configuration says the same.
    #[error("{0} is denied by [filter] deny already")]
    Denied(Prefix),
    /// As many as there may be.
    #[error("{MAX_BLOCKS} prefixes are blocked, which is the most: unblock some, or block shorter prefixes")]
    TooMany,
    /// There is nothing to end.
    #[error("{0} is not blocked")]
    NotBlocked(Prefix),
    /// No service has this name.
    #[error("no service {name:?}; there are: {}", known.join(", "))]
    NoService {
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// The engine refuses the policy.
    #[error("{0}")]
    Policy(#[from] PolicyError),
}

/// The changes at a moment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Each with its end, if it has one.
    blocks: HashMap<Prefix, Option<Instant>>,
    /// By service.
    modes: BTreeMap<String, Mode>,
}

impl Overrides {
    /// The configuration with the changes laid over it.
    pub fn over(&self, config: &Config) -> Config {
        let mut changed = config.clone();
        for service in &mut changed.services {
            service.mode = self.modes.get(&service.name).copied().unwrap_or(service.mode);
        }
        changed.filter.deny.extend(self.blocks.keys());
        changed
    }

    /// Blocks `prefix`, until `end` if there is one; a prefix that is blocked gets the new end.
    ///
    /// # Errors
    /// It must not be blocked, or there are too many.
    pub fn block(
        &mut self,
        config: &Config,
        prefix: Prefix,
        end: Option<Instant>,
    ) -> Result<(), OverrideError> {
        if prefix.is_empty() {
            return Err(OverrideError::Everything(prefix));
        }
        if config.filter.allow.contains(&prefix) {
            return Err(OverrideError::Allowed(prefix));
        }
        if config.filter.deny.contains(&prefix) {
            return Err(OverrideError::Denied(prefix));
        }
        if self.blocks.len() >= MAX_BLOCKS && !self.blocks.contains_key(&prefix) {
            return Err(OverrideError::TooMany);
        }
        self.blocks.insert(prefix, end);
        Ok(())
    }

    /// Ends the block of `prefix`.
    ///
    /// # Errors
    /// There is none.
    pub fn unblock(&mut self, prefix: Prefix) -> Result<(), OverrideError> {
        self.blocks.remove(&prefix).map(|_| ()).ok_or(OverrideError::NotBlocked(prefix))
    }

    /// Gives the service `name` a mode of its own, or the configured one again.
    ///
    /// # Errors
    /// There is no such service.
    pub fn set_mode(&mut self, config: &Config, name: &str, mode: Option<Mode>) -> Result<(), OverrideError> {
        if !config.services.iter().any(|service| service.name == name) {
            let known = config.services.iter().map(|service| service.name.clone()).collect();
            return Err(OverrideError::NoService { name: name.to_owned(), known });
        }
        match mode {
            Some(mode) => self.modes.insert(name.to_owned(), mode),
            None => self.modes.remove(name),
        };
        Ok(())
    }

    /// Ends the blocks whose time is over; which those were.
    pub fn expire(&mut self, now: Instant) -> Vec<Prefix> {
        let is_over = |end: &Option<Instant>| end.is_some_and(|end| end <= now);
        self.blocks.extract_if(|_, end| is_over(end)).map(|(prefix, _)| prefix).collect()
    }

    /// Whether a block is over.
    pub fn has_expired(&self, now: Instant) -> bool {
        self.blocks.values().any(|end| end.is_some_and(|end| end <= now))
    }

    /// Drops what a new configuration leaves no room for: modes of services that are gone, blocks of what it now allows.
    /// What was dropped, in words.
    pub fn fit(&mut self, config: &Config) -> Vec<String> {
        let is_there = |name: &String| config.services.iter().any(|service| service.name == *name);
        let modes = self.modes.extract_if(.., |name, _| !is_there(name));
        let mut dropped: Vec<String> =
            modes.map(|(name, mode)| format!("mode {} of service {name}", mode.label())).collect();
        let blocks = self.blocks.extract_if(|prefix, _| config.filter.allow.contains(prefix));
        dropped.extend(blocks.map(|(prefix, _)| format!("block of {prefix}")));
        dropped
    }

    /// The blocked prefixes with their ends, in the order of addresses.
    pub fn blocks(&self) -> Vec<(Prefix, Option<Instant>)> {
        let mut blocks: Vec<_> = self.blocks.iter().map(|(prefix, end)| (*prefix, *end)).collect();
        blocks.sort_by_key(|(prefix, _)| (prefix.network(), prefix.len()));
        blocks
    }
}

/// The most blocked prefixes: bounds memory and the time that a change takes.
pub const MAX_BLOCKS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn config(more: &str) -> Config {
        let text = "[bridge]\noutside = \"a\"\ninside = \"b\"\n[[service]]\nname = \"web\"\naddress = \"198.18.0.1\"\nports = [80]\n";
        Config::parse("test", &format!("{text}{more}")).unwrap()
    }

    fn prefix(text: &str) -> Prefix {
        crate::config::parse_prefix(text).unwrap()
    }

    #[test]
    fn blocks_and_modes_lie_over_the_configuration() {
        let (config, mut overrides) = (config(""), Overrides::default());
        assert_eq!(overrides.over(&config), config);
        overrides.block(&config, prefix("198.18.3.0/24"), None).unwrap();
        overrides.set_mode(&config, "web", Some(Mode::Monitor)).unwrap();
        let over = overrides.over(&config);
        assert_eq!((over.services[0].mode, over.filter.deny), (Mode::Monitor, vec![prefix("198.18.3.0/24")]));
        overrides.set_mode(&config, "web", None).unwrap();
        overrides.unblock(prefix("198.18.3.0/24")).unwrap();
        assert_eq!(overrides.over(&config), config);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_reason() {
        let config = config("[filter]\nallow = [\"198.18.1.0/24\"]\ndeny = [\"198.18.2.0/24\"]\n");
        let mut overrides = Overrides::default();
        for (text, start) in [
            ("0.0.0.0/0", "0.0.0.0/0 is every address"),
            ("::/0", "::/0 is every address"),
            ("198.18.1.0/24", "198.18.1.0/24 is allowed by [filter] allow"),
            ("198.18.2.0/24", "198.18.2.0/24 is denied by [filter] deny already"),
        ] {
            let prefix = Prefix::new(
                text.split('/').next().unwrap().parse().unwrap(),
                text.rsplit('/').next().unwrap().parse().unwrap(),
            );
            let refused = overrides.block(&config, prefix.unwrap(), None).unwrap_err().to_string();
            assert!(refused.starts_with(start), "{refused}");
        }
        let refused = overrides.unblock(prefix("198.18.9.0/24")).unwrap_err().to_string();
        assert_eq!(refused, "198.18.9.0/24 is not blocked");
        let refused = overrides.set_mode(&config, "wbe", Some(Mode::Off)).unwrap_err().to_string();
        assert_eq!(refused, "no service \"wbe\"; there are: web");
        assert_eq!(overrides.over(&config), config);
    }

    #[test]
    fn there_are_at_most_ten_thousand_blocks() {
        let (config, mut overrides) = (config(""), Overrides::default());
        let nth = |n: u32| Prefix::host(std::net::Ipv4Addr::from(0xc612_0000 + n).into());
        (0..10_000).for_each(|n| overrides.block(&config, nth(n), None).unwrap());
        assert!(matches!(overrides.block(&config, nth(10_000), None), Err(OverrideError::TooMany)));
        overrides.block(&config, nth(3), Some(Instant::ZERO)).unwrap();
        overrides.expire(Instant::ZERO);
        overrides.block(&config, nth(10_000), None).unwrap();
    }

    #[test]
    fn a_block_ends_when_its_time_is_over_and_not_before() {
        let (config, mut overrides) = (config(""), Overrides::default());
        let end = Instant::ZERO.after(Duration::from_secs(10));
        overrides.block(&config, prefix("2001:db8::/32"), Some(end)).unwrap();
        overrides.block(&config, prefix("198.18.3.0/24"), None).unwrap();
        let before = end.before(Duration::from_nanos(1));
        assert!(!overrides.has_expired(before) && overrides.expire(before).is_empty());
        assert!(overrides.has_expired(end));
        assert_eq!(overrides.expire(end), [prefix("2001:db8::/32")]);
        assert_eq!(overrides.blocks(), [(prefix("198.18.3.0/24"), None)]);
    }

    #[test]
    fn a_reload_drops_what_no_longer_fits_and_keeps_the_rest() {
        let (before, mut overrides) = (config(""), Overrides::default());
        overrides.block(&before, prefix("198.18.3.0/24"), None).unwrap();
        overrides.block(&before, prefix("198.18.4.0/24"), None).unwrap();
        overrides.set_mode(&before, "web", Some(Mode::Off)).unwrap();
        let allowed = config("[filter]\nallow = [\"198.18.3.0/24\"]\n");
        assert_eq!(overrides.fit(&allowed), ["block of 198.18.3.0/24"]);
        assert_eq!(overrides.over(&allowed).services[0].mode, Mode::Off);
        let renamed = Config { services: Vec::new(), ..allowed };
        assert_eq!(overrides.fit(&renamed), ["mode off of service web"]);
        assert_eq!(overrides.over(&renamed).filter.deny, [prefix("198.18.4.0/24")]);
    }
}
