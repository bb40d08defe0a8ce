//! The synwall program.

use std::process::ExitCode;

fn main() -> ExitCode {
    synwall::cli::main()
}
