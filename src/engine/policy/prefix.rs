//! Address prefixes.

use core::net::IpAddr;

/// An IPv4 or IPv6 prefix, host bits cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    network: IpAddr,
    len: u8,
}

impl Prefix {
    /// The prefix of `len` bits that holds `address`; `None` if `len` is too long for the family.
    pub fn new(address: IpAddr, len: u8) -> Option<Prefix> {
        let network = match address {
            IpAddr::V4(_) if len > 32 => return None,
            IpAddr::V6(_) if len > 128 => return None,
            _ => mask(address, len),
        };
        Some(Prefix { network, len })
    }

    /// The prefix of exactly one address.
    pub fn host(address: IpAddr) -> Prefix {
        Prefix { network: address, len: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The network address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// The length in bits.
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether it holds every address of its family.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `address` lies within.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && mask(address, self.len) == self.network
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

impl core::fmt::Display for Prefix {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.network, self.len)
    }
}

fn mask(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let bits = u32::MAX.checked_shl(32u32.saturating_sub(u32::from(len))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & bits).into())
        }
        IpAddr::V6(v6) => {
            let bits = u128::MAX.checked_shl(128u32.saturating_sub(u32::from(len))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & bits).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_mask_host_bits_and_keep_families_apart() {
        let prefix = Prefix::new("198.18.3.7".parse().unwrap(), 24).unwrap();
        assert_eq!(prefix.to_string(), "198.18.3.0/24");
        assert!(!Prefix::new("0.0.0.0".parse().unwrap(), 0).unwrap().contains("::".parse().unwrap()));
        assert!(Prefix::new("::".parse().unwrap(), 0).unwrap().contains("2001:db8::1".parse().unwrap()));
        assert!(Prefix::new("::".parse().unwrap(), 0).unwrap().is_empty() && !prefix.is_empty());
        assert!(Prefix::new("1.2.3.4".parse().unwrap(), 33).is_none());
    }
}
