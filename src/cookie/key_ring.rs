//! The keys: one master, a key derived from it for each epoch, and a ring of the two newest.
//!
//! Owns every octet of key material below `control` and promises that none is printed and all are wiped when dropped.
//! The keys depend only on master and epoch number, so nodes that share a master accept each other's cookies. Where the
//! master comes from and when an epoch ends is decided elsewhere.

use core::fmt;

use siphasher::sip::SipHasher24;
use zeroize::{Zeroize, Zeroizing};

use crate::cookie::layout::is_odd;

/// The secret from which all epoch keys derive.
///
/// # Security
///
/// Whoever knows it can forge cookies for every epoch. Wiped when dropped, never printed; the octets given to
/// [`MasterKey::from_bytes`] are the caller's to wipe.
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// The master key made of `octets`, which should come from a random number generator.
    pub fn from_bytes(octets: [u8; 32]) -> MasterKey {
        MasterKey(Zeroizing::new(octets))
    }

    /// The first 16 octets of BLAKE3 `derive_key` over master and epoch number.
    fn epoch_key(&self, epoch: u64) -> EpochKey {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&*self.0).update(&epoch.to_le_bytes());
        let mut reader = hasher.finalize_xof();
        let key = EpochKey::new(next_word(&mut reader), next_word(&mut reader));
        hasher.zeroize();
        reader.zeroize();
        key
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// The keys of the current epoch and of the one that was current before it.
///
/// The parity of the epoch, which the cookie carries, picks the key: checking costs one hash, never two. A cookie of
/// an older epoch meets the key of a newer one with the same parity and fails.
pub struct KeyRing {
    epoch: u64,
    current: EpochKey,
    previous: Option<(u64, EpochKey)>,
}

impl KeyRing {
    /// The ring for `epoch`: that epoch and the one before it, which epoch 0 does not have.
    pub fn at(master: &MasterKey, epoch: u64) -> KeyRing {
        KeyRing {
            epoch,
            current: master.epoch_key(epoch),
            previous: epoch.checked_sub(1).map(|previous| (previous, master.epoch_key(previous))),
        }
    }

    /// The ring for `epoch` where `before` was current until now, be it an earlier epoch, or a later one after the clock was set:
    /// cookies of both are accepted. `None` if the two have the same parity, which could not tell them apart.
    pub fn following(master: &MasterKey, epoch: u64, before: u64) -> Option<KeyRing> {
        (is_odd(epoch) != is_odd(before)).then(|| KeyRing {
            epoch,
            current: master.epoch_key(epoch),
            previous: Some((before, master.epoch_key(before))),
        })
    }

    /// Whether cookies of `epoch` are accepted.
    pub fn accepts(&self, epoch: u64) -> bool {
        self.epoch == epoch || self.previous.as_ref().is_some_and(|(previous, _)| *previous == epoch)
    }

    /// The current epoch.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The keys of the live epochs by parity, even first, each as two words: for a fast path that checks and makes cookies
    /// itself. Wiped when dropped.
    pub fn by_parity(&self) -> [Option<Zeroizing<[u64; 2]>>; 2] {
        [false, true].map(|odd| self.with_parity(odd).map(|(_, key)| key.0.clone()))
    }

    /// The key to mint with.
    pub(crate) const fn current(&self) -> &EpochKey {
        &self.current
    }

