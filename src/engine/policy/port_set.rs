//! Sets of TCP ports.

/// A set of TCP ports as a bitmap: membership in one look-up, whatever the ranges.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet {
    bits: Box<[u64; 1024]>,
}

impl PortSet {
    /// No port.
    pub fn empty() -> PortSet {
        PortSet { bits: Box::new([0; 1024]) }
    }

    /// Ports 1 to 65535.
    pub fn all() -> PortSet {
        let mut set = PortSet::empty();
        set.insert_range(1, u16::MAX);
        set
    }

    /// Adds `first` to `last`, both included.
    pub fn insert_range(&mut self, first: u16, last: u16) {
        for port in first..=last {
            if let Some(word) = self.bits.get_mut(usize::from(port >> 6)) {
                *word |= 1 << (port & 63);
            }
        }
    }

    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.bits.get(usize::from(port >> 6)).is_some_and(|word| word & (1 << (port & 63)) != 0)
    }

    /// Whether the two share a port.
    pub fn overlaps(&self, other: &PortSet) -> bool {
        self.bits.iter().zip(other.bits.iter()).any(|(a, b)| a & b != 0)
    }

    /// The ports as ascending ranges, both ends included.
    pub fn ranges(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for port in 0..=u16::MAX {
            if !self.contains(port) {
                continue;
            }
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
                _ => ranges.push((port, port)),
            }
        }
        ranges
    }
}

impl core::fmt::Debug for PortSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_merge_and_reach_both_ends() {
        let mut set = PortSet::empty();
        set.insert_range(65535, 65535);
        set.insert_range(80, 80);
        set.insert_range(81, 90);
        assert_eq!(set.ranges(), vec![(80, 90), (65535, 65535)]);
        assert_eq!(format!("{set:?}"), "[(80, 90), (65535, 65535)]");
        assert_eq!(PortSet::all().ranges(), vec![(1, 65535)]);
        assert!(!PortSet::all().contains(0));
    }
}
