//! How long to wait for a peer that is busy.

use core::time::Duration;

/// How often a peer may be busy, and how long the caller shall wait in between: this side has no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// How often in a row a peer may be busy before a request gives up; zero counts as one.
    pub attempts: u32,
    /// The first pause; each further one is twice as long.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Backoff {
    /// One attempt; pauses of 200 microseconds to 10 milliseconds for who goes on.
    fn default() -> Self {
        Backoff { attempts: 1, first: Duration::from_micros(200), longest: Duration::from_millis(10) }
    }
}

impl Backoff {
    /// The pause after a peer was busy for this many times in a row.
    pub fn pause(&self, attempts: u32) -> Duration {
        let doubled = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest)
    }

    /// Whether a peer that was busy for this many times in a row gets no further chance.
    pub fn is_over(&self, attempts: u32) -> bool {
        attempts >= self.attempts.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let backoff = Backoff::default();
        let pauses: Vec<_> = (0..9).map(|attempts| backoff.pause(attempts).as_micros()).collect();
        assert_eq!(pauses, [200, 200, 400, 800, 1600, 3200, 6400, 10000, 10000]);
        for attempts in [31, 32, 33, 64, u32::MAX] {
            assert_eq!(backoff.pause(attempts), backoff.longest);
        }
    }
}
