//! Tries all 2^32 acknowledgment numbers against one tuple and counts what `check` accepts.
//!
//! ```text
//! cargo run --release --no-default-features --example cookie_sweep
//! ```
//!
//! Without timestamps each of the 256 flags octets (both live epochs are among them, by parity) has exactly one MAC24,
//! so exactly 256 numbers may pass. With timestamps and the TSecr of one minted cookie, only those of the 256 whose
//! MAC8 also fits that TSecr. What has to pass is computed here from the formulas in `docs/cookie.md`, without the
//! library's code.

// An example may stop when its assumptions fail.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::num::NonZero;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use siphasher::sip::SipHasher24;

use synwall::cookie::{KeyRing, MasterKey, Offer, Tuple, check, mint};
use synwall::wire::seq::SeqNumber;

fn main() {
    let ring = KeyRing::at(&MasterKey::from_bytes(MASTER), EPOCH);
    println!(
        "tuple 192.0.2.1:40000 > 198.51.100.2:443, client ISS {CLIENT_ISS}, epochs {} and {EPOCH} live",
        EPOCH - 1
    );

    let passing = sweep("without timestamps", &ring, None);
    assert_eq!(passing, expected(None));
    assert_eq!(passing.len(), 256);

    let minted = mint(&ring, &tuple(), SeqNumber(CLIENT_ISS), &OFFER, Duration::from_secs(1_760_000_000));
    let passing = sweep("with timestamps   ", &ring, Some(minted.tsval));
    assert_eq!(passing, expected(Some(minted.tsval)));
    assert!(passing.contains(&minted.isn.0));
    println!("both are exactly the sets that the layout gives");
}

/// Returns every ISN that `check` accepts, and says how many there are.
fn sweep(what: &str, ring: &KeyRing, tsecr: Option<u32>) -> BTreeSet<u32> {
    let next_block = AtomicU32::new(0);
    let work = || {
        let mut passing = Vec::new();
        loop {
            let block = next_block.fetch_add(1, Ordering::Relaxed);
            if block >= BLOCKS {
                return passing;
            }
            let first = block << BLOCK_BITS;
            for ack in first..=first | ((1 << BLOCK_BITS) - 1) {
                let isn = SeqNumber(ack).sub(1);
                if check(ring, &tuple(), SeqNumber(CLIENT_ISS), isn, tsecr).is_some() {
                    passing.push(isn.0);
                }
            }
        }
    };
    let passing: BTreeSet<u32> = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..thread::available_parallelism().map_or(1, NonZero::get)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    println!("{what}: {} acknowledgment numbers tried, {} accepted", 1_u64 << 32, passing.len());
    passing
}

/// The ISNs that have to pass, from the formulas.
fn expected(tsecr: Option<u32>) -> BTreeSet<u32> {
    let live = [EPOCH, EPOCH - 1];
    let isn_of = |flags: u8| {
        let epoch = live.into_iter().find(|epoch| epoch & 1 == u64::from(flags >> 7))?;
        let h = hash(epoch, flags, tsecr);
        let mac24 = u32::try_from(h >> 40).unwrap();
        let mac8 = u32::try_from(h & 0xff).unwrap();
        let fold = |clock: u32| (clock ^ clock >> 8 ^ clock >> 16) & 0xff;
        let fits = tsecr.is_none_or(|tsecr| tsecr & 0xff == mac8 ^ fold(tsecr >> 13));
        fits.then_some((mac24 << 8) | (u32::from(flags) ^ (mac24 >> 16)))
    };
    (0..=u8::MAX).filter_map(isn_of).collect()
}

fn hash(epoch: u64, flags: u8, tsecr: Option<u32>) -> u64 {
    let key =
        blake3::derive_key("synwall cookie epoch key v1", &[&MASTER[..], &epoch.to_le_bytes()].concat());
    let (extra, scale) = tsecr.map_or((0x20, 0), |tsecr| {
        (if tsecr & (1 << 12) != 0 { 0x23 } else { 0x21 }, u8::try_from(tsecr >> 8 & 15).unwrap())
    });
    let mut message = vec![192, 0, 2, 1, 198, 51, 100, 2];
    message.extend(40_000_u16.to_be_bytes());
    message.extend(443_u16.to_be_bytes());
    message.extend(CLIENT_ISS.to_be_bytes());
    message.extend([flags, extra, scale]);
    SipHasher24::new_with_key(key[..16].try_into().unwrap()).hash(&message)
}

fn tuple() -> Tuple {
    Tuple {
        source: Ipv4Addr::new(192, 0, 2, 1).into(),
        destination: Ipv4Addr::new(198, 51, 100, 2).into(),
        source_port: 40_000,
        destination_port: 443,
    }
}

const MASTER: [u8; 32] = *b"synwall sweep: not a secret key.";
const EPOCH: u64 = 55_000_000;
const CLIENT_ISS: u32 = 4_294_957_295;
const OFFER: Offer = Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: true, ecn: false };
const BLOCK_BITS: u32 = 20;
const BLOCKS: u32 = 1 << (32 - BLOCK_BITS);
