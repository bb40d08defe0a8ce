//! Completions and manual pages, made from the same declarations as the command line itself.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Arguments, complain, print};

/// The completion script for `shell`.
pub(super) fn completions(shell: Shell) -> String {
    // Into memory first: clap_complete panics if its reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Prints the page of the program, or writes every page into `directory`.
pub(super) fn pages(directory: Option<&Path>) -> ExitCode {
    let Some(directory) = directory else {
        let mut page = Vec::new();
        // Memory takes everything.
        let _ = clap_mangen::Man::new(Arguments::command()).render(&mut page);
        return print(&String::from_utf8_lossy(&page));
    };
    match clap_mangen::generate_to(Arguments::command(), directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let directory = directory.display();
            let remedy = if error.kind() == std::io::ErrorKind::NotFound {
                format!(": make it first, `mkdir -p {directory}`")
            } else {
                String::new()
            };
            complain(&format!("{directory}: manual pages cannot be written: {error}{remedy}"));
            ExitCode::FAILURE
        }
    }
}

const NAME: &str = "synwall";
