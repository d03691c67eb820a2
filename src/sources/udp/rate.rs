//! Limit of answers to each source address.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Number of buckets. They take half a megabyte, however many sources there are, or are forged.
const BUCKETS: usize = 1 << 16;

/// A source that was quiet may have the answers of this time at once.
const BURST: Duration = Duration::from_millis(100);

/// A token bucket for each source address, in a table of fixed size.
///
/// Sources whose addresses have the same hash share a bucket, and with it its rate. The key of the hash is
/// random, so nobody can choose an address that shares the bucket of another. Whoever uses up the rate of an
/// address takes it from one in 65536 others.
#[derive(Debug)]
pub(crate) struct RateLimit {
    /// Nanoseconds that one answer uses up.
    cost: u64,
    /// Nanoseconds that a bucket holds.
    capacity: u64,
    start: Instant,
    /// For each bucket the time, in nanoseconds since the start, at which it is full again. That one number
    /// is enough: what is missing is what flows in until then.
    full_at: Vec<u64>,
    key: RandomState,
}

impl RateLimit {
    /// Makes a limit of `rate` answers a second.
    pub(crate) fn new(rate: usize, now: Instant) -> RateLimit {
        let cost = 1_000_000_000 / (rate as u64).max(1);
        RateLimit {
            cost,
            capacity: cost.max(nanoseconds(BURST)),
            start: now,
            full_at: vec![0; BUCKETS],
            key: RandomState::new(),
        }
    }

    /// Returns whether the source may have an answer now, and counts it.
    pub(crate) fn admits(&mut self, source: IpAddr, now: Instant) -> bool {
        let now = nanoseconds(now.saturating_duration_since(self.start));
        let hash = self.key.hash_one(network(source));
        // The remainder fits.
        #[expect(clippy::cast_possible_truncation)]
        let full_at = &mut self.full_at[hash as usize % BUCKETS];
        let next = now.max(*full_at).saturating_add(self.cost);
        let is_admitted = next <= now.saturating_add(self.capacity);
        if is_admitted {
            *full_at = next;
        }
        is_admitted
    }
}

/// Returns what counts as one source: an IPv4 address, or the /64 of an IPv6 address, since one host has all
/// addresses of its /64.
fn network(source: IpAddr) -> (bool, u64) {
    match source.to_canonical() {
        IpAddr::V4(v4) => (false, u32::from(v4).into()),
        IpAddr::V6(v6) => (true, u64::try_from(u128::from(v6) >> 64).unwrap_or_default()),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than the largest burst here.
    const TRIES: usize = 2000;

    fn admitted(limit: &mut RateLimit, source: &str, at: Instant) -> usize {
        let source = source.parse().unwrap();
        (0..TRIES).filter(|_| limit.admits(source, at)).count()
    }

    #[test]
    fn a_source_has_its_rate_and_one_burst() {
        let start = Instant::now();
        let mut limit = RateLimit::new(10_000, start);
        let mut count = 0;
        for ms in 0..=1000 {
            count += admitted(&mut limit, "127.0.0.1", start + Duration::from_millis(ms));
        }
        assert_eq!(count, 11_000);
    }

    #[test]
    fn a_rate_of_one_is_one_a_second_and_a_huge_one_is_no_limit() {
        let start = Instant::now();
        let mut limit = RateLimit::new(1, start);
        let at = |ms| start + Duration::from_millis(ms);
        let counts = [0, 999, 1000, 1001, 2000].map(|ms| admitted(&mut limit, "::1", at(ms)));
        assert_eq!(counts, [1, 0, 1, 0, 1]);
        assert_eq!(admitted(&mut RateLimit::new(usize::MAX, start), "::1", start), TRIES);
    }

    #[test]
    fn one_host_cannot_change_its_address_within_its_network_to_have_more() {
        let start = Instant::now();
        let mut limit = RateLimit::new(10, start);
        assert_eq!(admitted(&mut limit, "2001:db8::1", start), 1);
        assert_eq!(admitted(&mut limit, "2001:db8::ffff:0:0:2", start), 0, "the same /64");
        assert_eq!(admitted(&mut limit, "192.0.2.1", start), 1);
        assert_eq!(admitted(&mut limit, "::ffff:192.0.2.1", start), 0, "the same host");
    }

    #[test]
    fn few_sources_share_a_bucket() {
        let start = Instant::now();
        let mut limit = RateLimit::new(1, start);
        let sources = (1..=10_000u32).map(|n| IpAddr::from(n.to_be_bytes()));
        let alone = sources.filter(|&source| limit.admits(source, start)).count();
        assert!(alone > 9000, "{alone} of 10000");
    }
}
