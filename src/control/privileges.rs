//! Which capabilities the process has (capabilities(7)).

use std::io;

/// What synwall needs: raw sockets, and queues longer than the system's limits.
pub const NEEDED: [(&str, u32); 2] = [("CAP_NET_RAW", 13), ("CAP_NET_ADMIN", 12)];

/// The needed capabilities that are not effective.
///
/// # Errors
/// The process cannot read its own status.
pub fn missing() -> io::Result<Vec<&'static str>> {
    let effective = effective(&std::fs::read_to_string("/proc/self/status")?)
        .ok_or_else(|| io::Error::other("no CapEff in /proc/self/status"))?;
    Ok(NEEDED.iter().filter(|(_, bit)| effective & (1 << bit) == 0).map(|(name, _)| *name).collect())
}

fn effective(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        assert_eq!(effective("Name:\tx\nCapPrm:\t0\nCapEff:\t0000000000003000\n"), Some(0x3000));
        assert_eq!(effective("Name:\tx\n"), None);
        assert_eq!(effective("CapEff:\tzz\n"), None);
    }
}
