//! SYN cookies: who may pass.
//!
//! [`mint`] packs what a connection needs to be opened into the ISN and TSval of a SYN-ACK, under a MAC; [`check`]
//! unpacks it from the ACK that answers. Between the two nothing is remembered: both decide from their arguments alone,
//! know no clock and no randomness, allocate nothing and accept any input without a panic.
//!
//! `layout` owns the bits, `timestamp` the TSval, `key_ring` the keys; `docs/cookie.md` has the picture, the reasons
//! and the odds. Read RFC 4987 §3.6 and RFC 7323 §3 first.

#![deny(clippy::arithmetic_side_effects)]

mod key_ring;
pub mod layout;
mod timestamp;

use core::net::IpAddr;
use core::time::Duration;

use subtle::ConstantTimeEq;

use crate::cookie::layout::{Family, Flags};
use crate::cookie::timestamp::Content;
use crate::wire::seq::SeqNumber;

pub use crate::cookie::key_ring::{KeyRing, MasterKey};

/// The addresses and ports of a connection, as the client's segments carry them.
///
/// Both addresses are of one family, because they come out of one IP header. An IPv4-mapped IPv6 address is an IPv6
/// address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The client.
    pub source: IpAddr,
    /// The protected server.
    pub destination: IpAddr,
    /// The client's port.
    pub source_port: u16,
    /// The server's port.
    pub destination_port: u16,
}

/// What the SYN-ACK grants of what the client offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The client's MSS; the default of RFC 9293 §3.7.1 if it sent none.
    pub mss: u16,
    /// The client's window scale, `None` if it sent no such option. Not the same as `Some(0)`.
    pub wscale: Option<u8>,
    /// Whether SACK is permitted.
    pub sack: bool,
    /// Whether both sides send timestamps.
    pub timestamps: bool,
    /// Whether ECN is negotiated. Carried only with timestamps: the ISN has no bit for it.
    pub ecn: bool,
}

/// The numbers for a SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minted {
    /// The ISN, our ISS towards the client.
    pub isn: SeqNumber,
    /// The TSval; 0 and without meaning if the offer has no timestamps.
    pub tsval: u32,
}

/// What a genuine cookie said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redeemed {
    /// The offer that was minted, MSS and window scale rounded down to what a cookie can carry.
    pub offer: Offer,
    /// The epoch in which it was minted.
    pub epoch: u64,
}

/// Returns ISN and TSval of the SYN-ACK that answers a SYN with `client_iss` and grants `offer`.
///
/// `unix`, the time since the Unix epoch, only makes TSvals rise from one connection to the next and tells [`age`]; no check
/// depends on it. An MSS below [`layout::SMALLEST_MSS`] is carried as that.
pub fn mint(ring: &KeyRing, tuple: &Tuple, client_iss: SeqNumber, offer: &Offer, unix: Duration) -> Minted {
    let flags = Flags::new(family(tuple), ring.epoch(), offer);
    let ecn = offer.timestamps && offer.ecn;
    let extra = layout::extra(offer.timestamps, ecn);
    let scale = if offer.timestamps { layout::scale(offer.wscale) } else { 0 };
    let mac =
        Mac::new(ring.current().hash(Message::new(tuple, client_iss, [flags.0, extra, scale]).octets()));
    let tsval = || timestamp::encode(unix, Content { ecn, scale, mac8: mac.mac8 });
    Minted { isn: layout::isn(mac.mac24, flags), tsval: if offer.timestamps { tsval() } else { 0 } }
}

/// Returns what the cookie `isn` says if it was minted for this tuple and `client_iss` in a live epoch, else `None`.
///
/// `isn` is SEG.ACK - 1 and `client_iss` is SEG.SEQ - 1 of the ACK; `tsecr` is `Some` exactly if it carries the
/// timestamps option. That presence is under the MAC: a cookie minted with timestamps cannot be redeemed without them,
/// nor the other way round.
///
/// # Security
///
/// A blind guess is accepted with odds of 2^-24 without timestamps and 2^-32 with them. All bits of the MAC are
/// compared at once and in constant time. Which key is used depends on the ISN's parity flag alone, which the sender chose.
pub fn check(
    ring: &KeyRing,
    tuple: &Tuple,
    client_iss: SeqNumber,
    isn: SeqNumber,
    tsecr: Option<u32>,
) -> Option<Redeemed> {
    let (mac24, flags) = layout::split_isn(isn);
    let (epoch, key) = ring.with_parity(flags.is_odd_epoch())?;
    let Content { ecn, scale, mac8 } = tsecr.map(timestamp::decode).unwrap_or_default();
    let extra = layout::extra(tsecr.is_some(), ecn);
    let expected = Mac::new(key.hash(Message::new(tuple, client_iss, [flags.0, extra, scale]).octets()));
    let claimed = Mac { mac24, mac8 };
    let is_genuine = match tsecr {
        Some(_) => claimed.joined().ct_eq(&expected.joined()),
        None => claimed.joined().ct_eq(&expected.without_mac8().joined()),
    };
    let (mss, wscale) = match tsecr {
        Some(_) => (flags.fine_mss(), layout::wscale_of(scale)),
        None => (flags.mss(family(tuple)), flags.wscale()),
    };
    bool::from(is_genuine).then(|| Redeemed {
        offer: Offer { mss, wscale, sack: flags.has_sack(), timestamps: tsecr.is_some(), ecn },
        epoch,
    })
}

