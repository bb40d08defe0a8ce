//! What fuzzing once found, played again on every test run; and the committed corpora, through the same targets.
//!
//! Each file in `tests/regressions/TARGET` made something fail. What, is said in `tests/regressions/README.md`.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]
#![allow(dead_code, unused_imports, reason = "the seeds' generator uses more of the targets")]

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

type Target = fn(&[u8]);

/// Plays every file of the target's two folders; how many there were.
fn play(target: &str, run: Target) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.join("tests/regressions").join(target), root.join("fuzz/corpus").join(target)];
    let mut files: Vec<_> =
        folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten().collect();
    files.sort_by_key(fs::DirEntry::path);
    for file in &files {
        // Printed by a test that fails: the input that did it.
        println!("{}", file.path().display());
        run(&fs::read(file.path()).unwrap());
    }
    files.len()
}

#[test]
fn everything_that_fuzzing_found_is_found_no_more() {
    let targets: [(&str, Target); 7] = [
        ("adversary", targets::adversary::run),
        ("config", targets::config::run),
        ("cookie", targets::cookie::run),
        ("engine", targets::engine::run),
        ("frame", targets::frame::run),
        ("options", targets::options::run),
        ("pcap", targets::pcap::run),
    ];
    for (target, run) in targets {
        assert!(play(target, run) > 0, "{target} has a corpus");
    }
}