    /// The live epoch of the given parity and its key; `None` for the odd parity in epoch 0.
    pub(crate) fn with_parity(&self, odd: bool) -> Option<(u64, &EpochKey)> {
        if is_odd(self.epoch) == odd {
            return Some((self.epoch, &self.current));
        }
        self.previous.as_ref().map(|(previous, key)| (*previous, key))
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// The SipHash key of one epoch, in the reference implementation's order: two little-endian words. Wiped when dropped.
pub(crate) struct EpochKey(Zeroizing<[u64; 2]>);

impl EpochKey {
    fn new(k0: u64, k1: u64) -> EpochKey {
        EpochKey(Zeroizing::new([k0, k1]))
    }

    /// SipHash-2-4 of `message`, 64 bits.
    pub(crate) fn hash(&self, message: &[u8]) -> u64 {
        let [k0, k1] = *self.0;
        SipHasher24::new_with_keys(k0, k1).hash(message)
    }
}

fn next_word(reader: &mut blake3::OutputReader) -> u64 {
    let mut octets = [0; 8];
    reader.fill(&mut octets);
    let word = u64::from_le_bytes(octets);
    octets.zeroize();
    word
}

/// Separates these keys from every other use of the same master; part of the cookie's version.
const CONTEXT: &str = "synwall cookie epoch key v1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_agrees_with_the_reference_implementation() {
        let key = EpochKey::new(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let message: Vec<u8> = (0..64).collect();
        for (len, expected) in SIPHASH_2_4_64.into_iter().enumerate() {
            assert_eq!(key.hash(&message[..len]).to_le_bytes(), expected.to_be_bytes(), "{len} octets");
        }
    }

    #[test]
    fn epoch_key_is_the_start_of_blake3_derive_key() {
        let master: [u8; 32] = core::array::from_fn(|i| u8::try_from(i).unwrap().wrapping_mul(7));
        for epoch in [0, 1, 0x0102_0304_0506_0708, u64::MAX] {
            let material = [&master[..], &epoch.to_le_bytes()].concat();
            let expected = blake3::derive_key("synwall cookie epoch key v1", &material);
            let key = MasterKey::from_bytes(master).epoch_key(epoch);
            assert_eq!(key.0.map(u64::to_le_bytes).concat(), expected[..16]);
        }
    }

    #[test]
    fn ring_holds_the_two_newest_epochs_by_parity() {
        let master = MasterKey::from_bytes([3; 32]);
        let epochs = |at| {
            let ring = KeyRing::at(&master, at);
            [false, true].map(|odd| ring.with_parity(odd).map(|(epoch, key)| (epoch, *key.0)))
        };
        let key = |epoch| Some((epoch, *master.epoch_key(epoch).0));
        assert_eq!(epochs(0), [key(0), None]);
        assert_eq!(epochs(1), [key(0), key(1)]);
        assert_eq!(epochs(2), [key(2), key(1)]);
        assert_eq!(epochs(u64::MAX), [key(u64::MAX - 1), key(u64::MAX)]);
    }

    #[test]
    fn a_ring_that_follows_another_holds_what_was_current_unless_the_parity_is_the_same() {
        let master = MasterKey::from_bytes([3; 32]);
        let key = |epoch| (epoch, *master.epoch_key(epoch).0);
        for (epoch, before) in [(8, 7), (7, 8), (40_001, 8), (8, 40_001), (0, 1), (u64::MAX, 0)] {
            let ring = KeyRing::following(&master, epoch, before).unwrap();
            let held = |of: u64| ring.with_parity(of & 1 == 1).map(|(epoch, key)| (epoch, *key.0));
            assert_eq!(
                (ring.epoch(), held(epoch), held(before)),
                (epoch, Some(key(epoch)), Some(key(before)))
            );
            assert!(ring.accepts(epoch) && ring.accepts(before) && !ring.accepts(epoch ^ 2));
        }
        assert!(KeyRing::following(&master, 8, 6).is_none() && KeyRing::following(&master, 8, 8).is_none());
        assert!(KeyRing::at(&master, 8).accepts(7) && !KeyRing::at(&master, 8).accepts(9));
    }

    #[test]
    fn keys_by_parity_are_those_that_mint_and_check() {
        let master = MasterKey::from_bytes([3; 32]);
        for epoch in [0, 1, 2, 41] {
            let ring = KeyRing::at(&master, epoch);
            let expected = [false, true].map(|odd| ring.with_parity(odd).map(|(_, key)| *key.0));
            assert_eq!(ring.by_parity().map(|key| key.map(|key| *key)), expected);
        }
    }

    #[test]
    fn debug_shows_no_key_octet() {
        let master = MasterKey::from_bytes([0xa7; 32]);
        assert_eq!(format!("{master:?}"), "MasterKey(..)");
        assert_eq!(format!("{:?}", KeyRing::at(&master, 41)), "KeyRing { epoch: 41, .. }");
    }

    /// `vectors_sip64` of the reference implementation, octet for octet: key 00 01 … 0f, message 00 01 … of 0 to 63
    /// octets.
    #[rustfmt::skip]
    const SIPHASH_2_4_64: [u64; 64] = [
        0x310e_0edd_47db_6f72, 0xfd67_dc93_c539_f874, 0x5a4f_a9d9_0980_6c0d, 0x2d7e_fbd7_9666_6785,
        0xb787_7127_e094_27cf, 0x8da6_99cd_6455_7618, 0xcee3_fe58_6e46_c9cb, 0x37d1_018b_f500_02ab,
        0x6224_939a_79f5_f593, 0xb0e4_a90b_df82_009e, 0xf3b9_dd94_c5bb_5d7a, 0xa7ad_6b22_462f_b3f4,
        0xfbe5_0e86_bc8f_1e75, 0x903d_84c0_2756_ea14, 0xeef2_7a8e_90ca_23f7, 0xe545_be49_61ca_29a1,
        0xdb9b_c257_7fcc_2a3f, 0x9447_be2c_f5e9_9a69, 0x9cd3_8d96_f0b3_c14b, 0xbd61_79a7_1dc9_6dbb,
        0x98ee_a21a_f25c_d6be, 0xc767_3b2e_b0cb_f2d0, 0x883e_a3e3_9567_5393, 0xc8ce_5ccd_8c03_0ca8,
        0x94af_49f6_c650_adb8, 0xeab8_858a_de92_e1bc, 0xf315_bb5b_b835_d817, 0xadcf_6b07_6361_2e2f,
        0xa5c9_1da7_acaa_4dde, 0x7165_9587_6650_a2a6, 0x28ef_495c_53a3_87ad, 0x42c3_41d8_fa92_d832,
        0xce7c_f272_2f51_2771, 0xe378_59f9_4623_f3a7, 0x3812_05bb_1ab0_e012, 0xae97_a10f_d434_e015,
        0xb4a3_1508_beff_4d31, 0x8139_6229_f090_7902, 0x4d0c_f49e_e5d4_dcca, 0x5c73_336a_76d8_bf9a,
        0xd0a7_0453_6ba9_3e0e, 0x9259_58fc_d642_0cad, 0xa915_c29b_c806_7318, 0x952b_79f3_bc0a_a6d4,
        0xf21d_f2e4_1d45_35f9, 0x8757_7519_048f_53a9, 0x10a5_6cf5_dfcd_9adb, 0xeb75_095c_cd98_6cd0,
        0x51a9_cb9e_cba3_12e6, 0x96af_adfc_2ce6_66c7, 0x72fe_5297_5a43_64ee, 0x5a16_45b2_76d5_92a1,
        0xb274_cb8e_bf87_870a, 0x6f9b_b420_3de7_b381, 0xeaec_b2a3_0b22_a87f, 0x9924_a43c_c131_5724,
        0xbd83_8d3a_afbf_8db7, 0x0b1a_2a32_65d5_1aea, 0x1350_79a3_231c_e660, 0x932b_2846_e4d7_0666,
        0xe191_5f5c_b1ec_a46c, 0xf325_965c_a16d_629f, 0x575f_f28e_6038_1be5, 0x7245_06eb_4c32_8a95,
    ];
}
