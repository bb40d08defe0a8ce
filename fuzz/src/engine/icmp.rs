//! Errors that a router sends about a packet.

use std::net::IpAddr;

use synwall::wire::checksum;
use synwall::wire::frame::{self, Parsed, Version};

use super::Step;

/// The error that `step` asks for about the segment in `frame`, as it is to arrive where the frame came out.
pub fn error(frame: &[u8], step: &Step) -> Option<Vec<u8>> {
    let Parsed::Tcp(layout) = frame::parse(frame) else { return None };
    let network = layout.network;
    let (source, destination) = (network.destination(frame), network.source(frame));
    let quote = &frame[network.offset..layout.end];
    let quote = &quote[..quote.len().min(28 + usize::from(step.amount))];
    let mut message = vec![0; 8];
    (message[0], message[1]) = code(network.version, step);
    message[6..8].copy_from_slice(&[step.ack, step.window]);
    message.extend(quote);
    let is_damaged = step.flags & 128 != 0;
    let pseudo = match network.version {
        Version::V4 => 0,
        Version::V6 => checksum::pseudo_header_of(58, source, destination, message.len()),
    };
    let sum = !checksum::add(checksum::sum(&message), pseudo);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message[4] ^= u8::from(is_damaged);
    let mut error = frame[..network.offset].to_vec();
    let (back, rest) = error.split_at_mut(6);
    back.swap_with_slice(&mut rest[..6]);
    error.extend(header(source, destination, message.len()));
    error.extend(message);
    Some(error)
}

/// Type and code: mostly those that mean something.
fn code(version: Version, step: &Step) -> (u8, u8) {
    match version {
        Version::V4 => ([3, 3, 11, 4][usize::from(step.seq >> 6)], step.seq & 15),
        Version::V6 => ([1, 2, 3, 4][usize::from(step.seq >> 6)], step.seq & 7),
    }
}

fn header(source: IpAddr, destination: IpAddr, len: usize) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = (20 + len as u16).to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 61, 1, 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = !checksum::sum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (source, destination) => {
            let [high, low] = (len as u16).to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, high, low, 58, 61];
            for address in [source, destination] {
                if let IpAddr::V6(address) = address {
                    header.extend(address.octets());
                }
            }
            header
        }
    }
}
