//! The file that holds the state: a header, the services, the flows, and a digest over all of it.
//!
//! ```text
//! "SYNWALL\0" · version (4) · cause (1) · boot id (16) · uptime ns (8) · Unix ns (8) · last loss, Unix s (8)
//! epoch (1 + 8) · services (2): { name (1 + n) · learned (8) · promised (2) }
//! flows, up to the digest: { flags (1) · more flags (1) · … }
//! BLAKE3 of all before (32)
//! ```
//!
//! Numbers in network byte order. The digest is verified before anything else is looked at, so a file that was cut or
//! changed is refused as a whole; lengths are still checked against what is there. It is about 140 octets a flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use thiserror::Error;

use crate::engine::export::{
    FlowKey, LinkHeader, MAX_HEADER_LEN, SavedEnd, SavedFlow, SavedService, SavedServices,
};

/// When and why a file was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Whether the run that wrote it had stopped moving frames: else it was a checkpoint.
    pub is_final: bool,
    /// The boot it was written in.
    pub boot_id: [u8; 16],
    /// Since that boot.
    pub uptime: Duration,
    /// Since the Unix epoch.
    pub unix: Duration,
    /// When flows were last lost, in seconds since the Unix epoch; 0 for never.
    pub last_loss: u64,
}

/// Why a file is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Damage {
    /// Cut, changed, or never one of ours.
    #[error("is damaged, or was not written by synwall")]
    Digest,
    /// Whole, and of another version.
    #[error("has format version {0}, this synwall writes {VERSION}")]
    Version(u32),
    /// Whole, and makes no sense.
    #[error("is whole but makes no sense")]
    Content,
}

/// A file in the making.
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// The beginning of a file.
    pub fn new(header: &Header, services: &SavedServices) -> Encoder {
        let mut file = Encoder(Vec::with_capacity(FIRST_CAPACITY));
        file.put(MAGIC);
        file.put(VERSION.to_be_bytes());
        file.put([u8::from(header.is_final)]);
        file.put(header.boot_id);
        file.put(nanos(header.uptime));
        file.put(nanos(header.unix));
        file.put(header.last_loss.to_be_bytes());
        file.put([u8::from(services.epoch.is_some())]);
        file.put(services.epoch.unwrap_or(0).to_be_bytes());
        let services = services.services.get(..usize::from(u16::MAX)).unwrap_or(&services.services);
        file.put(u16::try_from(services.len()).unwrap_or(u16::MAX).to_be_bytes());
        for service in services {
            let name = service.name.as_bytes();
            let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
            file.put([len]);
            file.0.extend(name.iter().take(usize::from(len)));
            file.put(service.learned.to_be_bytes());
            file.put(service.promised);
        }
        file
    }

    /// Adds a flow.
    pub fn flow(&mut self, flow: &SavedFlow) {
        let (client, server) = (flow.key.client(), flow.key.server());
        let bit = |is_set: bool, bit: u8| if is_set { 1u8 << bit } else { 0 };
        self.put([
            bit(client.is_ipv6(), 0)
                | bit(flow.is_direct, 1)
                | bit(flow.strips_sack, 2)
                | bit(flow.strips_ecn, 3)
                | bit(flow.client_tsval.is_some(), 4),
            bit(flow.client.is_known, 0)
                | bit(flow.client.fin.is_some(), 1)
                | bit(flow.server.is_known, 2)
                | bit(flow.server.fin.is_some(), 3)
                | flow.state << 4,
        ]);
        self.address(client);
        self.address(server);
        self.put(flow.key.client_port().to_be_bytes());
        self.put(flow.key.server_port().to_be_bytes());
        self.put(flow.service.to_be_bytes());
        self.put(nanos(flow.idle));
        let [latest, reach] = flow.clock;
        let tsval = flow.client_tsval.unwrap_or(0);
        for number in [flow.client_iss, flow.server_iss, tsval, flow.delta, flow.ts_delta, latest, reach] {
            self.put(number.to_be_bytes());
        }
        self.put(flow.server_window);
        self.put(flow.client_window);
        self.end(&flow.client);
        self.end(&flow.server);
        let link = flow.link.octets();
        self.put([u8::try_from(link.len()).unwrap_or(0)]);
        self.0.extend_from_slice(link);
    }

    /// The whole file.
    pub fn finish(mut self) -> Vec<u8> {
        let digest = blake3::hash(&self.0);
        self.put(*digest.as_bytes());
        self.0
    }

    fn end(&mut self, end: &SavedEnd) {
        for number in [end.next, end.acked, end.edge, end.max_window, end.fin.unwrap_or(0)] {
            self.put(number.to_be_bytes());
        }
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.put(v4.octets()),
            IpAddr::V6(v6) => self.put(v6.octets()),
        }
    }

    fn put<const N: usize>(&mut self, octets: [u8; N]) {
        self.0.extend_from_slice(&octets);
    }
}

