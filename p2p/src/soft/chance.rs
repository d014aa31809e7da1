//! The seeded source of every choice that the model makes.

/// SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, one addition and three xor-shift-multiply rounds a
/// draw. Small, and the same on every machine; not for secrets.
#[derive(Debug, Clone)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// A sequence that is a function of `seed` alone.
    pub const fn new(seed: u64) -> Self {
        Chance { state: seed }
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0. Its bias is below `bound` / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// An index into a list of `len` entries, `None` when it is empty.
    pub fn pick(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.below(len as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_splitmix64() {
        let mut c = Chance::new(0);
        assert_eq!([c.draw(), c.draw()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn draws_stay_below_their_bound() {
        let mut c = Chance::new(7);
        assert!((0..1000).all(|_| c.below(3) < 3));
        assert_eq!(c.below(0), 0);
        assert_eq!(c.pick(0), None);
    }
}
