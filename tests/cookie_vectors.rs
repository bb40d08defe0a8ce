//! The committed cookie vectors, `tests/vectors/cookie.toml`, against the library.
//!
//! Intermediate values (key, message, hash, flags, extra) are recomputed here from the formulas and the tables of
//! `docs/cookie.md`, so that the file cannot drift from its own description.

// A test may stop when its assumptions fail.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use siphasher::sip::SipHasher24;

use synwall::cookie::{KeyRing, MasterKey, Minted, Offer, Redeemed, Tuple, check, mint};
use synwall::wire::seq::SeqNumber;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    mint: Vec<Mint>,
    check: Vec<Check>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mint {
    name: String,
    master: String,
    epoch: u64,
    key: String,
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    destination_port: u16,
    client_iss: u32,
    mss: u16,
    wscale: Option<u8>,
    sack: bool,
    timestamps: bool,
    ecn: bool,
    unix_nanos: u64,
    message: String,
    h: String,
    flags: u8,
    extra: u8,
    scale: u8,
    isn: u32,
    tsval: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    name: String,
    what: String,
    master: String,
    ring_epoch: u64,
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    destination_port: u16,
    client_iss: u32,
    isn: u32,
    tsecr: Option<u32>,
    accept: bool,
    epoch: Option<u64>,
    mss: Option<u16>,
    wscale: Option<u8>,
    sack: Option<bool>,
    timestamps: Option<bool>,
    ecn: Option<bool>,
}

impl Mint {
    fn tuple(&self) -> Tuple {
        Tuple {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
        }
    }

    fn offer(&self) -> Offer {
        Offer {
            mss: self.mss,
            wscale: self.wscale,
            sack: self.sack,
            timestamps: self.timestamps,
            ecn: self.ecn,
        }
    }

    fn expected_flags(&self) -> u8 {
        let mss_table = match self.source {
            IpAddr::V4(_) => [48, 536, 960, 1220, 1360, 1440, 1460, 8960],
            IpAddr::V6(_) => [48, 536, 1220, 1280, 1360, 1420, 1440, 8940],
        };
        let parity = u8::try_from(self.epoch % 2).unwrap();
        let first = parity << 7 | u8::from(self.sack) << 6;
        if self.timestamps {
            return first | self.expected_fine_index();
        }
        let mss = (1..8).rev().find(|&index| mss_table[index] <= self.mss).unwrap_or(0);
        let wscale = match self.wscale {
            None => 0,
            Some(0 | 1) => 1,
            Some(2 | 3) => 2,
            Some(4 | 5) => 3,
            Some(6) => 4,
            Some(7) => 5,
            Some(8 | 9) => 6,
            Some(10..) => 7,
        };
        first | wscale << 3 | u8::try_from(mss).unwrap()
    }

    /// The place of the MSS in the table with timestamps, by division.
    fn expected_fine_index(&self) -> u8 {
        let index = match self.mss {
            ..68 => 0,
            68..1220 => 1 + (self.mss - 68) / 36,
            1220..1460 => {
                33 + (self.mss - 1220) / 20 + u16::from(self.mss >= 1432) + u16::from(self.mss >= 1452)
            }
            1460..8960 => 47 + (self.mss - 1460) / 500 + u16::from(self.mss >= 8940),
            8960.. => 63,
        };
        u8::try_from(index).unwrap()
    }

    fn expected_scale(&self) -> u8 {
        self.wscale.filter(|_| self.timestamps).map_or(0, |wscale| wscale.min(14) + 1)
    }
}

impl Check {
    fn tuple(&self) -> Tuple {
        Tuple {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
        }
    }

    fn expected(&self) -> Option<Redeemed> {
        self.accept.then(|| Redeemed {
            offer: Offer {
                mss: self.mss.unwrap(),
                wscale: self.wscale,
                sack: self.sack.unwrap(),
                timestamps: self.timestamps.unwrap(),
                ecn: self.ecn.unwrap(),
            },
            epoch: self.epoch.unwrap(),
        })
    }
}

#[test]
fn minting_reproduces_every_vector() {
    for vector in vectors().mint {
        let ring = KeyRing::at(&master(&vector.master), vector.epoch);
        let iss = SeqNumber(vector.client_iss);
        let minted =
            mint(&ring, &vector.tuple(), iss, &vector.offer(), Duration::from_nanos(vector.unix_nanos));
        let expected = Minted { isn: SeqNumber(vector.isn), tsval: vector.tsval };
        assert_eq!(minted, expected, "{}", vector.name);
    }
}

