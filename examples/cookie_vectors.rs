//! Prints `tests/vectors/cookie.toml`.
//!
//! ```text
//! cargo run --no-default-features --example cookie_vectors > tests/vectors/cookie.toml
//! ```
//!
//! The result comes from the library itself, so it proves nothing alone: `tests/cookie_vectors.rs` and
//! `tests/vectors/check_cookie_vectors.py` recompute every number from the formulas.

// An example may stop when its assumptions fail.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used)]

use std::net::IpAddr;
use std::time::Duration;

use siphasher::sip::SipHasher24;

use synwall::cookie::layout::MSS_FINE;
use synwall::cookie::{KeyRing, MasterKey, Minted, Offer, Redeemed, Tuple, check, mint};
use synwall::wire::seq::SeqNumber;

fn main() {
    print!("{HEADER}");
    let cases: Vec<Case> = (0..192).map(Case::numbered).collect();
    for case in &cases {
        print_mint(case);
    }
    for case in cases.iter().step_by(11) {
        for attempt in attempts(case) {
            print_check(&attempt);
        }
    }
}

/// A SYN and what it is answered with.
struct Case {
    name: String,
    master: [u8; 32],
    epoch: u64,
    tuple: Tuple,
    client_iss: u32,
    offer: Offer,
    unix: Duration,
    minted: Minted,
}

impl Case {
    /// Case `number`: the offers walk through the tables (below, on, above an entry), the rest looks random.
    fn numbered(number: u16) -> Case {
        let mut numbers = Numbers(u64::from(number));
        let is_ipv6 = number % 2 == 1;
        let step = number / 2;
        let offer = Offer {
            mss: if step < PLAIN { mss_offer(is_ipv6, step) } else { fine_mss_offer(step - PLAIN) },
            wscale: match step % 18 {
                0 => None,
                17 => Some(255),
                shift => u8::try_from(shift).ok().map(|shift| shift - 1),
            },
            sack: !step.is_multiple_of(3),
            timestamps: step >= PLAIN,
            ecn: step % 4 == 3,
        };
        let epoch = [0, 1, 55_000_000, 55_000_001, 0x0102_0304_0506_0708][usize::from(step) % 5];
        let lap = 1 << 41;
        let unix = Duration::from_nanos(
            [
                0,
                lap - 1,
                lap,
                1_760_000_000_123_456_789,
                1_760_001_024_000_000_000,
                4_294_967_296_000_000_000,
            ][usize::from(step) % 6],
        );
        let client_iss = [0, u32::MAX, 4_294_957_295, numbers.word()][usize::from(step) % 4];
        let master: [u8; 32] = std::array::from_fn(|_| numbers.octet());
        let tuple = Tuple {
            source: numbers.address(is_ipv6),
            destination: numbers.address(is_ipv6),
            source_port: numbers.port(),
            destination_port: [80, 443, 65_535, numbers.port()][usize::from(step) % 4],
        };
        let ring = KeyRing::at(&MasterKey::from_bytes(master), epoch);
        let minted = mint(&ring, &tuple, SeqNumber(client_iss), &offer, unix);
        let name = format!("{}-{step:02}", if is_ipv6 { "ipv6" } else { "ipv4" });
        Case { name, master, epoch, tuple, client_iss, offer, unix, minted }
    }

    fn key(&self) -> [u8; 16] {
        let material = [&self.master[..], &self.epoch.to_le_bytes()].concat();
        blake3::derive_key("synwall cookie epoch key v1", &material)[..16]
            .try_into()
            .expect("16 of 32 octets")
    }

    fn flags(&self) -> u8 {
        let [first, .., masked] = self.minted.isn.0.to_be_bytes();
        first ^ masked
    }

    fn extra(&self) -> u8 {
        let has_ecn = self.offer.timestamps && self.offer.ecn;
        0x20 | u8::from(has_ecn) << 1 | u8::from(self.offer.timestamps)
    }

    fn scale(&self) -> u8 {
        self.offer.wscale.filter(|_| self.offer.timestamps).map_or(0, |wscale| wscale.min(14) + 1)
    }

    fn message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        for address in [self.tuple.source, self.tuple.destination] {
            match address {
                IpAddr::V4(address) => message.extend(address.octets()),
                IpAddr::V6(address) => message.extend(address.octets()),
            }
        }
        message.extend(self.tuple.source_port.to_be_bytes());
        message.extend(self.tuple.destination_port.to_be_bytes());
        message.extend(self.client_iss.to_be_bytes());
        message.extend([self.flags(), self.extra(), self.scale()]);
        message
    }
}

