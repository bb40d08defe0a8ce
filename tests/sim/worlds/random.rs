//! Numbers that look random and are the same every time.

use std::time::Duration;

/// SplitMix64: small, and good enough to throw dice with.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True `in_million` times in a million.
    pub fn happens(&mut self, in_million: u64) -> bool {
        in_million != 0 && self.below(1_000_000) < in_million
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Between the two, as likely in each octave: most are small, some are large.
    pub fn octave(&mut self, low: u32, high: u32) -> u32 {
        let octaves = f64::from(high) / f64::from(low);
        let share = self.below(1 << 20) as f64 / f64::from(1 << 20);
        (f64::from(low) * octaves.powf(share)) as u32
    }

    pub fn duration(&mut self, below: Duration) -> Duration {
        Duration::from_nanos(self.below((below.as_nanos() as u64).max(1)))
    }
}
