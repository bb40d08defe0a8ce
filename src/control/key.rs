//! Where the master key comes from: a file that only its owner can read, or the system's random numbers.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::cookie::MasterKey;

/// Why there is no key. Says nothing of what is in the file.
#[derive(Debug, Error)]
pub enum KeyError {
    /// There is none.
    #[error(
        "key file {} is not there; make one with `(umask 077; openssl rand -hex 32 > {})`, or change [cookie] key_file",
        path.display(), path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("key file {} cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        error: io::Error,
    },
    /// A new key cannot be kept.
    #[error("key file {} cannot be written: {error}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        error: io::Error,
    },
    /// A directory, a device, a pipe.
    #[error("key file {} is not a regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else could read the key, and forge cookies with it.
    #[error("key file {} is open to others (mode {mode:04o}); close it with `chmod 600 {}`", path.display(), path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Its owner could open it to others at any time.
    #[error("key file {} belongs to user {owner}; give it to the user that runs synwall, or to root", path.display())]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
    },
    /// Neither of the two forms.
    #[error(
        "key file {} holds neither 64 hexadecimal digits nor 32 octets; make one with `openssl rand -hex 32`",
        path.display()
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no random numbers.
    #[error("no random numbers from the system: {0}")]
    NoRandomness(getrandom::Error),
}

/// The master key from `file`, or a random one.
///
/// # Errors
/// The file is no place for a key, or holds none.
pub fn master(file: Option<&Path>) -> Result<MasterKey, KeyError> {
    let octets = match file {
        Some(path) => Zeroizing::new(*read(path)?),
        None => random::<32>()?,
    };
    Ok(MasterKey::from_bytes(*octets))
}

/// The master key that is kept in `file`: random, and written there, if there is none yet.
///
/// # Errors
/// The file is no place for a key, holds none, or cannot be written.
pub fn kept(file: &Path) -> Result<MasterKey, KeyError> {
    match read(file) {
        Err(KeyError::Missing { .. }) => {
            let octets = random::<32>()?;
            super::state::write(file, octets.as_ref())
                .map_err(|error| KeyError::Unwritable { path: file.to_owned(), error })?;
            Ok(MasterKey::from_bytes(*octets))
        }
        read => Ok(MasterKey::from_bytes(*read?)),
    }
}

/// A random key for the tables' hash function.
///
/// # Errors
/// The system gives none.
pub fn hash_key<const N: usize>() -> Result<[u64; N], KeyError> {
    let mut words = [0; N];
    for word in &mut words {
        *word = u64::from_ne_bytes(*random()?);
    }
    Ok(words)
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, KeyError> {
    let mut octets = Zeroizing::new([0; N]);
    #[expect(clippy::disallowed_methods, reason = "the one place where randomness enters")]
    getrandom::fill(octets.as_mut()).map_err(KeyError::NoRandomness)?;
    Ok(octets)
}

fn read(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let unreadable = |error| KeyError::Unreadable { path: path.to_owned(), error };
    // O_NONBLOCK: a pipe in its place must not hold up the start. The open file is checked, not its name.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KeyError::Missing { path: path.to_owned() },
        _ => unreadable(error),
    })?;
    check_access(path, &file)?;
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_OCTETS));
    file.take(MAX_OCTETS as u64).read_to_end(&mut text).map_err(unreadable)?;
    parse(&text).ok_or_else(|| KeyError::NotAKey { path: path.to_owned() })
}

fn check_access(path: &Path, file: &File) -> Result<(), KeyError> {
    let path = || path.to_owned();
    let metadata = file.metadata().map_err(|error| KeyError::Unreadable { path: path(), error })?;
    let mode = metadata.permissions().mode() & 0o7777;
    if !metadata.is_file() {
        return Err(KeyError::NotRegular { path: path() });
    }
    if mode & 0o077 != 0 {
        return Err(KeyError::OpenToOthers { path: path(), mode });
    }
    if ![0, geteuid().as_raw()].contains(&metadata.uid()) {
        return Err(KeyError::ForeignOwner { path: path(), owner: metadata.uid() });
    }
    Ok(())
}

/// 32 octets, or 64 hexadecimal digits with white space around them.
fn parse(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    if let Ok(octets) = <[u8; 32]>::try_from(text) {
        return Some(Zeroizing::new(octets));
    }
    let digits = text.trim_ascii();
    if digits.len() != 64 {
        return None;
    }
    let mut key = Zeroizing::new([0; 32]);
    for (octet, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            *octet = (*octet << 4) | u8::try_from(char::from(*digit).to_digit(16)?).ok()?;
        }
    }
    Some(key)
}

/// More than any key file has: two lines of it would already be wrong.
const MAX_OCTETS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_32_octets_or_64_digits() {
        let digits = b"000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F\n";
        let octets: Vec<u8> = (0..32).collect();
        assert_eq!(parse(digits).unwrap().as_slice(), octets);
        assert_eq!(parse(&octets).unwrap().as_slice(), octets);
        for wrong in [&digits[..63], &octets[..31], b"", &[b'g'; 64], &[b'0'; 65]] {
            assert!(parse(wrong).is_none());
        }
    }
}
