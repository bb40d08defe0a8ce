//! Closes ports to the host's own stack, which would answer ARP, ping and TCP on them for any address that the host has.
//!
//! A table of nf_tables drops all that arrives on the ports, behind XDP and behind packet sockets, which have their copy by
//! then. The table is owned by a socket and goes with it, however the process ends (`NFT_TABLE_F_OWNER`, Linux 5.12).

use std::io;

use nix::sys::socket::SockProtocol;

use super::netlink::{self, ACK, CREATE, EXCLUSIVE, Netlink, attribute, text};

/// Ports that are closed to the host's stack for as long as this value lives.
#[derive(Debug)]
pub struct Closed {
    _owner: Netlink,
}

/// Closes the interfaces; `table` is what the table is called.
///
/// # Errors
/// The kernel is too old for it or has no nf_tables, or the privilege is missing (CAP_NET_ADMIN).
pub fn close(table: &str, interfaces: &[&str]) -> io::Result<Closed> {
    let owner = Netlink::open(SockProtocol::NetlinkNetFilter)?;
    let acknowledged = interfaces.len().saturating_add(1);
    owner.carry_out(&batch(table, interfaces), acknowledged)?;
    Ok(Closed { _owner: owner })
}

/// A transaction: the table, and for each interface a chain without a rule whose policy is to drop.
fn batch(table: &str, interfaces: &[&str]) -> Vec<u8> {
    let named = [text(TABLE_NAME, table), attribute(TABLE_FLAGS, &OWNER.to_be_bytes())].concat();
    let mut octets = [begin_or_end(BATCH_BEGIN), request(NEW_TABLE, &named)].concat();
    for interface in interfaces {
        let hook = [
            attribute(HOOK_NUMBER, &INGRESS.to_be_bytes()),
            attribute(HOOK_PRIORITY, &0_u32.to_be_bytes()),
            text(HOOK_DEVICE, interface),
        ];
        let chain = [
            text(CHAIN_TABLE, table),
            text(CHAIN_NAME, interface),
            attribute(CHAIN_HOOK | NESTED, &hook.concat()),
            attribute(CHAIN_POLICY, &DROP.to_be_bytes()),
            text(CHAIN_TYPE, "filter"),
        ];
        octets.extend(request(NEW_CHAIN, &chain.concat()));
    }
    octets.extend(begin_or_end(BATCH_END));
    octets
}

fn request(kind: u16, attributes: &[u8]) -> Vec<u8> {
    // nfgenmsg: family, version, resource.
    let body = [&[NETDEV, 0, 0, 0], attributes].concat();
    netlink::message(NF_TABLES << 8 | kind, CREATE | EXCLUSIVE | ACK, &body)
}

fn begin_or_end(kind: u16) -> Vec<u8> {
    let [high, low] = NF_TABLES.to_be_bytes();
    netlink::message(kind, 0, &[0, 0, high, low])
}

const NF_TABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
/// `NFPROTO_NETDEV`: hooks of a device.
const NETDEV: u8 = 5;
const NESTED: u16 = 0x8000;
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const OWNER: u32 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
const INGRESS: u32 = 0;
const DROP: u32 = 0;
