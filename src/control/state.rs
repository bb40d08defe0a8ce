//! The state that outlives the process: flows, what was learned of servers, and the cookie key.
//!
//! A translated connection whose translation is lost must not go on: its segments would be garbage to the other end. So the
//! flows are written when synwall stops, and every few seconds while it runs, for the case that it does not get to stop.
//! The file says which of the two it is. That also answers whether the start-up grace is safe: only if no earlier run can
//! have left translated connections that this one does not know.
//!
//! | found at the start | flows | grace |
//! |---|---|---|
//! | nothing: the first run | none | yes |
//! | written at a stop | restored as they are | yes |
//! | a checkpoint: the run before crashed | restored, their ends found anew | no, until lost ones are dead |
//! | damaged | none | no, until lost ones are dead |
//!
//! Files are written beside their place, synced and renamed; only root can read them.

pub mod format;

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::unistd::{AccessFlags, access, geteuid};
use thiserror::Error;

use crate::engine::export::{Past, Restored};
use crate::engine::{Engine, Shared};
use crate::io::{Clock, MonotonicClock};
use crate::time::Instant;
use format::{Decoder, Encoder, Header};

use super::rotate::unix_time;

/// Why nothing can be kept.
#[derive(Debug, Error)]
pub enum StateError {
    /// It cannot be made, or written to.
    #[error(
        "state directory {} cannot be used: {error}: make it writable for the user that runs synwall, or change [state] \
         directory",
        path.display()
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the system answered.
        error: io::Error,
    },
    /// Somebody else could put flows and keys there.
    #[error("state directory {} is open to others (mode {mode:04o}): {remedy}", path.display())]
    OpenToOthers {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What to do.
        remedy: String,
    },
    /// Its owner could, too.
    #[error("state directory {} belongs to user {owner}; give synwall one of its own, or this one to the user that runs synwall", path.display())]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
    },
    /// Another synwall uses it.
    #[error("state directory {} belongs to another synwall that runs: give each its own [state] directory", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
}

/// The last attempt to write the flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whether it succeeded.
    pub success: bool,
    /// When one last succeeded, since the Unix epoch.
    pub succeeded_at: Duration,
    /// How long that one took.
    pub took: Duration,
    /// The size of its file in octets.
    pub octets: u64,
}

/// A state directory that this process has to itself, until the value goes.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    /// When flows were last lost, in seconds since the Unix epoch; 0 for never.
    last_loss: AtomicU64,
    last: Mutex<Checkpoint>,
    _lock: File,
}

/// What a start found.
#[derive(Debug)]
pub enum Found {
    /// No earlier run.
    Nothing,
    /// What an earlier run left.
    State {
        /// What became of its flows.
        restored: Restored,
        /// How it relates to the present.
        past: Past,
    },
    /// A file that says nothing, with the reason.
    Damaged(String),
}

