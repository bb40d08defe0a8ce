//! What went over a wire: tcpdump, read back.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Lab, eventually};

/// A running tcpdump on the only port of a namespace.
pub(crate) struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    /// Starts one and waits until it listens. It takes everything: libpcap loses the first frames behind a filter.
    pub(crate) fn start(lab: &Lab, namespace: &str) -> Capture {
        let file = lab.state().join(format!("{namespace}.pcap"));
        let mut tcpdump = lab
            .command(namespace, "tcpdump")
            .args(["-i", "eth0", "-U", "--immediate-mode", "-Z", "root", "-s", "0", "-w"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump");
        let mut said = BufReader::new(tcpdump.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("listening on")), "tcpdump did not start");
        // It goes on talking at its end: somebody has to listen.
        std::thread::spawn(move || said.count());
        Capture { tcpdump, file }
    }

    /// The frames so far, as they were on the wire, tags included.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        let octets = fs::read(&self.file).unwrap_or_default();
        let mut rest = octets.get(24..).unwrap_or_default();
        let mut frames = Vec::new();
        while let Some((header, behind)) = rest.split_at_checked(16) {
            let len = u32::from_ne_bytes(header[8..12].try_into().unwrap()) as usize;
            let Some((frame, behind)) = behind.split_at_checked(len) else { break };
            frames.push(frame.to_vec());
            rest = behind;
        }
        frames
    }

    /// Whether this frame arrives within a second.
    pub(crate) fn sees(&self, frame: &[u8]) -> bool {
        eventually(Duration::from_secs(1), || self.frames().iter().any(|seen| seen == frame))
    }

    /// Ends the capture: only then has everything been written.
    pub(crate) fn end(&mut self) {
        kill(Pid::from_raw(self.tcpdump.id().cast_signed()), Signal::SIGINT).unwrap();
        self.tcpdump.wait().unwrap();
    }

    /// Those of its packets that a display filter of Wireshark lets through, a line each.
    pub(crate) fn select(&self, display_filter: &str) -> Vec<String> {
        let output = Command::new("tshark")
            .arg("-r")
            .arg(&self.file)
            .args(["-Y", display_filter])
            .output()
            .expect("tshark");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}