#[test]
fn checking_reproduces_every_vector() {
    for vector in vectors().check {
        let ring = KeyRing::at(&master(&vector.master), vector.ring_epoch);
        let (iss, isn) = (SeqNumber(vector.client_iss), SeqNumber(vector.isn));
        let redeemed = check(&ring, &vector.tuple(), iss, isn, vector.tsecr);
        assert_eq!(redeemed, vector.expected(), "{}: {}", vector.name, vector.what);
    }
}

#[test]
fn intermediate_values_follow_from_the_formulas() {
    for vector in vectors().mint {
        let material = [octets(&vector.master), vector.epoch.to_le_bytes().to_vec()].concat();
        let key = &blake3::derive_key("synwall cookie epoch key v1", &material)[..16];
        assert_eq!(octets(&vector.key), key, "{}", vector.name);

        let ecn = vector.ecn && vector.timestamps;
        assert_eq!(vector.flags, vector.expected_flags(), "{}", vector.name);
        assert_eq!(vector.extra, 0x20 | u8::from(ecn) << 1 | u8::from(vector.timestamps), "{}", vector.name);
        assert_eq!(vector.scale, vector.expected_scale(), "{}", vector.name);
        assert_eq!(octets(&vector.message), message(&vector), "{}", vector.name);

        let h = u64::from_str_radix(&vector.h, 16).unwrap();
        assert_eq!(
            SipHasher24::new_with_key(key.try_into().unwrap()).hash(&message(&vector)),
            h,
            "{}",
            vector.name
        );

        let isn = (h >> 40) << 8 | (u64::from(vector.flags) ^ h >> 56);
        let clock = vector.unix_nanos >> 22 & 0x7_ffff;
        let folded = clock & 0xff ^ clock >> 8 & 0xff ^ clock >> 16;
        let fields = u64::from(ecn) << 12 | u64::from(vector.scale) << 8;
        let tsval = clock << 13 | fields | (h & 0xff ^ folded);
        assert_eq!(u64::from(vector.isn), isn, "{}", vector.name);
        assert_eq!(u64::from(vector.tsval), if vector.timestamps { tsval } else { 0 }, "{}", vector.name);
    }
}

#[test]
fn vectors_cover_both_families_and_every_index() {
    let Vectors { mint, check } = vectors();
    for is_ipv6 in [false, true] {
        let of = |timestamps| {
            mint.iter().filter(move |v| v.source.is_ipv6() == is_ipv6 && v.timestamps == timestamps)
        };
        for index in 0..8 {
            assert!(of(false).any(|v| v.flags & 7 == index), "MSS index {index}");
            assert!(of(false).any(|v| v.flags >> 3 & 7 == index), "wscale index {index}");
        }
        for index in 0..64 {
            assert!(of(true).any(|v| v.flags & 63 == index), "MSS index {index} with timestamps");
        }
        for scale in 0..16 {
            assert!(of(true).any(|v| v.scale == scale), "scale {scale}");
        }
        for bit in [0x40, 0x80] {
            for timestamps in [false, true] {
                assert!(of(timestamps).any(|v| v.flags & bit == 0));
                assert!(of(timestamps).any(|v| v.flags & bit != 0));
            }
        }
        let outcomes =
            |accept| check.iter().filter(move |v| v.accept == accept && v.source.is_ipv6() == is_ipv6);
        assert!(outcomes(true).count() >= 20 && outcomes(false).count() >= 60);
    }
}

fn message(vector: &Mint) -> Vec<u8> {
    let address = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    [
        address(vector.source),
        address(vector.destination),
        vector.source_port.to_be_bytes().to_vec(),
        vector.destination_port.to_be_bytes().to_vec(),
        vector.client_iss.to_be_bytes().to_vec(),
        vec![vector.flags, vector.extra, vector.scale],
    ]
    .concat()
}

fn master(hex: &str) -> MasterKey {
    MasterKey::from_bytes(octets(hex).try_into().expect("a master key has 32 octets"))
}

fn octets(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn vectors() -> Vectors {
    toml::from_str(include_str!("vectors/cookie.toml")).unwrap()
}