fn print_mint(case: &Case) {
    let message = case.message();
    println!("\n[[mint]]");
    println!("name = \"{}\"", case.name);
    println!("master = \"{}\"", hex(&case.master));
    println!("epoch = {}", case.epoch);
    println!("key = \"{}\"", hex(&case.key()));
    print_tuple(&case.tuple, case.client_iss);
    print_offer(&case.offer);
    println!("unix_nanos = {}", case.unix.as_nanos());
    println!("message = \"{}\"", hex(&message));
    println!("h = \"{:016x}\"", SipHasher24::new_with_key(&case.key()).hash(&message));
    println!("flags = {:#04x}", case.flags());
    println!("extra = {:#04x}", case.extra());
    println!("scale = {:#04x}", case.scale());
    println!("isn = {}", case.minted.isn);
    println!("tsval = {}", case.minted.tsval);
}

/// An ACK and whether it redeems a cookie.
struct Attempt<'a> {
    what: String,
    case: &'a Case,
    ring_epoch: u64,
    tuple: Tuple,
    client_iss: u32,
    isn: u32,
    tsecr: Option<u32>,
    accept: bool,
}

/// The genuine ACK in both epochs in which it lives, and what must be refused.
fn attempts(case: &Case) -> Vec<Attempt<'_>> {
    let genuine = |what: &str, ring_epoch, accept| Attempt {
        what: what.to_owned(),
        case,
        ring_epoch,
        tuple: case.tuple,
        client_iss: case.client_iss,
        isn: case.minted.isn.0,
        tsecr: case.offer.timestamps.then_some(case.minted.tsval),
        accept,
    };
    let forged = |what: &str| genuine(what, case.epoch, false);
    let mut all = vec![
        genuine("genuine, in its own epoch", case.epoch, true),
        genuine("genuine, one epoch later", case.epoch + 1, true),
        genuine("genuine, two epochs later", case.epoch + 2, false),
        Attempt { client_iss: case.client_iss ^ 1, ..forged("client_iss off by a bit") },
        Attempt { isn: case.minted.isn.add(1).0, ..forged("isn off by one") },
        Attempt { isn: case.minted.isn.0 ^ 0x01, ..forged("MSS index changed") },
        Attempt { isn: case.minted.isn.0 ^ 0x40, ..forged("SACK flag changed") },
        Attempt { isn: case.minted.isn.0 ^ 0x80, ..forged("epoch parity changed") },
        Attempt { isn: case.minted.isn.0 ^ 0x8000_0080, ..forged("first MAC bit and parity changed") },
        Attempt {
            tuple: Tuple { source_port: case.tuple.source_port ^ 1, ..case.tuple },
            ..forged("other source port")
        },
        Attempt {
            tuple: Tuple { source: case.tuple.destination, destination: case.tuple.source, ..case.tuple },
            ..forged("addresses swapped")
        },
    ];
    if case.offer.timestamps {
        let tsval = case.minted.tsval;
        all.push(Attempt { tsecr: None, ..forged("timestamps option dropped") });
        for (what, bits) in FLIPPED {
            all.push(Attempt {
                tsecr: Some(tsval ^ bits),
                ..forged(&format!("{what} bit of tsecr changed"))
            });
        }
        let moved = tsval ^ (1 << 13) ^ 1;
        all.push(Attempt {
            tsecr: Some(moved),
            ..genuine("clock moved with its MAC bit: harmless", case.epoch, true)
        });
    } else {
        all.push(Attempt { tsecr: Some(0), ..forged("timestamps option added") });
    }
    all
}

fn print_check(attempt: &Attempt<'_>) {
    let ring = KeyRing::at(&MasterKey::from_bytes(attempt.case.master), attempt.ring_epoch);
    let (iss, isn) = (SeqNumber(attempt.client_iss), SeqNumber(attempt.isn));
    let redeemed = check(&ring, &attempt.tuple, iss, isn, attempt.tsecr);
    assert_eq!(redeemed.is_some(), attempt.accept, "{}: {}", attempt.case.name, attempt.what);
    println!("\n[[check]]");
    println!("name = \"{}\"", attempt.case.name);
    println!("what = \"{}\"", attempt.what);
    println!("master = \"{}\"", hex(&attempt.case.master));
    println!("ring_epoch = {}", attempt.ring_epoch);
    print_tuple(&attempt.tuple, attempt.client_iss);
    println!("isn = {isn}");
    if let Some(tsecr) = attempt.tsecr {
        println!("tsecr = {tsecr}");
    }
    println!("accept = {}", attempt.accept);
    if let Some(Redeemed { offer, epoch }) = redeemed {
        println!("epoch = {epoch}");
        print_offer(&offer);
    }
}

fn print_tuple(tuple: &Tuple, client_iss: u32) {
    println!("source = \"{}\"", tuple.source);
    println!("destination = \"{}\"", tuple.destination);
    println!("source_port = {}", tuple.source_port);
    println!("destination_port = {}", tuple.destination_port);
    println!("client_iss = {client_iss}");
}

