//! The configuration file: TOML in, a validated [`Config`] out, or every error with its line and column.
//!
//! The only module that knows TOML. It owns names, units, ranges and defaults; nothing is accepted that does nothing,
//! and nothing here touches the host: interfaces, keys and sockets are looked at by `control`.

mod attack;
mod compile;
mod document;
mod plane;
mod read;
mod show;
mod value;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use attack::{Attack, Hook};
pub use plane::PlanePin;

use crate::engine::policy::{Limits, Prefix, Service};

/// Where the configuration is when `--config` does not say otherwise.
pub const DEFAULT_PATH: &str = "/etc/synwall/synwall.toml";

/// The whole effective configuration: what the file says, and the defaults for what it does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The two ports.
    pub bridge: Bridge,
    /// The protected services in the order of the file.
    pub services: Vec<Service>,
    /// Caps and timeouts.
    pub limits: Limits,
    /// Sources that are locked out or let off.
    pub filter: FilterLists,
    /// Cookie keys.
    pub cookie: Cookie,
    /// What outlives the process.
    pub state: State,
    /// Who is told of attacks.
    pub attack: Attack,
    /// Where metrics are served, if they are.
    pub metrics: Metrics,
    /// Where it is operated from, if it is.
    pub admin: Admin,
    /// What is logged, and how.
    pub log: Log,
    /// How frames are moved.
    pub plane: Plane,
}

/// The ports of the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The interface towards the clients.
    pub outside: String,
    /// The interface towards the protected servers.
    pub inside: String,
    /// Whether a port without a carrier takes the other one down.
    pub link_propagation: bool,
}

/// Source prefixes and what becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterLists {
    /// Their segments to challenging services are dropped.
    pub deny: Vec<Prefix>,
    /// Their connections are let through without a cookie.
    pub allow: Vec<Prefix>,
}

/// Where cookie keys come from and how long each is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Time between two keys. A cookie lives one to two of these. Bounds how long a collected cookie can be replayed.
    pub epoch: Duration,
    /// The file with the master key; without one it is random at the first start and kept in the state directory.
    pub key_file: Option<PathBuf>,
}

impl Default for Cookie {
    fn default() -> Cookie {
        Cookie { epoch: Duration::from_secs(32), key_file: None }
    }
}

/// Where flows are kept for the next start, and how often they are saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The directory, or `None` to keep nothing.
    pub directory: Option<PathBuf>,
    /// Time between two checkpoints. Bounds what a crash loses: the connections that began since the last.
    pub checkpoint: Duration,
}

impl Default for State {
    fn default() -> State {
        State { directory: Some(PathBuf::from("/var/lib/synwall")), checkpoint: Duration::from_secs(10) }
    }
}

/// The HTTP listener for metrics and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Its address and port, or `None` for no listener.
    pub listen: Option<SocketAddr>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics { listen: Some(SocketAddr::from(([127, 0, 0, 1], 10_910))) }
    }
}

/// The unix socket for `synwall status` and its like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Its path, or `None` for no socket.
    pub socket: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Admin {
        Admin { socket: Some(PathBuf::from("/run/synwall/admin.sock")) }
    }
}

/// What is logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

/// Frame transport.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plane {
    /// Which plane.
    pub kind: PlaneKind,
    /// How the XDP program is attached.
    pub mode: PlaneMode,
    /// Where the XDP program and its flows outlive the process.
    pub pin: PlanePin,
    /// Packet threads; 0 for one a core.
    pub workers: usize,
}

/// Declares an enum whose variants are words in the configuration.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The word in the configuration.
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// The least severe level that is logged.
    LogLevel {
        /// Failures only.
        Error => "error",
        /// And what an operator should look at.
        Warn => "warn",
        /// And every change of state.
        #[default]
        Info => "info",
        /// And what helps to find a fault.
        Debug => "debug",
        /// Everything.
        Trace => "trace",
    }
}

words! {
    /// How a log line looks.
    LogFormat {
        /// For people; in colour on a terminal.
        #[default]
        Text => "text",
        /// One JSON object a line.
        Json => "json",
    }
}

words! {
    /// The plane that moves frames.
    PlaneKind {
        /// The fastest that the host supports.
        #[default]
        Auto => "auto",
        /// Raw sockets.
        Pnet => "pnet",
        /// A program in the kernel, and raw sockets for what it passes up.
        Xdp => "xdp",
    }
}

words! {
    /// How the XDP program is attached.
    PlaneMode {
        /// In the drivers, or behind them if one of them cannot.
        #[default]
        Auto => "auto",
        /// In the drivers.
        Native => "native",
        /// Behind them.
        Generic => "generic",
    }
}

impl Config {
    /// Reads and validates the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or every mistake that was found in it.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        match document::read_file(path) {
            Ok(text) => Config::parse(&file, &text),
            Err(problem) => Err(ConfigError { file, problems: vec![problem] }),
        }
    }

    /// Validates `text`; `file` names it in errors.
    ///
    /// # Errors
    /// Every mistake that was found, in the order of the text.
    pub fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
        read::config(text).map_err(|problems| ConfigError { file: file.to_owned(), problems })
    }

    /// The configuration as TOML that reads back as itself, every default filled in.
    pub fn to_toml(&self) -> String {
        show::render(self)
    }
}

/// The duration in `text`, written as in the configuration: `250ms`, `32s`, `2h4m`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    value::parse_duration(text).ok_or_else(|| {
        format!("{text:?} is not a duration; write for example \"250ms\", \"32s\" or \"2h4m\"")
    })
}

/// `duration` as [`parse_duration`] reads it.
pub fn show_duration(duration: Duration) -> String {
    value::show_duration(duration)
}

/// The address or prefix in `text`, written as in the configuration.
///
/// # Errors
/// What is wrong with it.
pub fn parse_prefix(text: &str) -> Result<Prefix, String> {
    value::parse_prefix(text)
}

/// What is wrong with a configuration file: at least one [`Problem`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as the operator named it.
    pub file: String,
    /// What is wrong, in the order of the file.
    pub problems: Vec<Problem>,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line and column, both counted from 1, the column in characters; `None` if it is not about a place in the text.
    pub position: Option<(usize, usize)>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    /// A line per problem, in the form that editors know: `file:line:column: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match problem.position {
                Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.file, problem.message)?,
                None => write!(f, "{}: {}", self.file, problem.message)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
