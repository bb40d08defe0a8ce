//! The command line: what each command prints and which status it ends with.

use std::io::{Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app;
use crate::config::{Config, DEFAULT_PATH};
use crate::control::{doctor, log};

/// A SYN-flood defence appliance: an inline SYN proxy with stateless cookies.
#[derive(Debug, Parser)]
#[command(
    name = "synwall",
    version,
    after_help = "Exit status: 0 ok, 1 failure, 2 usage, 78 bad configuration."
)]
struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Defend until SIGTERM; SIGHUP reloads services and limits.
    Run,
    /// Say whether the configuration is right, or what is wrong with it, with line and column.
    CheckConfig,
    /// Print the configuration that is in effect, defaults included.
    ShowConfig,
    /// Look at the host: each line is ok, or says what to do.
    Doctor,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    // On a usage error clap prints it and ends the process with 2, which is ours too.
    let Arguments { config: path, command } = Arguments::parse();
    let config = match Config::load(&path) {
        Ok(config) => config,
        Err(error) => {
            // Standard error may be closed; there is nobody left to tell.
            let _ = writeln!(stderr(), "{error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match command {
        Command::Run => run(&path, config),
        Command::CheckConfig => print(&format!("{}: ok\n", path.display())),
        Command::ShowConfig => print(&config.to_toml()),
        Command::Doctor => examine(&config),
    }
}

fn run(path: &Path, config: Config) -> ExitCode {
    log::start(&config.log);
    match app::run(path, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn examine(config: &Config) -> ExitCode {
    let report = doctor::examine(config);
    let lines: String = report.findings.iter().map(|finding| format!("{finding}\n")).collect();
    let printed = print(&lines);
    if report.is_ok() { printed } else { ExitCode::FAILURE }
}

/// Prints `text`; a reader that has gone (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

/// `EX_CONFIG` of sysexits(3).
const BAD_CONFIGURATION: u8 = 78;