impl StateDirectory {
    /// Takes the directory at `path`, which is made if its parent is there.
    ///
    /// # Errors
    /// It cannot be written to, or is no place for state.
    pub fn open(path: &Path) -> Result<StateDirectory, StateError> {
        let unusable = |error| StateError::Unusable { path: path.to_owned(), error };
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
            _ => {}
        }
        examine(path)?;
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).clone();
        let lock = options.open(path.join(LOCK)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::Taken { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let last = Mutex::new(Checkpoint::default());
        Ok(StateDirectory { path: path.to_owned(), last_loss: AtomicU64::new(0), last, _lock: lock })
    }

    /// Where the cookie key is kept.
    pub fn key_file(&self) -> PathBuf {
        self.path.join(KEY)
    }

    /// The last checkpoint.
    pub fn last(&self) -> Checkpoint {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Restores what an earlier run left into `engine`, whose clock says `now`, before frames move. If the kernel has kept all
    /// connections (`is_kept`), none is lost, however that run ended.
    pub fn restore(&self, engine: &mut Engine, now: Instant, unix: Duration, is_kept: bool) -> Found {
        let found = self.read(engine, now, unix, is_kept);
        let lost_flows = match &found {
            _ if is_kept => false,
            Found::Nothing => false,
            Found::State { restored, past } => !past.is_exact || restored.lost > 0,
            Found::Damaged(_) => true,
        };
        if lost_flows {
            self.last_loss.store(unix.as_secs(), Ordering::Relaxed);
        }
        found
    }

    /// Whether no connection can be alive whose translation was lost, if such connections live for `life`.
    pub fn knows_all(&self, unix: Duration, life: Duration) -> bool {
        let last_loss = self.last_loss.load(Ordering::Relaxed);
        last_loss == 0 || unix.as_secs().saturating_sub(last_loss) > life.as_secs()
    }

    fn read(&self, engine: &mut Engine, now: Instant, unix: Duration, is_kept: bool) -> Found {
        let mut file = Vec::new();
        let read = File::open(self.path.join(FLOWS))
            .and_then(|open| open.take(MAX_FILE_OCTETS).read_to_end(&mut file));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
            Err(error) => return Found::Damaged(format!("cannot be read: {error}")),
            Ok(_) => {}
        }
        let saved = match Decoder::new(&file) {
            Ok(saved) => saved,
            Err(damage) => return Found::Damaged(damage.to_string()),
        };
        self.last_loss.store(saved.header.last_loss, Ordering::Relaxed);
        let past = Past { age: age(&saved.header, unix), is_exact: saved.header.is_final, is_kept };
        Found::State { restored: engine.import(now, past, &saved.services, saved.flows()), past }
    }

    /// Writes all flows; `is_final` if frames no longer move.
    ///
    /// # Errors
    /// The file is as it was.
    pub fn save(&self, shared: &Shared, clock: &MonotonicClock, is_final: bool) -> io::Result<()> {
        let begun = clock.now();
        let (boot_id, uptime) = boot();
        let last_loss = self.last_loss.load(Ordering::Relaxed);
        let header = Header { is_final, boot_id, uptime, unix: unix_time(), last_loss };
        let mut encoder = Encoder::new(&header, &shared.export_services());
        shared.export_flows(begun, |flow| encoder.flow(&flow));
        let file = encoder.finish();
        let written = write(&self.path.join(FLOWS), &file);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.success = written.is_ok();
        if written.is_ok() {
            last.succeeded_at = unix_time();
            last.took = clock.now().since(begun);
            last.octets = file.len() as u64;
        }
        written
    }

    /// Says in the file that a run has begun, before frames move. A full disk must not leave the file of the stop before in
    /// place, which would hide a crash from the next start: one that is empty counts as damaged.
    ///
    /// # Errors
    /// The flows cannot be saved at present.
    pub fn begin(&self, shared: &Shared, clock: &MonotonicClock) -> io::Result<()> {
        self.save(shared, clock, false).inspect_err(|_| {
            // There is nothing left to be tried if this fails, too.
            let _ = File::create(self.path.join(FLOWS));
        })
    }
}