/// A file that was found whole; iterating gives its flows.
#[derive(Debug)]
pub struct Decoder<'f> {
    /// When and why it was written.
    pub header: Header,
    /// Its services.
    pub services: SavedServices,
    flows: Reader<'f>,
}

impl<'f> Decoder<'f> {
    /// Verifies `file` to its end.
    ///
    /// # Errors
    /// Any bit of it is not as it was written.
    pub fn new(file: &'f [u8]) -> Result<Decoder<'f>, Damage> {
        let (body, digest) = file.split_last_chunk::<DIGEST_LEN>().ok_or(Damage::Digest)?;
        if blake3::hash(body) != *digest {
            return Err(Damage::Digest);
        }
        let mut reader = Reader(body);
        if reader.take() != Some(MAGIC) {
            return Err(Damage::Digest);
        }
        match reader.u32() {
            Some(VERSION) => {}
            version => return Err(Damage::Version(version.unwrap_or(0))),
        }
        let (header, services) = header(&mut reader).ok_or(Damage::Content)?;
        // All flows are read before the first is used.
        let mut flows = Reader(reader.0);
        while !flows.0.is_empty() {
            flows.flow().ok_or(Damage::Content)?;
        }
        Ok(Decoder { header, services, flows: reader })
    }

    /// Its flows.
    pub fn flows(&self) -> impl Iterator<Item = SavedFlow> + use<'f> {
        let mut reader = Reader(self.flows.0);
        std::iter::from_fn(move || reader.flow())
    }
}

fn header(reader: &mut Reader<'_>) -> Option<(Header, SavedServices)> {
    let header = Header {
        is_final: reader.boolean()?,
        boot_id: reader.take()?,
        uptime: reader.duration()?,
        unix: reader.duration()?,
        last_loss: reader.u64()?,
    };
    let has_epoch = reader.boolean()?;
    let epoch = reader.u64()?;
    let count = reader.u16()?;
    let mut services = Vec::new();
    for _ in 0..count {
        let [len] = reader.take()?;
        let name = String::from_utf8(reader.slice(usize::from(len))?.to_vec()).ok()?;
        services.push(SavedService { name, learned: reader.u64()?, promised: reader.take()? });
    }
    Some((header, SavedServices { epoch: has_epoch.then_some(epoch), services }))
}

/// What is left to be read.
#[derive(Clone, Copy, Debug)]
struct Reader<'f>(&'f [u8]);

impl<'f> Reader<'f> {
    fn flow(&mut self) -> Option<SavedFlow> {
        let [flags, more] = self.take()?;
        let bit = |octet: u8, bit: u8| octet & (1 << bit) != 0;
        let (client, server) = if bit(flags, 0) {
            (Ipv6Addr::from(self.take::<16>()?).into(), Ipv6Addr::from(self.take::<16>()?).into())
        } else {
            (IpAddr::from(Ipv4Addr::from(self.take::<4>()?)), Ipv4Addr::from(self.take::<4>()?).into())
        };
        let (client_port, server_port) = (self.u16()?, self.u16()?);
        let (service, idle) = (self.u16()?, self.duration()?);
        let (client_iss, server_iss, tsval) = (self.u32()?, self.u32()?, self.u32()?);
        let (delta, ts_delta) = (self.u32()?, self.u32()?);
        let clock = [self.u32()?, self.u32()?];
        Some(SavedFlow {
            key: FlowKey::new(client, client_port, server, server_port),
            service,
            idle,
            state: more >> 4,
            is_direct: bit(flags, 1),
            client_iss,
            server_iss,
            client_tsval: bit(flags, 4).then_some(tsval),
            delta,
            ts_delta,
            clock,
            server_window: self.take()?,
            client_window: self.take()?,
            strips_sack: bit(flags, 2),
            strips_ecn: bit(flags, 3),
            client: self.end(bit(more, 0), bit(more, 1))?,
            server: self.end(bit(more, 2), bit(more, 3))?,
            link: self.link()?,
        })
    }