/// Returns how long before `unix`, the time since the Unix epoch, the cookie was minted whose TSval a genuine `tsecr` echoes,
/// to about 4 ms: the client's round trip, unless its first ACK was lost.
///
/// # Security
///
/// The client can make it what it likes, as it could by waiting; after 37 minutes it begins anew. The caller bounds it.
pub fn age(tsecr: u32, unix: Duration) -> Duration {
    timestamp::age(tsecr, unix)
}

const fn family(tuple: &Tuple) -> Family {
    match tuple.source {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// The part of the 64-bit hash that a SYN-ACK carries: 24 bits in the ISN, 8 in the TSval.
struct Mac {
    mac24: [u8; 3],
    mac8: u8,
}

impl Mac {
    /// The topmost 24 and the lowest 8 bits of `hash`.
    const fn new(hash: u64) -> Mac {
        let [first, second, third, .., mac8] = hash.to_be_bytes();
        Mac { mac24: [first, second, third], mac8 }
    }

    /// What an ACK without timestamps can prove.
    const fn without_mac8(self) -> Mac {
        Mac { mac8: 0, ..self }
    }

    /// Both parts in one number, so that one comparison covers them.
    fn joined(&self) -> u32 {
        let [first, second, third] = self.mac24;
        u32::from_be_bytes([first, second, third, self.mac8])
    }
}

/// The octets that the MAC covers: `source ‖ destination ‖ ports ‖ client_iss ‖ flags ‖ extra ‖ scale`, in network byte order.
struct Message {
    octets: [u8; Message::MAX_LEN],
    len: usize,
}

impl Message {
    /// Two IPv6 addresses, two ports, a sequence number, flags, extra and scale.
    const MAX_LEN: usize = 16 + 16 + 2 + 2 + 4 + 1 + 1 + 1;

    /// Whole words are appended, because the hash reads whole words: smaller stores would have to drain first.
    #[inline]
    fn new(tuple: &Tuple, client_iss: SeqNumber, options: [u8; 3]) -> Message {
        let mut message = Message { octets: [0; Message::MAX_LEN], len: 0 };
        message.push_addresses(tuple.source, tuple.destination);
        let ports = (u64::from(tuple.source_port) << 16) | u64::from(tuple.destination_port);
        message.push(((ports << 32) | u64::from(client_iss.0)).to_be_bytes());
        message.push(options);
        message
    }

    #[inline]
    fn push_addresses(&mut self, source: IpAddr, destination: IpAddr) {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let both = (u64::from(source.to_bits()) << 32) | u64::from(destination.to_bits());
                self.push(both.to_be_bytes());
            }
            (source, destination) => {
                self.push(ipv6_octets(source));
                self.push(ipv6_octets(destination));
            }
        }
    }

    /// Appends `octets`. All that `new` appends fits, so the length never passes the end.
    #[inline]
    fn push<const N: usize>(&mut self, octets: [u8; N]) {
        if let Some(room) = self.octets.get_mut(self.len..).and_then(<[u8]>::first_chunk_mut::<N>) {
            *room = octets;
            self.len = self.len.wrapping_add(N);
        }
    }

    #[inline]
    fn octets(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or(&self.octets)
    }
}

