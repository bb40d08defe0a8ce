//! Which sources an operator has let off or locked out: longest prefix first.

use core::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::{PolicyError, Prefix};

/// What is to become of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Its segments to protected services are dropped.
    Deny,
    /// Its connections are let through without a cookie, tracked as direct flows.
    Allow,
}

/// Prefixes with their rules. The longest that holds an address decides.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    v4: PrefixMap<Ipv4Net, Rule>,
    v6: PrefixMap<Ipv6Net, Rule>,
    is_empty: bool,
}

impl Filter {
    /// No rule for anyone.
    pub fn none() -> Filter {
        Filter { is_empty: true, ..Filter::default() }
    }

    /// The filter that denies and allows these.
    ///
    /// # Errors
    /// A prefix is both denied and allowed.
    pub fn new(deny: &[Prefix], allow: &[Prefix]) -> Result<Filter, PolicyError> {
        let mut filter = Filter { is_empty: deny.is_empty() && allow.is_empty(), ..Filter::default() };
        let rules = deny.iter().map(|prefix| (prefix, Rule::Deny));
        for (prefix, rule) in rules.chain(allow.iter().map(|prefix| (prefix, Rule::Allow))) {
            let before = match prefix.network() {
                IpAddr::V4(v4) => filter.v4.insert(Ipv4Net::new_assert(v4, prefix.len()), rule),
                IpAddr::V6(v6) => filter.v6.insert(Ipv6Net::new_assert(v6, prefix.len()), rule),
            };
            if before.is_some_and(|before| before != rule) {
                return Err(PolicyError::DeniedAndAllowed { prefix: *prefix });
            }
        }
        Ok(filter)
    }

    /// The prefixes with their rules.
    pub fn rules(&self) -> impl Iterator<Item = (Prefix, Rule)> {
        let v4 = self.v4.iter().map(|(net, rule)| (IpAddr::V4(net.addr()), net.prefix_len(), *rule));
        let v6 = self.v6.iter().map(|(net, rule)| (IpAddr::V6(net.addr()), net.prefix_len(), *rule));
        v4.chain(v6).filter_map(|(address, len, rule)| Some((Prefix::new(address, len)?, rule)))
    }

    /// The rule for `address`, if there is one.
    pub fn decide(&self, address: IpAddr) -> Option<Rule> {
        if self.is_empty {
            return None;
        }
        match address {
            IpAddr::V4(v4) => self.v4.get_lpm(&Ipv4Net::from(v4)).map(|(_, rule)| *rule),
            IpAddr::V6(v6) => self.v6.get_lpm(&Ipv6Net::from(v6)).map(|(_, rule)| *rule),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, len) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), len.parse().unwrap()).unwrap()
    }

    fn filter(deny: &[&str], allow: &[&str]) -> Result<Filter, PolicyError> {
        let prefixes = |texts: &[&str]| texts.iter().map(|text| prefix(text)).collect::<Vec<_>>();
        Filter::new(&prefixes(deny), &prefixes(allow))
    }

    #[test]
    fn the_longest_prefix_decides_in_both_families() {
        let filter = filter(
            &["198.18.0.0/16", "198.18.1.7/32", "2001:db8::/32"],
            &["198.18.1.0/24", "2001:db8:1::/48", "0.0.0.0/0"],
        )
        .unwrap();
        let decide = |text: &str| filter.decide(text.parse().unwrap());
        assert_eq!(decide("198.18.2.1"), Some(Rule::Deny));
        assert_eq!(decide("198.18.1.1"), Some(Rule::Allow));
        assert_eq!(decide("198.18.1.7"), Some(Rule::Deny));
        assert_eq!(decide("198.19.0.1"), Some(Rule::Allow));
        assert_eq!(decide("2001:db8:2::1"), Some(Rule::Deny));
        assert_eq!(decide("2001:db8:1::1"), Some(Rule::Allow));
        assert_eq!(decide("2001:db9::1"), None);
    }

    #[test]
    fn without_rules_nobody_has_one_and_two_rules_for_one_prefix_are_refused() {
        assert_eq!(Filter::none().decide("198.18.0.1".parse().unwrap()), None);
        assert_eq!(filter(&[], &[]).unwrap().decide("::1".parse().unwrap()), None);
        assert!(filter(&["198.18.0.0/16", "198.18.0.0/16"], &[]).is_ok());
        let refused = filter(&["198.18.0.0/16"], &["198.18.0.0/16"]).unwrap_err();
        assert_eq!(refused, PolicyError::DeniedAndAllowed { prefix: prefix("198.18.0.0/16") });
    }
}
