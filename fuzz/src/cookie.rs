//! Cookies: what was minted is redeemed in its own epoch and the next, and nothing else is.

use std::net::IpAddr;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use synwall::cookie::{KeyRing, MasterKey, Minted, Offer, Tuple, check, mint};
use synwall::wire::seq::SeqNumber;

/// Everything a cookie depends on, and what a forger would send instead.
#[derive(Arbitrary, Debug)]
struct Input {
    is_v6: bool,
    source: u128,
    destination: u128,
    ports: (u16, u16),
    client_iss: u32,
    epoch: u64,
    mss: u16,
    wscale: Option<u8>,
    flags: u8,
    unix: u64,
    later: u8,
    flipped: u8,
    forged_isn: u32,
    forged_tsecr: Option<u32>,
}

/// Mints and checks a cookie, then checks what was changed or forged.
pub fn run(octets: &[u8]) {
    if let Ok(input) = Input::arbitrary(&mut Unstructured::new(octets)) {
        input.run();
    }
}

impl Input {
    fn run(&self) {
        let (tuple, offer, iss) = (self.tuple(), self.offer(), SeqNumber(self.client_iss));
        let minted = mint(&ring(self.epoch), &tuple, iss, &offer, Duration::from_nanos(self.unix));
        let tsecr = offer.timestamps.then_some(minted.tsval);
        let at = self.epoch.wrapping_add(u64::from(self.later % 4));
        let redeemed = check(&ring(at), &tuple, iss, minted.isn, tsecr);
        assert_eq!(redeemed.is_some(), at.checked_sub(self.epoch).is_some_and(|later| later <= 1));
        if let Some(redeemed) = redeemed {
            assert_eq!(redeemed.epoch, self.epoch);
            assert!(redeemed.offer.mss <= offer.mss.max(48) && redeemed.offer.wscale <= offer.wscale);
            assert_eq!(redeemed.offer.wscale.is_some(), offer.wscale.is_some());
            assert_eq!((redeemed.offer.sack, redeemed.offer.timestamps), (offer.sack, offer.timestamps));
        }
        self.forge(&tuple, &offer);
    }

    /// One flipped bit is refused, and what is accepted of numbers out of nowhere is what would have been minted.
    ///
    /// A changed cookie without timestamps is accepted by chance once in 2^24 tries, which a run does make: of two
    /// connections at once it never is.
    fn forge(&self, tuple: &Tuple, offer: &Offer) {
        let other = Tuple { source_port: !tuple.source_port, ..*tuple };
        assert!([*tuple, other].iter().any(|tuple| !self.is_flip_accepted(tuple, offer)));
        let (iss, isn) = (SeqNumber(self.client_iss), SeqNumber(self.forged_isn));
        if let Some(redeemed) = check(&ring(self.epoch), tuple, iss, isn, self.forged_tsecr) {
            let tsval = self.forged_tsecr.unwrap_or_default();
            let minted_at = Duration::from_nanos(u64::from(tsval >> 13) << 22);
            let minted = mint(&ring(redeemed.epoch), tuple, iss, &redeemed.offer, minted_at);
            assert_eq!(minted, Minted { isn, tsval });
        }
    }

    /// Whether the cookie of `tuple` is accepted with a bit of ISS, ISN or TSecr flipped.
    fn is_flip_accepted(&self, tuple: &Tuple, offer: &Offer) -> bool {
        let (ring, iss) = (ring(self.epoch), SeqNumber(self.client_iss));
        let minted = mint(&ring, tuple, iss, offer, Duration::from_nanos(self.unix));
        let tsecr = offer.timestamps.then_some(minted.tsval);
        let bit = 1u32 << (self.flipped % 32);
        let redeemed = match (self.flipped / 32 % 3, tsecr) {
            (0, _) => check(&ring, tuple, SeqNumber(iss.0 ^ bit), minted.isn, tsecr),
            (1, _) | (_, None) => check(&ring, tuple, iss, SeqNumber(minted.isn.0 ^ bit), tsecr),
            (_, Some(tsval)) => check(&ring, tuple, iss, minted.isn, Some(tsval ^ bit)),
        };
        redeemed.is_some()
    }

    fn tuple(&self) -> Tuple {
        let address = |number: u128| match self.is_v6 {
            true => IpAddr::from(number.to_be_bytes()),
            false => IpAddr::from((number as u32).to_be_bytes()),
        };
        Tuple {
            source: address(self.source),
            destination: address(self.destination),
            source_port: self.ports.0,
            destination_port: self.ports.1,
        }
    }

    fn offer(&self) -> Offer {
        let [sack, timestamps, ecn] = [1, 2, 4].map(|bit| self.flags & bit != 0);
        Offer { mss: self.mss, wscale: self.wscale, sack, timestamps, ecn }
    }
}

fn ring(epoch: u64) -> KeyRing {
    KeyRing::at(&MasterKey::from_bytes([0x5a; 32]), epoch)
}
