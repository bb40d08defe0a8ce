//! The boundaries between the modules (ARCHITECTURE.md), held by reading the source: who may use what, where `unsafe`
//! may stand, and what the core must not know.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What each module of the crate may use of its siblings.
const MAY_USE: &[(&str, &[&str])] = &[
    ("time", &[]),
    ("wire", &[]),
    ("cookie", &["wire", "time"]),
    ("table", &["wire", "time"]),
    ("engine", &["wire", "cookie", "table", "time"]),
    ("config", &["engine::policy", "cookie"]),
    ("metrics", &["engine", "io", "control"]),
    (
        "io",
        &[
            "engine",
            "time",
            "wire::buffer",
            "wire::cut",
            "cookie",
            "table::flow_key",
            "table::known",
            "table::prefix",
        ],
    ),
    ("control", &["config", "metrics", "engine", "cookie", "table", "time", "io"]),
    ("cli", &["config", "app", "control"]),
    ("app", &["config", "metrics", "engine", "cookie", "time", "io", "control", "cli"]),
];

/// Crates that the core must not name: they bring sockets, clocks, files or randomness.
const NOT_IN_CORE: &[&str] =
    &["tokio", "libc", "nix", "pnet::", "prometheus", "serde", "toml", "tracing", "getrandom"];

const CORE: &[&str] = &["time", "wire", "cookie", "table", "engine"];

fn sources() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(&root).unwrap().to_owned(), text);
            }
        }
    }
    assert!(found.len() > 30, "the sources were found");
    found
}

/// The code of a file: without comments and without its unit tests.
fn code(text: &str) -> String {
    let shipped = text.split("#[cfg(test)]").next().unwrap();
    shipped.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn module(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module(&path)) else {
            assert!(
                ["lib", "main"].contains(&module(&path).as_str()),
                "{} is in no boundary",
                path.display()
            );
            continue;
        };
        for part in code(&text).split("crate::").skip(1) {
            let used: String =
                part.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
            let is_allowed = |allowed: &&&str| used == **allowed || used.starts_with(&format!("{allowed}::"));
            let is_own = used == module(&path) || used.starts_with(&format!("{}::", module(&path)));
            if !is_own && allowed.iter().find(is_allowed).is_none() {
                broken.push(format!("{} uses crate::{used}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_core_names_no_crate_that_touches_the_world() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        if !CORE.contains(&module(&path).as_str()) {
            continue;
        }
        let code = code(&text);
        for name in
            NOT_IN_CORE.iter().chain(&["std::fs", "std::net", "std::env", "std::time", "Instant::now"])
        {
            let stands_alone = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if code.match_indices(name).any(|(at, _)| stands_alone(at)) {
                broken.push(format!("{} names {name}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn unsafe_stands_only_in_files_named_for_it() {
    for (path, text) in sources() {
        let is_named = path.ends_with("sys.rs") || path.ends_with("abi.rs");
        let has_unsafe =
            code(&text).split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
        assert!(is_named || !has_unsafe, "unsafe in {}", path.display());
        if !is_named {
            assert!(!text.contains("allow(unsafe_code)"), "{} allows unsafe", path.display());
        }
    }
}
