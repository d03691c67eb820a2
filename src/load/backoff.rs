//! How long to wait before a connection is made again.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// The wait after the first failure.
const FIRST: Duration = Duration::from_millis(10);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(1);

/// Returns the wait after this number of failures in a row, at least 1. It doubles with each failure, and the
/// seed spreads it over the upper half: all connections that were lost together would otherwise come back
/// together, again and again.
pub(crate) fn delay(seed: u64, connection: u64, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let whole = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    let mut hasher = DefaultHasher::new();
    (seed, connection, failures).hash(&mut hasher);
    // 53 bits are what a float holds.
    let part = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
    whole.mul_f64(0.5 + part / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_doubles_up_to_a_second_and_is_spread_over_its_upper_half() {
        for (failures, most) in [(1, 10), (2, 20), (3, 40), (7, 640), (8, 1000), (u32::MAX, 1000)] {
            let most = Duration::from_millis(most);
            let waits: Vec<_> = (0..1000).map(|n| delay(7, n, failures)).collect();
            let (shortest, longest) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            assert!(*shortest >= most / 2 && *longest <= most, "{shortest:?} to {longest:?}");
            assert!(*longest > *shortest + most / 3, "{shortest:?} to {longest:?}");
            assert_eq!(waits[5], delay(7, 5, failures));
            assert_ne!(waits[5], delay(8, 5, failures));
        }
    }
}
