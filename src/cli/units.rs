//! How numbers are written on a command line: `10k`, `64KiB`, `500ms`.

use std::time::Duration;

/// Reads a count: `500`, `10k`, `1M`; thousands and millions; at least 1.
///
/// # Errors
/// A sentence that says what is wrong with the text.
pub fn count(text: &str) -> Result<usize, String> {
    let units = [("k", 1_000), ("M", 1_000_000), ("", 1)];
    let n = scaled(text, &units, "a count like 500, 10k or 1M")?;
    match usize::try_from(n) {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("too large".into()),
    }
}

/// Reads a size in bytes: `64`, `16KiB`, `1MiB`, `1GiB`, or `K`, `M` and `G` for short, of 1024.
///
/// # Errors
/// A sentence that says what is wrong with the text.
pub fn size(text: &str) -> Result<usize, String> {
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("K", 1 << 10),
        ("M", 1 << 20),
        ("G", 1 << 30),
        ("", 1),
    ];
    let n = scaled(text, &units, "a size like 64, 16KiB or 1MiB")?;
    usize::try_from(n).map_err(|_| "too large".into())
}

/// Reads a duration: `100us`, `500ms`, `10s`, `2m`, `1h`. A bare `0` needs no unit.
///
/// # Errors
/// A sentence that says what is wrong with the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let units =
        [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];
    scaled(text, &units, "a duration like 500ms, 10s or 2m").map(Duration::from_micros)
}

/// Reads the permissions of a file, as chmod(1) takes them: `660`, `0600`; at most 777.
///
/// # Errors
/// A sentence that says what is wrong with the text.
pub fn mode(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|&mode| digits && mode <= 0o777);
    mode.ok_or_else(|| "expected an octal mode like 660".into())
}

/// The first unit that ends the text wins, so a longer one stands before its own ending.
fn scaled(text: &str, units: &[(&str, u64)], expected: &str) -> Result<u64, String> {
    let (digits, scale) = units
        .iter()
        .find_map(|&(unit, scale)| text.strip_suffix(unit).map(|digits| (digits, scale)))
        .filter(|(digits, _)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        .ok_or_else(|| format!("expected {expected}"))?;
    let n: Option<u64> = digits.parse().ok();
    n.and_then(|n| n.checked_mul(scale)).ok_or_else(|| "too large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_and_of_permissions_only() {
        assert_eq!(mode("660"), Ok(0o660));
        assert_eq!(mode("0600"), Ok(0o600));
        for bad in ["", "668", "1777", "+60", "rw"] {
            assert!(mode(bad).unwrap_err().starts_with("expected an octal mode"), "{bad}");
        }
    }

    #[test]
    fn counts_are_of_thousands_and_at_least_one() {
        assert_eq!(count("500"), Ok(500));
        assert_eq!(count("10k"), Ok(10_000));
        assert_eq!(count("1M"), Ok(1_000_000));
        assert_eq!(count("0"), Err("must be at least 1".into()));
        for bad in ["", "k", "-1", "+1", "1.5k", "1K", "1 k", "10kk", "ten"] {
            assert!(count(bad).unwrap_err().starts_with("expected a count"), "{bad}");
        }
        assert_eq!(count("18446744073709551616"), Err("too large".into()));
        assert_eq!(count("18446744073709551615k"), Err("too large".into()));
    }

    #[test]
    fn sizes_are_of_1024_and_in_bytes() {
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("16KiB"), size("16K"));
        assert_eq!(size("16KiB"), Ok(16 * 1024));
        assert_eq!(size("1MiB"), size("1M"));
        assert_eq!(size("1M"), Ok(1024 * 1024));
        for bad in ["", "KiB", "1kB", "1k", "64B", "-1"] {
            assert!(size(bad).unwrap_err().starts_with("expected a size"), "{bad}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("100us"), Ok(Duration::from_micros(100)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for bad in ["", "10", "s", "1d", "-1s", "1.5s", "1 s"] {
            assert!(duration(bad).unwrap_err().starts_with("expected a duration"), "{bad}");
        }
        assert_eq!(duration("99999999999999999h"), Err("too large".into()));
    }
}
