//! How many a second.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A number of messages, or of connections, a second. It is kept as a fraction, so that half a message a
/// second is exact too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// This number comes in so many seconds.
    pub(super) count: u64,
    pub(super) seconds: u64,
}

impl Rate {
    /// Returns a rate of this number in a thousand seconds.
    pub fn from_thousandths(thousandths: u64) -> Rate {
        let shared = (1..=1000)
            .rev()
            .find(|n| thousandths.is_multiple_of(*n) && 1000_u64.is_multiple_of(*n))
            .unwrap_or(1);
        Rate { count: thousandths / shared, seconds: 1000 / shared }
    }

    /// Returns the rate as a number a second.
    pub fn per_second(self) -> f64 {
        self.count as f64 / self.seconds as f64
    }

    /// Returns the time between two of the rate. A rate of zero has none.
    pub(super) fn interval(self) -> Duration {
        let interval = Duration::from_secs(self.seconds).as_secs_f64() / self.count as f64;
        Duration::try_from_secs_f64(interval).unwrap_or(Duration::MAX)
    }
}

impl From<u64> for Rate {
    fn from(count: u64) -> Rate {
        Rate { count, seconds: 1 }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.per_second())
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.seconds {
            1 => serializer.serialize_u64(self.count),
            _ => serializer.serialize_f64(self.per_second()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_prints_as_it_was_typed() {
        for (thousandths, text) in
            [(500, "0.5"), (1, "0.001"), (50_000_000, "50000"), (1500, "1.5")]
        {
            let rate = Rate::from_thousandths(thousandths);
            assert_eq!(rate.to_string(), text);
            assert_eq!(serde_json::to_string(&rate).expect("JSON"), text);
        }
    }
}