/// Whether the directory at `path`, or its parent if it is to be made, can be used; changes nothing.
///
/// # Errors
/// It cannot be written to, or is no place for state.
pub fn examine(path: &Path) -> Result<(), StateError> {
    let unusable = |error| StateError::Unusable { path: path.to_owned(), error };
    let place = match std::fs::metadata(path) {
        Ok(metadata) => {
            let mode = metadata.mode() & 0o7777;
            if mode & 0o022 != 0 {
                return Err(StateError::OpenToOthers {
                    path: path.to_owned(),
                    mode,
                    remedy: close(path, mode),
                });
            }
            if ![0, geteuid().as_raw()].contains(&metadata.uid()) {
                return Err(StateError::ForeignOwner { path: path.to_owned(), owner: metadata.uid() });
            }
            path
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.parent().unwrap_or(path),
        Err(error) => return Err(unusable(error)),
    };
    access(place, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| unusable(errno.into()))
}

/// What to do about a directory that others may write to: not to close it where others use it.
fn close(path: &Path, mode: u32) -> String {
    let is_shared = mode & STICKY != 0 || holds_of_others(path);
    let path = path.display();
    match is_shared {
        true => {
            "others use it; give synwall one of its own, such as [state] directory = \"/var/lib/synwall\""
                .to_owned()
        }
        false => format!("close it with `chmod 700 {path}`"),
    }
}

/// Whether there is anything in it that no synwall writes.
fn holds_of_others(path: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(path) else { return true };
    entries.any(|entry| !entry.is_ok_and(|entry| OWN.iter().any(|own| entry.file_name() == **own)))
}

/// What synwall writes there, and what a crash may leave of writing it.
const OWN: [&str; 5] = [LOCK, KEY, FLOWS, "flows.new", "cookie.new"];

/// S_ISVTX: of a directory that many users share, as /tmp.
const STICKY: u32 = 0o1000;

/// Writes a checkpoint every `interval` on a thread of its own, until it is dropped.
pub struct Checkpoints {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        directory: Arc<StateDirectory>,
        shared: Arc<Shared>,
        clock: MonotonicClock,
        interval: Duration,
    ) -> io::Result<Checkpoints> {
        let (stop, stopped) = mpsc::channel();
        let work = move || {
            let mut was_written = true;
            while stopped.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
                let written = directory.save(&shared, &clock, false);
                match &written {
                    Err(error) if was_written => {
                        tracing::error!("flows cannot be saved, a crash would lose them: {error}");
                    }
                    Ok(()) if !was_written => tracing::info!("flows are saved again"),
                    _ => {}
                }
                was_written = written.is_ok();
            }
        };
        let thread = std::thread::Builder::new().name("checkpoints".into()).spawn(work)?;
        Ok(Checkpoints { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic was logged when it happened.
            let _ = thread.join();
        }
    }
}

/// Puts `octets` into the file at `path`, all of them or none, for its owner only.
pub(super) fn write(path: &Path, octets: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    // It may be a leftover with other permissions.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(octets)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    // The name is on the disk only when the directory is.
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// How long ago the file was written: within a boot by a clock that nobody sets.
fn age(header: &Header, unix: Duration) -> Duration {
    let (boot_id, uptime) = boot();
    if boot_id == header.boot_id && uptime >= header.uptime {
        uptime.saturating_sub(header.uptime)
    } else {
        unix.saturating_sub(header.unix)
    }
}

/// This boot, and the time since; zeros if the system does not tell.
fn boot() -> ([u8; 16], Duration) {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let digits: String =
        read("/proc/sys/kernel/random/boot_id").chars().filter(char::is_ascii_hexdigit).collect();
    let boot_id = u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes();
    let uptime = read("/proc/uptime").split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok());
    (boot_id, uptime.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default())
}