    fn end(&mut self, is_known: bool, has_fin: bool) -> Option<SavedEnd> {
        let (next, acked, edge, max_window, fin) =
            (self.u32()?, self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        Some(SavedEnd { is_known, next, acked, edge, max_window, fin: has_fin.then_some(fin) })
    }

    fn link(&mut self) -> Option<LinkHeader> {
        let [len] = self.take()?;
        let len = usize::from(len);
        (len <= MAX_HEADER_LEN).then_some(LinkHeader::of(self.slice(len)?, len))
    }

    fn boolean(&mut self) -> Option<bool> {
        match self.take()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn duration(&mut self) -> Option<Duration> {
        self.u64().map(Duration::from_nanos)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (octets, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*octets)
    }

    fn slice(&mut self, len: usize) -> Option<&'f [u8]> {
        let (octets, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(octets)
    }
}

fn nanos(duration: Duration) -> [u8; 8] {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).to_be_bytes()
}

const MAGIC: [u8; 8] = *b"SYNWALL\0";
const VERSION: u32 = 2;
const DIGEST_LEN: usize = 32;
const FIRST_CAPACITY: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(client: &str, server: &str, number: u32, flag: bool) -> SavedFlow {
        let end = |n: u32| SavedEnd {
            is_known: flag,
            next: n,
            acked: n + 1,
            edge: n + 2,
            max_window: n + 3,
            fin: (!flag).then_some(n + 4),
        };
        SavedFlow {
            key: FlowKey::new(client.parse().unwrap(), 40_000, server.parse().unwrap(), 80),
            service: 1,
            idle: Duration::from_nanos(u64::from(number)),
            state: 4,
            is_direct: flag,
            client_iss: number,
            server_iss: number + 4,
            client_tsval: flag.then_some(number + 1),
            delta: number + 2,
            ts_delta: number + 3,
            clock: [number + 5, number + 6],
            server_window: [7, 14],
            client_window: [0, 1],
            strips_sack: !flag,
            strips_ecn: flag,
            client: end(number + 10),
            server: end(number + 20),
            link: LinkHeader::of(&[3; 30], if flag { 14 } else { 22 }),
        }
    }

    fn state() -> (Header, SavedServices, Vec<SavedFlow>) {
        let service = |name: &str, learned| SavedService { name: name.into(), learned, promised: [3, 14] };
        let header = Header {
            is_final: true,
            boot_id: [9; 16],
            uptime: Duration::from_millis(12_345),
            unix: Duration::from_nanos(1_700_000_000_000_000_007),
            last_loss: 77,
        };
        let services = SavedServices {
            epoch: Some(u64::MAX),
            services: vec![service("web", 0x0102_0304_0506_0708), service(&"x".repeat(64), 0)],
        };
        let flows = vec![
            flow("198.18.0.1", "198.18.255.2", 0x8000_0000, true),
            flow("2001:db8::1", "2001:db8:255::2", 1, false),
        ];
        (header, services, flows)
    }

    fn file() -> Vec<u8> {
        let (header, services, flows) = state();
        let mut file = Encoder::new(&header, &services);
        flows.iter().for_each(|flow| file.flow(flow));
        file.finish()
    }

    #[test]
    fn what_was_written_is_read() {
        let (header, services, flows) = state();
        let file = file();
        let decoder = Decoder::new(&file).unwrap();
        assert_eq!(decoder.header, header);
        assert_eq!(decoder.services, services);
        assert_eq!(decoder.flows().collect::<Vec<_>>(), flows);
        let empty = Encoder::new(&Header::default(), &SavedServices::default()).finish();
        let decoder = Decoder::new(&empty).unwrap();
        assert_eq!((decoder.header, decoder.services.clone()), Default::default());
        assert_eq!(decoder.flows().count(), 0);
    }

    #[test]
    fn every_cut_is_refused() {
        let file = file();
        for len in 0..file.len() {
            assert_eq!(Decoder::new(&file[..len]).unwrap_err(), Damage::Digest, "{len} octets");
        }
        assert_eq!(Decoder::new(&[&file[..], &[0]].concat()).unwrap_err(), Damage::Digest);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let mut file = file();
        for bit in 0..file.len() * 8 {
            file[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Decoder::new(&file).unwrap_err(), Damage::Digest, "bit {bit}");
            file[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(Decoder::new(&file).is_ok());
    }

    /// A file with a good digest is still not believed in its lengths.
    #[test]
    fn every_cut_under_a_good_digest_is_refused_or_loses_whole_flows() {
        let file = file();
        let body = &file[..file.len() - DIGEST_LEN];
        let whole: Vec<usize> = (0..body.len())
            .filter(|len| {
                let digest = blake3::hash(&body[..*len]);
                Decoder::new(&[&body[..*len], digest.as_bytes()].concat()).is_ok()
            })
            .collect();
        assert_eq!(whole.len(), 2, "behind the services, and behind the first flow: {whole:?}");
    }

    #[test]
    fn other_versions_and_senseless_content_are_named() {
        let longer_link = |body: &mut Vec<u8>| {
            let at = body.len() - 1 - MAX_HEADER_LEN;
            body[at] += 1;
            body.push(3);
        };
        let signed = |change: fn(&mut Vec<u8>)| {
            let file = file();
            let mut body = file[..file.len() - DIGEST_LEN].to_vec();
            change(&mut body);
            let digest = blake3::hash(&body);
            Decoder::new(&[&body[..], digest.as_bytes()].concat()).unwrap_err()
        };
        assert_eq!(signed(|body| body[11] = 1), Damage::Version(1));
        assert_eq!(signed(|body| body[0] = b'X'), Damage::Digest);
        assert_eq!(signed(|body| body[12] = 2), Damage::Content);
        assert_eq!(signed(longer_link), Damage::Content, "a link header longer than any");
    }
}
