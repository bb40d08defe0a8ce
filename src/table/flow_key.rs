//! The key of a connection, and the keyed hash of all tables.

use core::hash::{BuildHasher, Hash, Hasher};
use core::net::{IpAddr, Ipv6Addr};

use siphasher::sip::SipHasher13;

/// A connection, named from the client's side whichever way a frame travels: one key, both directions.
///
/// IPv4 addresses are kept as IPv4-mapped ones. No IPv6 frame can collide with them: a service never has such an
/// address (`config` refuses it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    client: [u8; 16],
    server: [u8; 16],
    client_port: u16,
    server_port: u16,
}

impl FlowKey {
    /// The key of the connection between these two.
    pub fn new(client: IpAddr, client_port: u16, server: IpAddr, server_port: u16) -> FlowKey {
        FlowKey { client: octets(client), server: octets(server), client_port, server_port }
    }

    /// The client's address.
    pub fn client(&self) -> IpAddr {
        Ipv6Addr::from(self.client).to_canonical()
    }

    /// The server's address.
    pub fn server(&self) -> IpAddr {
        Ipv6Addr::from(self.server).to_canonical()
    }

    /// The client's port.
    pub fn client_port(&self) -> u16 {
        self.client_port
    }

    /// The server's port.
    pub fn server_port(&self) -> u16 {
        self.server_port
    }
}

impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut octets = [0; 36];
        let (addresses, ports) = octets.split_at_mut(32);
        let (client, server) = addresses.split_at_mut(16);
        client.copy_from_slice(&self.client);
        server.copy_from_slice(&self.server);
        let (client_port, server_port) = ports.split_at_mut(2);
        client_port.copy_from_slice(&self.client_port.to_ne_bytes());
        server_port.copy_from_slice(&self.server_port.to_ne_bytes());
        state.write(&octets);
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Hashes keys with SipHash under a secret, so that nobody who chooses tuples can make them collide.
#[derive(Clone)]
pub struct TableHasher([u64; 2]);

impl TableHasher {
    /// A hasher under `key`, which must be unpredictable to clients.
    pub fn new(key: [u64; 2]) -> TableHasher {
        TableHasher(key)
    }
}

impl BuildHasher for TableHasher {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        let [k0, k1] = self.0;
        SipHasher13::new_with_keys(k0, k1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_in_their_family() {
        for (client, server) in [("198.18.0.1", "198.18.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let key = FlowKey::new(client.parse().unwrap(), 1, server.parse().unwrap(), 2);
            assert_eq!((key.client().to_string(), key.server().to_string()), (client.into(), server.into()));
            assert_eq!((key.client_port(), key.server_port()), (1, 2));
        }
    }

    #[test]
    fn every_part_of_the_key_and_the_secret_change_the_hash() {
        let hasher = TableHasher::new([1, 2]);
        let address = |last: u8| IpAddr::from([198, 18, 0, last]);
        let base = FlowKey::new(address(1), 1, address(2), 2);
        for other in [
            FlowKey::new(address(3), 1, address(2), 2),
            FlowKey::new(address(1), 3, address(2), 2),
            FlowKey::new(address(1), 1, address(3), 2),
            FlowKey::new(address(1), 1, address(2), 3),
            FlowKey::new(address(2), 2, address(1), 1),
        ] {
            assert_ne!(hasher.hash_one(base), hasher.hash_one(other));
        }
        assert_ne!(hasher.hash_one(base), TableHasher::new([1, 3]).hash_one(base));
    }
}
