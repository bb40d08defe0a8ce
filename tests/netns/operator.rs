//! The operator's commands against the synwall of a lab.

use std::process::Output;

use serde_json::Value;

use crate::lab::Lab;

/// Runs one of the operator's commands against the lab's synwall.
pub(crate) fn synwall(lab: &Lab, words: &[&str]) -> Output {
    let socket = lab.state().join("admin.sock");
    lab.command("box", env!("CARGO_BIN_EXE_synwall"))
        .args(words)
        .arg("--socket")
        .arg(socket)
        .output()
        .unwrap()
}

/// What a command that succeeds prints.
pub(crate) fn said(lab: &Lab, words: &[&str]) -> String {
    let output = synwall(lab, words);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {} {complaint}\n{}", output.status, lab.log());
    String::from_utf8(output.stdout).unwrap()
}

/// The same as JSON.
pub(crate) fn json(lab: &Lab, words: &[&str]) -> Value {
    serde_json::from_str(&said(lab, &[words, &["--json"]].concat())).unwrap()
}
