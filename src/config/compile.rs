//! From a [`Config`] to the engine's [`Policy`].

use super::Config;
use crate::engine::policy::filter::Filter;
use crate::engine::policy::{MAX_SERVICES, Mode, Policy, PolicyError, PortSet, Service};

impl Config {
    /// The policy of this configuration on links that carry IP packets of `mtu` octets.
    ///
    /// # Errors
    /// As [`Policy::new`]; a configuration from [`Config::parse`] has no cause for one.
    pub fn policy(&self, mtu: u16) -> Result<Policy, PolicyError> {
        self.filtered(Policy::new(self.services.clone(), self.limits, mtu)?)
    }

    /// The policy of this configuration in succession to `previous`: a service that keeps its name keeps its id, and
    /// with it its counters and flows.
    ///
    /// A removed service keeps its place too, without ports and with mode `off`, until the places run out: its flows
    /// live on under its id, and their ends must not be counted for another.
    ///
    /// # Errors
    /// As [`Policy::new`].
    pub fn policy_after(&self, previous: &Policy) -> Result<Policy, PolicyError> {
        let protects_less = previous.services().iter().any(|old| {
            let keeps =
                |new: &Service| new.name == old.name && new.prefix == old.prefix && new.ports == old.ports;
            !self.services.iter().any(keeps)
        });
        let mut new: Vec<&Service> = self.services.iter().collect();
        let mut places: Vec<Service> = Vec::new();
        let mut vacant: Vec<usize> = Vec::new();
        for (place, old) in previous.services().iter().enumerate() {
            match new.iter().position(|service| service.name == old.name) {
                Some(found) => places.push(new.remove(found).clone()),
                None => {
                    vacant.push(place);
                    places.push(Service { mode: Mode::Off, ports: PortSet::empty(), ..old.clone() });
                }
            }
        }
        let mut vacant = vacant.into_iter();
        for service in new {
            if places.len() < MAX_SERVICES {
                places.push(service.clone());
            } else if let Some(place) = vacant.next().and_then(|place| places.get_mut(place)) {
                *place = service.clone();
            }
        }
        let [client, server] = previous.link_mtus();
        let policy = self.filtered(Policy::new(places, self.limits, previous.mtu)?)?;
        let policy = policy.with_link_mtus(client, server);
        let may_linger = protects_less || previous.lingering().is_some();
        Ok(if may_linger { policy.with_lingering_flows() } else { policy })
    }

    fn filtered(&self, policy: Policy) -> Result<Policy, PolicyError> {
        Ok(policy.with_filter(Filter::new(&self.filter.deny, &self.filter.allow)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(services: &[(&str, u16)]) -> Config {
        let mut text = "[bridge]\noutside = \"a\"\ninside = \"b\"\n".to_owned();
        for (name, port) in services {
            text += &format!("[[service]]\nname = \"{name}\"\naddress = \"198.18.0.1\"\nports = [{port}]\n");
        }
        Config::parse("test", &text).unwrap()
    }

    fn places(policy: &Policy) -> Vec<(&str, bool)> {
        policy.services().iter().map(|s| (s.name.as_str(), s.mode != Mode::Off)).collect()
    }

    #[test]
    fn kept_names_keep_their_places_and_removed_ones_leave_a_vacant_one() {
        let first = config(&[("a", 1), ("b", 2), ("c", 3)]).policy(1500).unwrap();
        let second = config(&[("d", 1), ("c", 4), ("a", 5)]).policy_after(&first).unwrap();
        assert_eq!(places(&second), [("a", true), ("b", false), ("c", true), ("d", true)]);
        assert_eq!(second.find("198.18.0.1".parse().unwrap(), 2), None, "a removed service protects nothing");
        assert!(first.lingering().is_none() && second.lingering().is_some());
        let same = config(&[("c", 3), ("a", 1), ("b", 2), ("e", 9)]).policy_after(&first).unwrap();
        assert!(same.lingering().is_none(), "nothing is protected less than before");
        let third = config(&[("b", 9)]).policy_after(&second).unwrap();
        assert_eq!(places(&third), [("a", false), ("b", true), ("c", false), ("d", false)]);
    }

    #[test]
    fn vacant_places_are_used_again_when_there_is_no_other() {
        let full: Vec<(String, u16)> = (1..=256).map(|port| (format!("s{port}"), port)).collect();
        let full: Vec<(&str, u16)> = full.iter().map(|(name, port)| (name.as_str(), *port)).collect();
        let first = config(&full).policy(1500).unwrap();
        let mut changed = full.clone();
        changed[7] = ("new", 8);
        let second = config(&changed).policy_after(&first).unwrap();
        assert_eq!(second.services().len(), MAX_SERVICES);
        assert_eq!(places(&second)[7], ("new", true));
    }
}
