//! What went over a wire: tcpdump, read back.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Lab;

/// A running tcpdump on a port.
pub(crate) struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    /// Starts one on the only port of a namespace and waits until it listens. It takes everything: libpcap loses the first
    /// frames behind a filter.
    pub(crate) fn start(lab: &Lab, namespace: &str) -> Capture {
        Capture::on(lab, namespace, "eth0", &["-s", "0"])
    }

    /// The same for what arrives on one of several ports, and not for what leaves it; of longer frames the first 9216 octets.
    /// Slots for the longest frames would be so few that a burst overruns them.
    pub(crate) fn of_arriving(lab: &Lab, namespace: &str, port: &str) -> Capture {
        Capture::on(lab, namespace, port, &["-Q", "in", "-s", "9216", "-B", "32768"])
    }

    fn on(lab: &Lab, namespace: &str, port: &str, options: &[&str]) -> Capture {
        let file = lab.state().join(format!("{namespace}-{port}.pcap"));
        let mut tcpdump = lab
            .command(namespace, "tcpdump")
            .args(["-i", port, "-U", "--immediate-mode", "-Z", "root"])
            .args(options)
            .arg("-w")
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
        self.records().into_iter().map(|(_, frame)| frame).collect()
    }

    /// Octets of the longest frame so far, which may be longer than what was kept of it.
    pub(crate) fn longest(&self) -> usize {
        self.records().into_iter().map(|(len, _)| len).max().unwrap_or(0)
    }

    fn records(&self) -> Vec<(usize, Vec<u8>)> {
        let octets = fs::read(&self.file).unwrap_or_default();
        let mut rest = octets.get(24..).unwrap_or_default();
        let mut records = Vec::new();
        while let Some((header, behind)) = rest.split_at_checked(16) {
            let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap()) as usize;
            let Some((frame, behind)) = behind.split_at_checked(word(8)) else { break };
            records.push((word(12), frame.to_vec()));
            rest = behind;
        }
        records
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
