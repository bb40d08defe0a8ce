//! Messages of netlink(7), made, sent and answered. Knows the words of no protocol.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// A socket to the kernel, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one for `protocol`.
    ///
    /// # Errors
    /// The kernel has no such protocol, or the process may open no more files.
    pub fn open(protocol: SockProtocol) -> io::Result<Netlink> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        // The kernel answers before `send` returns; should it not, nothing here waits for ever.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
        Ok(Netlink(socket))
    }

    /// Sends a request; the type and the body of its answer.
    ///
    /// # Errors
    /// The kernel refuses, with the error number that it gives.
    pub fn ask(&self, request: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        send(self.0.as_raw_fd(), request, MsgFlags::empty())?;
        let answer = self.receive()?;
        let (kind, body, _) = split(&answer).ok_or_else(unreadable)?;
        check(kind, body)?;
        Ok((kind, body.to_vec()))
    }

    /// Sends requests, `count` of which ask for an [`ACK`], and waits for these.
    ///
    /// # Errors
    /// The kernel refuses one, with the error number that it gives.
    pub fn carry_out(&self, requests: &[u8], count: usize) -> io::Result<()> {
        send(self.0.as_raw_fd(), requests, MsgFlags::empty())?;
        let mut acknowledged = 0;
        while acknowledged < count {
            let answers = self.receive()?;
            let mut rest = answers.as_slice();
            while let Some((kind, body, behind)) = split(rest) {
                check(kind, body)?;
                acknowledged = acknowledged.saturating_add(1);
                rest = behind;
            }
        }
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; 1 << 16];
        let len = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(len);
        if len == 0 { Err(unreadable()) } else { Ok(answer) }
    }
}

/// A request of this type with flags besides that of a request.
pub fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER_LEN.saturating_add(body.len())).unwrap_or(u32::MAX);
    // nlmsghdr: length, type, flags, sequence number, port.
    let mut octets = len.to_ne_bytes().to_vec();
    octets.extend(kind.to_ne_bytes());
    octets.extend((flags | REQUEST).to_ne_bytes());
    octets.extend([0; 8]);
    octets.extend(body);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

/// An attribute, padded.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
    let mut octets = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    octets.extend(value);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

/// The same of a text, which the kernel wants to end with a zero.
pub fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// The value of the first attribute of this kind.
pub fn find_attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let [a, b, c, d, ..] = *attributes else { return None };
        let (len, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = attributes.get(4..len)?;
        // The two highest bits are flags (nested, byte order).
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

/// The value of an attribute that is a 32-bit word.
pub fn word(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

/// The 32-bit word at octet `at`.
pub fn word_at(octets: &[u8], at: usize) -> Option<u32> {
    word(octets.get(at..)?.get(..4)?)
}

/// The first message: its type, its body, and what is behind it.
fn split(octets: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = usize::try_from(word_at(octets, 0)?).ok()?;
    let kind = u16::from_ne_bytes(octets.get(4..6)?.try_into().ok()?);
    let body = octets.get(HEADER_LEN..len)?;
    Some((kind, body, octets.get(len.next_multiple_of(4)..).unwrap_or(&[])))
}

/// An error number, or 0 for an acknowledgement, is the first word of a message of this type.
fn check(kind: u16, body: &[u8]) -> io::Result<()> {
    match word_at(body, 0).map_or(0, |code| code.cast_signed().wrapping_neg()) {
        code if kind == ERROR && code != 0 => Err(io::Error::from_raw_os_error(code)),
        _ => Ok(()),
    }
}

fn unreadable() -> io::Error {
    io::Error::other("an answer of netlink that is none")
}

const HEADER_LEN: usize = 16;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
/// The kernel says when it is done.
pub const ACK: u16 = 4;
/// An object that exists already is an error.
pub const EXCLUSIVE: u16 = 0x200;
/// An object that does not exist is created.
pub const CREATE: u16 = 0x400;

/// Seconds that an answer may take.
const PATIENCE: i64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_in_any_octets_without_a_panic() {
        let mut octets = attribute(7, b"seven");
        octets.extend(attribute(0x8000 | 9, &5u32.to_ne_bytes()));
        assert_eq!(find_attribute(&octets, 7), Some(b"seven".as_slice()));
        assert_eq!(find_attribute(&octets, 9).and_then(word), Some(5));
        for len in 0..octets.len() {
            let _ = find_attribute(&octets[..len], 9);
        }
        assert_eq!(find_attribute(&[0; 64], 9), None);
    }

    #[test]
    fn messages_are_split_and_errors_told_in_any_octets_without_a_panic() {
        let refusal = message(ERROR, 0, &(-libc::EPERM).to_ne_bytes());
        let two = [message(16, ACK, b"odd"), refusal].concat();
        let (kind, body, behind) = split(&two).unwrap();
        assert_eq!((kind, body), (16, b"odd".as_slice()));
        assert!(check(kind, body).is_ok());
        let (kind, body, behind) = split(behind).unwrap();
        assert_eq!(check(kind, body).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(behind.is_empty());
        assert!(check(ERROR, &0u32.to_ne_bytes()).is_ok(), "an acknowledgement");
        for len in 0..two.len() {
            let _ = split(&two[..len]);
        }
        assert_eq!(split(&[0; 64]), None, "a length that does not hold the header");
    }
}
