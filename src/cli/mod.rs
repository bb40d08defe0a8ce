//! The command line: what each command prints and which status it ends with.

mod client;
mod manual;
mod operate;
mod text;
mod top;

use std::io::{Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::app;
use crate::config::{Config, DEFAULT_PATH, parse_duration, show_duration};
use crate::control::api::MAX_BLOCK_SECONDS;
use crate::control::{doctor, log, plane};

/// A SYN-flood defence appliance: an inline SYN proxy with stateless cookies.
#[derive(Debug, Parser)]
#[command(
    name = "synwall",
    version,
    after_help = "Exit status: 0 ok, 1 failure, 2 usage, 78 bad configuration; of status: 0 healthy, 1 degraded, 2 down."
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
    /// Defend until SIGTERM; SIGHUP reloads services, limits, filter and plane. A change of anything else takes a restart.
    Run,
    /// Say whether the configuration is right, or what is wrong with it, with line and column.
    CheckConfig,
    /// Print the configuration that is in effect, defaults included.
    ShowConfig,
    /// Look at the host: each line is ok, or says what to do.
    Doctor,
    /// Remove from the kernel what a run left there that cannot be started again: programs on the ports, flows.
    ///
    /// Connections that were translated break. While synwall runs, stop it instead.
    Detach,
    #[command(flatten)]
    Operate(Operation),
    /// Print a completion script for a shell.
    #[command(after_help = "For bash: synwall completions bash > /etc/bash_completion.d/synwall")]
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the manual page, or write those of all commands into a directory.
    #[command(after_help = "synwall man /usr/local/share/man/man1")]
    Man {
        /// Where they go; it must exist.
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

/// What is done with a synwall that runs.
#[derive(Debug, Subcommand)]
enum Operation {
    /// Show how synwall is; the exit status is 0 if it is healthy, 1 if degraded, 2 if down or not reachable.
    Status(Reach),
    /// Watch services, rates, drops and attacks, each second anew.
    Top(Socket),
    /// List connections.
    Flows {
        /// Only of clients in this address or prefix.
        #[arg(long, value_name = "PREFIX")]
        prefix: Option<String>,
        /// Only of this service.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Only in this state.
        #[arg(long, value_parser = crate::control::api::STATES)]
        state: Option<String>,
        /// The most that are listed, 1 to 10000 [default: 100].
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
        #[command(flatten)]
        reach: Reach,
    },
    /// List the latest attacks and crowds, the newest first.
    Attacks {
        /// Only on this service.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Drop what clients of a prefix send to services in mode adaptive or always, until a restart.
    ///
    /// As deny among the filters of the configuration: the longest prefix decides. A reload does not end it. A prefix that is
    /// blocked already gets the new time.
    Block {
        /// An address or prefix, such as 198.18.3.0/24.
        prefix: String,
        /// For so long only, such as 90s, 10m or 2h.
        #[arg(long = "for", value_name = "TIME", value_parser = block_time)]
        time: Option<Duration>,
        #[command(flatten)]
        reach: Reach,
    },
    /// End a block.
    Unblock {
        /// The prefix as `blocks` lists it.
        prefix: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// List what is blocked.
    Blocks(Reach),
    /// Give a service another mode, until a restart, or the configured one again.
    ///
    /// A reload does not change it. Connections go on, whatever the modes.
    Mode {
        /// The service's name.
        service: String,
        /// Its mode from now on.
        #[arg(value_parser = crate::control::api::MODES)]
        mode: String,
        #[command(flatten)]
        reach: Reach,
    },
}

/// How synwall is reached and how it answers.
#[derive(Args, Debug)]
struct Reach {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

/// How synwall is reached.
#[derive(Args, Debug)]
struct Socket {
    /// The admin socket [default: that of the configuration file].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    // On a usage error clap prints it and ends the process with 2, which is ours too.
    let Arguments { config: path, command } = Arguments::parse();
    match command {
        Command::Completions { shell } => print(&manual::completions(shell)),
        Command::Man { directory } => manual::pages(directory.as_deref()),
        Command::Operate(operation) => operate::operate(&path, operation),
        Command::Run => configured(&path, |config| run(&path, config)),
        Command::CheckConfig => configured(&path, |_| print(&format!("{}: ok\n", path.display()))),
        Command::ShowConfig => configured(&path, |config| print(&config.to_toml())),
        Command::Doctor => configured(&path, |config| examine(&config)),
        Command::Detach => configured(&path, |config| detach(&config)),
    }
}

/// Does what needs a configuration.
fn configured(path: &Path, act: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::load(path) {
        Ok(config) => act(config),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(BAD_CONFIGURATION)
        }
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

fn detach(config: &Config) -> ExitCode {
    match plane::detach(config) {
        Ok(done) if done.is_empty() => print("nothing to remove\n"),
        Ok(done) => print(&done.iter().map(|line| format!("{line}\n")).collect::<String>()),
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Whole seconds are what the admin socket takes.
fn block_time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    if time.subsec_nanos() != 0 || !(1..=MAX_BLOCK_SECONDS).contains(&time.as_secs()) {
        let most = show_duration(Duration::from_secs(MAX_BLOCK_SECONDS));
        return Err(format!(
            "{text} is out of range, 1s to {most} in whole seconds; without --for it lasts until a restart"
        ));
    }
    Ok(time)
}

/// Prints `text`; a reader that has gone (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

/// Says what went wrong. Standard error may be closed; there is nobody left to tell then.
fn complain(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

/// `EX_CONFIG` of sysexits(3).
const BAD_CONFIGURATION: u8 = 78;
