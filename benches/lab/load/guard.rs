//! Nothing of this leaves the lab, whatever the command line says.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Fails unless this is the namespace of one of `roles` in the lab, and `device` is a veth in it.
pub(crate) fn refuse_outside_the_lab(device: &str, roles: &[&str]) -> Result<()> {
    let lab = std::env::var("LAB").context("LAB is not set: this runs inside a lab only")?;
    ensure!(!lab.is_empty(), "LAB is empty");
    let here = std::fs::metadata("/proc/thread-self/ns/net")?;
    let is_lab = roles.iter().any(|role| {
        std::fs::metadata(format!("/run/netns/{lab}-{role}"))
            .is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino()))
    });
    ensure!(is_lab, "this is no namespace of the lab {lab} for it: it runs in {}", roles.join(", "));
    let link = Command::new("ip").args(["-details", "-oneline", "link", "show", "dev", device]).output()?;
    ensure!(
        String::from_utf8_lossy(&link.stdout).split_whitespace().any(|word| word == "veth"),
        "{device} is not a veth"
    );
    Ok(())
}