/// The address in 16 octets. An IPv4 address comes here only beside an IPv6 one, which no packet can do.
const fn ipv6_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCH: u64 = 55_000_001;
    const NOW: Duration = Duration::from_millis(1_760_000_032_123);

    fn ring(epoch: u64) -> KeyRing {
        KeyRing::at(&MasterKey::from_bytes([0x5c; 32]), epoch)
    }

    /// The tsecr of a faithful client.
    fn echo(offer: &Offer, minted: Minted) -> Option<u32> {
        offer.timestamps.then_some(minted.tsval)
    }

    /// Every combination of options that a cookie can tell apart.
    fn all_offers(family: Family) -> impl Iterator<Item = Offer> {
        let table = match family {
            Family::V4 => layout::MSS_IPV4,
            Family::V6 => layout::MSS_IPV6,
        };
        let plain =
            table.into_iter().flat_map(|mss| layout::WSCALE.map(|wscale| (mss, wscale, false, false)));
        let fine = layout::MSS_FINE.into_iter().flat_map(|mss| {
            let scales = (0..16).map(layout::wscale_of);
            scales.flat_map(move |wscale| [false, true].map(|ecn| (mss, wscale, true, ecn)))
        });
        plain.chain(fine).flat_map(|(mss, wscale, timestamps, ecn)| {
            [false, true].map(|sack| Offer { mss, wscale, sack, timestamps, ecn })
        })
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

        fn address(&mut self, family: Family) -> IpAddr {
            match family {
                Family::V4 => IpAddr::from(self.word().to_be_bytes()),
                Family::V6 => {
                    IpAddr::from(((u128::from(self.next()) << 64) | u128::from(self.next())).to_be_bytes())
                }
            }
        }

        fn tuple(&mut self, family: Family) -> Tuple {
            Tuple {
                source: self.address(family),
                destination: self.address(family),
                source_port: self.port(),
                destination_port: self.port(),
            }
        }
    }

    fn flip(address: IpAddr, bit: u32) -> Option<IpAddr> {
        match address {
            IpAddr::V4(v4) => Some(IpAddr::from((v4.to_bits() ^ 1_u32.checked_shl(bit)?).to_be_bytes())),
            IpAddr::V6(v6) => Some(IpAddr::from((v6.to_bits() ^ 1_u128.checked_shl(bit)?).to_be_bytes())),
        }
    }

    /// All tuples that differ from `tuple` in one bit.
    fn flipped(tuple: Tuple) -> impl Iterator<Item = Tuple> {
        let addresses = (0..128).flat_map(move |bit| {
            let source = flip(tuple.source, bit).map(|source| Tuple { source, ..tuple });
            source
                .into_iter()
                .chain(flip(tuple.destination, bit).map(|destination| Tuple { destination, ..tuple }))
        });
        let ports = (0..16).flat_map(move |bit| {
            [
                Tuple { source_port: tuple.source_port ^ (1 << bit), ..tuple },
                Tuple { destination_port: tuple.destination_port ^ (1 << bit), ..tuple },
            ]
        });
        addresses.chain(ports)
    }

    #[test]
    fn every_offer_survives_mint_and_check() {
        let mut numbers = Numbers(1);
        for family in [Family::V4, Family::V6] {
            for epoch in [EPOCH, EPOCH + 1] {
                let ring = ring(epoch);
                for offer in all_offers(family) {
                    let (tuple, iss) = (numbers.tuple(family), SeqNumber(numbers.word()));
                    let minted = mint(&ring, &tuple, iss, &offer, NOW);
                    let redeemed = check(&ring, &tuple, iss, minted.isn, echo(&offer, minted));
                    assert_eq!(redeemed, Some(Redeemed { offer, epoch }), "{tuple:?}");
                }
            }
        }
    }

    #[test]
    fn there_are_as_many_offers_as_the_layout_has_room_for() {
        let (plain, fine) = (8 * 8 * 2, 64 * 16 * 2 * 2);
        assert_eq!(
            all_offers(Family::V4).count(),
            plain + fine,
            "MSS, wscale, SACK; and ECN with timestamps"
        );
    }

    /// Row 9.
    #[test]
    fn values_between_the_table_entries_round_down() {
        let tuple = Numbers(2).tuple(Family::V4);
        let offer = Offer { mss: 1459, wscale: Some(9), sack: true, timestamps: true, ecn: false };
        let carried = |offer: Offer| {
            let minted = mint(&ring(EPOCH), &tuple, SeqNumber(u32::MAX), &offer, NOW);
            let echo = echo(&offer, minted);
            check(&ring(EPOCH), &tuple, SeqNumber(u32::MAX), minted.isn, echo).unwrap().offer
        };
        assert_eq!(carried(offer), Offer { mss: 1452, ..offer });
        let plain = Offer { timestamps: false, ..offer };
        assert_eq!(carried(plain), Offer { mss: 1440, wscale: Some(8), ..plain });
    }

    #[test]
    fn isn_is_the_same_whenever_the_syn_comes_and_the_tsval_tells_when() {
        let tuple = Numbers(9).tuple(Family::V4);
        let offer = Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: true, ecn: false };
        let at =
            |millis| mint(&ring(EPOCH), &tuple, SeqNumber(9), &offer, NOW + Duration::from_millis(millis));
        assert_eq!(at(0).isn, at(1_000).isn);
        assert_ne!(at(0).tsval, at(5).tsval);
        let measured = age(at(0).tsval, NOW + Duration::from_millis(80));
        assert!(measured.abs_diff(Duration::from_millis(80)) < Duration::from_millis(5), "{measured:?}");
    }

    #[test]
    fn cookie_lives_in_its_own_and_the_next_epoch_only() {
        let mut numbers = Numbers(3);
        for epoch in [0, 1, EPOCH, EPOCH + 1, u64::MAX - 3] {
            for offer in all_offers(Family::V4).step_by(3) {
                let (tuple, iss) = (numbers.tuple(Family::V4), SeqNumber(numbers.word()));
                let minted = mint(&ring(epoch), &tuple, iss, &offer, NOW);
                let check_in = |at| check(&ring(at), &tuple, iss, minted.isn, echo(&offer, minted));
                assert_eq!(check_in(epoch), Some(Redeemed { offer, epoch }));
                assert_eq!(check_in(epoch + 1), Some(Redeemed { offer, epoch }));
                assert_eq!(check_in(epoch + 2), None);
                assert_eq!(check_in(epoch + 3), None);
                assert_eq!(epoch.checked_sub(1).and_then(check_in), None, "a cookie from the future");
            }
        }
    }

    /// Row 22.
    #[test]
    fn any_single_flipped_bit_is_refused() {
        let ring = ring(EPOCH);
        let mut numbers = Numbers(4);
        for (family, timestamps) in [Family::V4, Family::V6].into_iter().flat_map(|f| [(f, false), (f, true)])
        {
            for offer in all_offers(family)
                .filter(|offer| offer.timestamps == timestamps)
                .step_by(if timestamps { 61 } else { 3 })
            {
                let (tuple, iss) = (numbers.tuple(family), SeqNumber(numbers.word()));
                let minted = mint(&ring, &tuple, iss, &offer, Duration::from_nanos(numbers.next()));
                let (isn, tsecr) = (minted.isn, echo(&offer, minted));
                assert!(check(&ring, &tuple, iss, isn, tsecr).is_some());
                for other in flipped(tuple) {
                    assert_eq!(check(&ring, &other, iss, isn, tsecr), None, "{other:?} for {tuple:?}");
                }
                for bit in (0..32).map(|place| 1 << place) {
                    assert_eq!(
                        check(&ring, &tuple, SeqNumber(iss.0 ^ bit), isn, tsecr),
                        None,
                        "ISS ^ {bit:#x}"
                    );
                    assert_eq!(
                        check(&ring, &tuple, iss, SeqNumber(isn.0 ^ bit), tsecr),
                        None,
                        "ISN ^ {bit:#x}"
                    );
                    let tsecr = tsecr.map(|tsecr| tsecr ^ bit);
                    assert_eq!(
                        tsecr.and_then(|_| check(&ring, &tuple, iss, isn, tsecr)),
                        None,
                        "TS ^ {bit:#x}"
                    );
                }
            }
        }
    }

    /// Row 34.
    #[test]
    fn timestamps_option_can_be_neither_dropped_nor_added() {
        let ring = ring(EPOCH);
        let mut numbers = Numbers(5);
        for offer in all_offers(Family::V6) {
            let (tuple, iss) = (numbers.tuple(Family::V6), SeqNumber(numbers.word()));
            let minted = mint(&ring, &tuple, iss, &offer, NOW);
            let swapped = if offer.timestamps { None } else { Some(minted.tsval) };
            assert_eq!(check(&ring, &tuple, iss, minted.isn, swapped), None);
        }
    }

    #[test]
    fn ecn_without_timestamps_is_not_carried() {
        let tuple = Numbers(6).tuple(Family::V4);
        let offer = Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: false, ecn: true };
        let plain = Offer { ecn: false, ..offer };
        let minted = mint(&ring(EPOCH), &tuple, SeqNumber(9), &offer, NOW);
        assert_eq!(minted, mint(&ring(EPOCH), &tuple, SeqNumber(9), &plain, NOW));
        assert_eq!(minted.tsval, 0);
        let redeemed = check(&ring(EPOCH), &tuple, SeqNumber(9), minted.isn, None);
        assert_eq!(redeemed, Some(Redeemed { offer: plain, epoch: EPOCH }));
    }

    #[test]
    fn odd_parity_in_epoch_zero_is_refused() {
        let (ring, tuple) = (ring(0), Numbers(7).tuple(Family::V4));
        for isn in (0..1 << 20).map(SeqNumber).filter(|isn| layout::split_isn(*isn).1.is_odd_epoch()) {
            assert_eq!(check(&ring, &tuple, SeqNumber(1), isn, None), None);
        }
    }

    #[test]
    fn other_master_is_refused() {
        let tuple = Numbers(8).tuple(Family::V4);
        let offer = Offer { mss: 1460, wscale: Some(7), sack: true, timestamps: true, ecn: false };
        let minted = mint(&ring(EPOCH), &tuple, SeqNumber(9), &offer, NOW);
        let other = KeyRing::at(&MasterKey::from_bytes([0x5d; 32]), EPOCH);
        assert_eq!(check(&other, &tuple, SeqNumber(9), minted.isn, Some(minted.tsval)), None);
    }

    #[test]
    fn ipv4_and_its_mapped_ipv6_address_are_different_clients() {
        let tuple = Tuple {
            source: "192.0.2.1".parse().unwrap(),
            destination: "198.51.100.2".parse().unwrap(),
            source_port: 40_000,
            destination_port: 443,
        };
        let mapped = Tuple {
            source: "::ffff:192.0.2.1".parse().unwrap(),
            destination: "::ffff:198.51.100.2".parse().unwrap(),
            ..tuple
        };
        let offer = Offer { mss: 1440, wscale: Some(7), sack: true, timestamps: false, ecn: false };
        let minted = mint(&ring(EPOCH), &mapped, SeqNumber(9), &offer, NOW);
        assert_eq!(check(&ring(EPOCH), &tuple, SeqNumber(9), minted.isn, None), None);
        let redeemed = check(&ring(EPOCH), &mapped, SeqNumber(9), minted.isn, None);
        assert_eq!(redeemed.map(|redeemed| redeemed.offer), Some(offer), "1440 is in the IPv6 table only");
    }

    fn any_tuple() -> impl Strategy<Value = Tuple> {
        let v4 = any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
        let v6 = any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
        (prop_oneof![v4, v6], any::<u16>(), any::<u16>()).prop_map(
            |(addresses, source_port, destination_port)| Tuple {
                source: addresses.0,
                destination: addresses.1,
                source_port,
                destination_port,
            },
        )
    }

    fn any_offer() -> impl Strategy<Value = Offer> {
        any::<(u16, Option<u8>, bool, bool, bool)>().prop_map(|(mss, wscale, sack, timestamps, ecn)| Offer {
            mss,
            wscale,
            sack,
            timestamps,
            ecn,
        })
    }

    proptest! {
        #[test]
        fn any_offer_is_redeemed_rounded_down(
            master: [u8; 32], epoch in 0..u64::MAX, tuple in any_tuple(), iss: u32, offer in any_offer(), now: Duration,
        ) {
            let master = MasterKey::from_bytes(master);
            let minted = mint(&KeyRing::at(&master, epoch), &tuple, SeqNumber(iss), &offer, now);
            for at in [epoch, epoch.saturating_add(1)] {
                let ring = KeyRing::at(&master, at);
                let redeemed = check(&ring, &tuple, SeqNumber(iss), minted.isn, echo(&offer, minted));
                prop_assert!(redeemed.is_some());
                let Redeemed { offer: carried, epoch: minted_in } = redeemed.unwrap();
                prop_assert_eq!(minted_in, epoch);
                prop_assert!(carried.mss <= offer.mss.max(48));
                prop_assert!(!offer.timestamps || carried.wscale == offer.wscale.map(|scale| scale.min(14)));
                prop_assert!(carried.wscale <= offer.wscale && carried.wscale.is_some() == offer.wscale.is_some());
                prop_assert_eq!((carried.sack, carried.timestamps), (offer.sack, offer.timestamps));
                prop_assert_eq!(carried.ecn, offer.ecn && offer.timestamps);
            }
        }

        #[test]
        fn no_input_makes_check_panic(
            epoch: u64, tuple in any_tuple(), destination in any::<[u8; 16]>(), iss: u32, isn: u32,
            tsecr: Option<u32>,
        ) {
            let ring = ring(epoch);
            let mixed = Tuple { destination: destination.into(), ..tuple };
            let _ = check(&ring, &tuple, SeqNumber(iss), SeqNumber(isn), tsecr);
            let _ = check(&ring, &mixed, SeqNumber(iss), SeqNumber(isn), tsecr);
        }
    }
}