fn print_offer(offer: &Offer) {
    println!("mss = {}", offer.mss);
    if let Some(wscale) = offer.wscale {
        println!("wscale = {wscale}");
    }
    println!("sack = {}", offer.sack);
    println!("timestamps = {}", offer.timestamps);
    println!("ecn = {}", offer.ecn);
}

fn mss_offer(is_ipv6: bool, step: u16) -> u16 {
    const IPV4: [u16; 8] = [48, 536, 960, 1220, 1360, 1440, 1460, 8960];
    const IPV6: [u16; 8] = [48, 536, 1220, 1280, 1360, 1420, 1440, 8940];
    let entry = if is_ipv6 { IPV6 } else { IPV4 }[usize::from(step % 8)];
    match step / 8 % 3 {
        0 => entry,
        1 => entry.saturating_add(1),
        _ => entry.saturating_sub(1),
    }
}

/// The least and the most of what an entry of the table with timestamps stands for, by turns.
fn fine_mss_offer(step: u16) -> u16 {
    let next = MSS_FINE.get(usize::from(step) + 1);
    if step.is_multiple_of(2) { MSS_FINE[usize::from(step)] } else { next.map_or(u16::MAX, |next| next - 1) }
}

/// So many steps are without timestamps.
const PLAIN: u16 = 32;

const FLIPPED: [(&str, u32); 5] =
    [("MAC", 1), ("scale", 1 << 8), ("ECN", 1 << 12), ("clock", 1 << 13), ("topmost clock", 1 << 31)];

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Fixed numbers that look random: splitmix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn word(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).unwrap()
    }

    fn port(&mut self) -> u16 {
        u16::try_from(self.next() >> 48).unwrap()
    }

    fn octet(&mut self) -> u8 {
        u8::try_from(self.next() >> 56).unwrap()
    }

    fn address(&mut self, is_ipv6: bool) -> IpAddr {
        if is_ipv6 {
            IpAddr::from(std::array::from_fn::<u8, 16, _>(|_| self.octet()))
        } else {
            IpAddr::from(self.word().to_be_bytes())
        }
    }
}

const HEADER: &str = "\
# Cookie vectors, version 2: what any implementation of docs/cookie.md must reproduce. Generated by
#   cargo run --no-default-features --example cookie_vectors > tests/vectors/cookie.toml
# and checked by tests/cookie_vectors.rs and, without any Rust, by tests/vectors/check_cookie_vectors.py.
#
# Each table is complete in itself and has one `key = value` a line. Integers are decimal unless they begin with 0x;
# hex strings are octets in the order in which they lie in memory; addresses are as in RFC 5952.
#
# [[mint]]: a SYN and the numbers of the SYN-ACK that answers it.
#   name              which vector this is
#   master            the master key, 32 octets
#   epoch             the epoch in which the cookie is minted; bit 0 is its parity
#   key               the SipHash key of that epoch, 16 octets: the start of
#                     BLAKE3 derive_key(\"synwall cookie epoch key v1\", master || epoch as 8 octets, little-endian)
#   source, destination, source_port, destination_port
#                     the connection as the client's segments carry it
#   client_iss        SEG.SEQ of the SYN
#   mss, wscale, sack, timestamps, ecn
#                     the offer to be carried; no `wscale` means no window scale option,
#                     which is not the same as `wscale = 0`
#   unix_nanos        the time, nanoseconds since 1970: the TSval carries 19 bits of its units of 2^22 ns
#   message           what is hashed: source || destination || ports || client_iss || flags || extra || scale,
#                     network byte order
#   h                 SipHash-2-4(key, message) as a 64-bit number, most significant digit first
#   flags             parity << 7 | sack << 6 | wscale index << 3 | MSS index; with timestamps
#                     parity << 7 | sack << 6 | MSS index of 64
#   extra             version 2 << 4 | ecn << 1 | timestamps; ecn counts only with timestamps
#   scale             with timestamps: 0 for no window scale, else one more than it, at most 15; without them 0
#   isn               (h >> 40) << 8 | (flags ^ h >> 56)
#   tsval             clock << 13 | ecn << 12 | scale << 8 | ((h ^ clock ^ clock >> 8 ^ clock >> 16) & 0xff)
#                     with clock = unix_nanos >> 22 & 0x7ffff; 0 and not to be sent without timestamps
#
# [[check]]: an ACK and what becomes of it.
#   name, what        the [[mint]] it comes from, and what was done to it
#   master            the master key
#   ring_epoch        the newest epoch the checker knows; the one before it (if there is one) is live too
#   source .. client_iss
#                     as above; client_iss is SEG.SEQ - 1 of the ACK
#   isn               SEG.ACK - 1 of the ACK
#   tsecr             TSecr of the ACK; absent if it has no timestamps option
#   accept            whether the cookie is genuine
#   epoch, mss, wscale, sack, timestamps, ecn
#                     only if accepted: when it was minted, and the offer it carries, rounded down to the tables
";
