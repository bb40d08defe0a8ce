//! Whether a port has hardware behind it, which completes checksums before a frame arrives.

use std::fs;
use std::path::Path;

/// Whether frames that arrive at this interface come off a wire: its own device's, or for a bond the devices' under it. What
/// comes from a sender on this machine, through a veth pair, a tap or a bridge, may still lack checksums
/// (`CHECKSUM_PARTIAL`); so may what Xen's backend hands to a guest.
pub fn is_behind(interface: &str) -> bool {
    is_behind_in(Path::new("/sys/class/net"), interface, MAX_DEPTH)
}

fn is_behind_in(root: &Path, interface: &str, depth: u32) -> bool {
    let directory = root.join(interface);
    if let Ok(driver) = fs::read_link(directory.join("device/driver")) {
        return !driver.ends_with(XEN_GUEST);
    }
    if directory.join("device").exists() {
        return true;
    }
    let Ok(entries) = fs::read_dir(&directory) else { return false };
    let mut lower = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("lower_")?.to_owned()))
        .peekable();
    depth > 0
        && lower.peek().is_some()
        && lower.all(|below| is_behind_in(root, &below, depth.saturating_sub(1)))
}

/// Bonds of bonds there are not; a VLAN on a bond there is.
const MAX_DEPTH: u32 = 4;
/// The driver of a guest's side, `xen-netfront`.
const XEN_GUEST: &str = "vif";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_wire_is_behind_devices_and_what_is_made_of_them_alone() {
        let root = std::env::temp_dir().join(format!("synwall-hardware-{}", std::process::id()));
        let make = |path: &str| fs::create_dir_all(root.join(path)).unwrap();
        make("eth0/device");
        make("eth1/device");
        make("veth0/queues");
        make("xn0/device");
        for (interface, driver) in [("eth0", "ixgbe"), ("xn0", "vif")] {
            symlink(format!("../drivers/{driver}"), root.join(interface).join("device/driver")).unwrap();
        }
        for (upper, lower) in
            [("bond0", "eth0"), ("bond0", "eth1"), ("br0", "eth0"), ("br0", "veth0"), ("vlan5", "bond0")]
        {
            make(&format!("{upper}/lower_{lower}"));
        }
        let is_behind = |interface| is_behind_in(&root, interface, MAX_DEPTH);
        for interface in ["eth0", "eth1", "bond0", "vlan5"] {
            assert!(is_behind(interface), "{interface}");
        }
        for interface in ["veth0", "xn0", "br0", "nosuch0"] {
            assert!(!is_behind(interface), "{interface}");
        }
        make("loop0/lower_loop0");
        assert!(!is_behind("loop0"), "ends");
        fs::remove_dir_all(&root).unwrap();
    }
}