const FLOWS: &str = "flows";
const KEY: &str = "cookie.key";
const LOCK: &str = "lock";
/// More than the largest table makes. Keeps a wrong file from filling the memory.
const MAX_FILE_OCTETS: u64 = 16 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::{Limits, Policy};

    /// A place for a state directory that is not there yet.
    fn place(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("synwall-state-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new(Policy::new(Vec::new(), Limits::default(), 1500).unwrap(), 1, [1, 2]))
    }

    /// One start after the other in `path`: what it finds, and whether it knows all connections that live for a minute.
    fn start(path: &Path, unix: u64) -> (StateDirectory, Found, bool) {
        let directory = StateDirectory::open(path).unwrap();
        let mut engine = Engine::new(shared(), 0);
        let unix = Duration::from_secs(unix);
        let found = directory.restore(&mut engine, Instant::ZERO, unix, false);
        let knows_all = directory.knows_all(unix, Duration::from_secs(60));
        (directory, found, knows_all)
    }

    #[test]
    fn what_was_lost_is_remembered_until_it_is_dead() {
        let path = place("loss");
        let clock = MonotonicClock::new();
        let (directory, found, knows_all) = start(&path, 1_000);
        assert!(matches!(found, Found::Nothing) && knows_all, "the first run");
        directory.save(&shared(), &clock, true).unwrap();
        drop(directory);
        let (directory, found, knows_all) = start(&path, 1_010);
        assert!(matches!(found, Found::State { past, .. } if past.is_exact) && knows_all, "after a stop");
        directory.begin(&shared(), &clock).unwrap();
        drop(directory);
        let (directory, found, knows_all) = start(&path, 1_020);
        assert!(matches!(found, Found::State { past, .. } if !past.is_exact) && !knows_all, "after a crash");
        directory.save(&shared(), &clock, true).unwrap();
        drop(directory);
        for (unix, expected) in [(1_080, false), (1_081, true)] {
            let (_, found, knows_all) = start(&path, unix);
            assert!(matches!(found, Found::State { past, .. } if past.is_exact));
            assert_eq!(knows_all, expected, "at {unix}, of a loss at 1020");
        }
        std::fs::write(path.join(FLOWS), "").unwrap();
        let (_, found, knows_all) = start(&path, 2_000);
        assert!(matches!(found, Found::Damaged(_)) && !knows_all);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_directory_is_for_one_synwall_and_closed_to_others() {
        let path = place("claim");
        let first = StateDirectory::open(&path).unwrap();
        assert!(matches!(StateDirectory::open(&path), Err(StateError::Taken { .. })));
        drop(first);
        std::fs::set_permissions(&path, Permissions::from_mode(0o720)).unwrap();
        let refused = || StateDirectory::open(&path).unwrap_err().to_string();
        let place = path.display();
        assert_eq!(
            refused(),
            format!(
                "state directory {place} is open to others (mode 0720): close it with `chmod 700 {place}`"
            )
        );
        // Not one that others use.
        let of_its_own =
            "others use it; give synwall one of its own, such as [state] directory = \"/var/lib/synwall\"";
        std::fs::set_permissions(&path, Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(refused(), format!("state directory {place} is open to others (mode 1777): {of_its_own}"));
        std::fs::set_permissions(&path, Permissions::from_mode(0o770)).unwrap();
        std::fs::write(path.join("other"), "").unwrap();
        assert!(refused().ends_with(of_its_own));
        std::fs::remove_file(path.join("other")).unwrap();
        let nowhere = path.join("missing").join("state");
        assert!(matches!(examine(&nowhere), Err(StateError::Unusable { .. })));
        assert!(matches!(StateDirectory::open(&nowhere), Err(StateError::Unusable { .. })));
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let path = place("key");
        let directory = StateDirectory::open(&path).unwrap();
        super::super::key::kept(&directory.key_file()).unwrap();
        let key = std::fs::read(directory.key_file()).unwrap();
        assert_eq!((key.len(), std::fs::metadata(directory.key_file()).unwrap().mode() & 0o777), (32, 0o600));
        super::super::key::kept(&directory.key_file()).unwrap();
        assert_eq!(std::fs::read(directory.key_file()).unwrap(), key);
        // One that was damaged is not replaced behind the operator's back.
        std::fs::write(directory.key_file(), "short").unwrap();
        assert!(super::super::key::kept(&directory.key_file()).is_err());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn age_counts_within_a_boot_by_uptime_and_else_by_the_wall_clock() {
        let (boot_id, uptime) = boot();
        assert!(boot_id != [0; 16] && !uptime.is_zero());
        let header = Header { boot_id, uptime, unix: Duration::from_secs(50), ..Header::default() };
        assert!(age(&header, Duration::from_secs(5_000)) < Duration::from_secs(50), "a clock that was set");
        let other = Header { boot_id: [1; 16], ..header };
        assert_eq!(age(&other, Duration::from_secs(60)), Duration::from_secs(10));
        assert_eq!(age(&other, Duration::from_secs(40)), Duration::ZERO);
    }

    #[test]
    fn checkpoints_end_with_their_value() {
        let path = place("thread");
        let directory = Arc::new(StateDirectory::open(&path).unwrap());
        let clock = MonotonicClock::new();
        let checkpoints =
            Checkpoints::start(directory.clone(), shared(), clock, Duration::from_millis(1)).unwrap();
        while !directory.last().success {
            std::thread::yield_now();
        }
        drop(checkpoints);
        assert_eq!(Arc::strong_count(&directory), 1);
        std::fs::remove_dir_all(path).unwrap();
    }
}
