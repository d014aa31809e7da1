//! Medians and percentiles.

/// Sorted values.
#[derive(Debug, Clone, Default)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    /// Sorts them.
    pub fn new(mut values: Vec<f64>) -> Sorted {
        values.retain(|v| v.is_finite());
        values.sort_by(f64::total_cmp);
        Sorted(values)
    }

    /// The value below which `share` of them lie, nearest rank; NaN if there is none.
    pub fn at(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let rank = (share * last as f64).round() as usize;
        self.0.get(rank.min(last)).copied().unwrap_or(f64::NAN)
    }

    /// The middle one, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let n = self.0.len();
        match (self.0.get(n / 2), n % 2) {
            (Some(high), 0) => (high + self.0[n / 2 - 1]) / 2.0,
            (Some(middle), _) => *middle,
            (None, _) => f64::NAN,
        }
    }

    /// Smallest and largest.
    pub fn spread(&self) -> (f64, f64) {
        (self.0.first().copied().unwrap_or(f64::NAN), self.0.last().copied().unwrap_or(f64::NAN))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A small generator with a fixed seed: all contenders meet the same addresses in the same order.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Seeded.
    pub fn new(seed: u64) -> Random {
        Random(seed.max(1))
    }

    /// Below `n` (n > 0).
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }

    /// `0..n` in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            all.swap(i, self.below(i as u64 + 1) as usize);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Sorted::new(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Sorted::new(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert!(Sorted::new(vec![]).median().is_nan());
        assert!(Sorted::new(vec![f64::NAN]).is_empty());
    }

    #[test]
    fn a_percentile_is_a_value_that_occurred() {
        let sorted = Sorted::new((0..=100).map(f64::from).collect());
        assert_eq!((sorted.at(0.5), sorted.at(0.99), sorted.at(1.0)), (50.0, 99.0, 100.0));
        assert_eq!(sorted.spread(), (0.0, 100.0));
    }

    #[test]
    fn a_permutation_has_each_number_once() {
        let mut all = Random::new(7).permutation(1000);
        assert_ne!(all, (0..1000).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
    }
}
