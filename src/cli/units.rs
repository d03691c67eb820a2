//! Numbers with units on a command line: `10k`, `64KiB`, `500ms`, `1.5s`, `1h30m`.

use std::error::Error;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Why a text is not a number with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnitError {
    /// The text has another form than the expected one, which is described here.
    Expected(&'static str),
    /// The number is zero where at least 1 is needed.
    Zero,
    /// The number does not fit its type.
    TooLarge,
    /// The number has more decimal places than its unit allows.
    TooFine,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnitError::Expected(form) => write!(f, "expected {form}"),
            UnitError::Zero => f.write_str("must be at least 1"),
            UnitError::TooLarge => f.write_str("too large"),
            UnitError::TooFine => f.write_str("too many decimal places"),
        }
    }
}

impl Error for UnitError {}

/// Parses a count: `500`, `10k`, `1.5M` (thousands and millions); a whole number, at least 1.
///
/// # Errors
/// The text is not such a count.
pub fn count(text: &str) -> Result<usize, UnitError> {
    let units = [("k", 1_000), ("M", 1_000_000), ("", 1)];
    let n = scaled(text, &units, "a count like 500, 10k or 1M")?;
    match usize::try_from(n) {
        Ok(0) => Err(UnitError::Zero),
        Ok(n) => Ok(n),
        Err(_) => Err(UnitError::TooLarge),
    }
}

/// Parses a rate a second, in thousandths: `500`, `0.5`, `1.5k`, `1M`; more than 0.
///
/// # Errors
/// The text is not such a rate.
pub fn rate(text: &str) -> Result<u64, UnitError> {
    let units = [("k", 1_000_000), ("M", 1_000_000_000), ("", 1_000)];
    match scaled(text, &units, "a rate like 500, 0.5 or 10k")? {
        0 => Err(UnitError::Expected("more than 0")),
        thousandths => Ok(thousandths),
    }
}

/// Parses a size in bytes: `64`, `16KiB`, `1MiB`, `1GiB`, or `K`, `M` and `G` for short (of 1024).
///
/// # Errors
/// The text is not such a size.
pub fn size(text: &str) -> Result<usize, UnitError> {
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
    usize::try_from(n).map_err(|_| UnitError::TooLarge)
}

/// Parses a size, or a range of sizes that includes both ends: `16..4KiB`.
///
/// # Errors
/// The text is neither, or the range is empty.
pub fn sizes(text: &str) -> Result<RangeInclusive<usize>, UnitError> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    match size(min)?..=size(max)? {
        sizes if sizes.is_empty() => Err(UnitError::Expected("a range from small to large")),
        sizes => Ok(sizes),
    }
}

/// Parses a duration: `100us`, `500ms`, `1.5s`, `2m`, `1h30m`. A bare `0` needs no unit.
///
/// # Errors
/// The text is not such a duration.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    const UNITS: [(&str, u64); 5] = [
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
    ];
    const EXPECTED: &str = "a duration like 500ms, 1.5s or 1h30m";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut smaller, mut sum) = (text, &UNITS[..], 0_u64);
    loop {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number_at = rest[unit_at..].find(|c: char| c.is_ascii_digit());
        let (part, behind) = rest.split_at(number_at.map_or(rest.len(), |at| unit_at + at));
        // Each unit once, from large to small, and only the last number may have decimal places.
        let unit = smaller.iter().position(|&(unit, _)| unit == &part[unit_at..]);
        let unit = unit.filter(|_| behind.is_empty() || !part.contains('.'));
        let unit = unit.ok_or(UnitError::Expected(EXPECTED))?;
        let part = scaled(part, &smaller[unit..=unit], EXPECTED)?;
        sum = sum.checked_add(part).ok_or(UnitError::TooLarge)?;
        if behind.is_empty() {
            return Ok(Duration::from_nanos(sum));
        }
        (rest, smaller) = (behind, &smaller[unit + 1..]);
    }
}

/// Parses the permissions of a file in the form of chmod(1): `660`, `0600`; at most 777.
///
/// # Errors
/// The text is not such a number.
pub fn mode(text: &str) -> Result<u32, UnitError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|&mode| digits && mode <= 0o777);
    mode.ok_or(UnitError::Expected("an octal mode like 660"))
}

/// Returns a number times its unit, which must be whole. The first unit that the text ends with is used,
/// so `KiB` must come before the empty unit.
fn scaled(text: &str, units: &[(&str, u64)], expected: &'static str) -> Result<u64, UnitError> {
    let (number, scale) = units
        .iter()
        .find_map(|&(unit, scale)| text.strip_suffix(unit).map(|number| (number, scale)))
        .ok_or(UnitError::Expected(expected))?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // A number without a unit that has parts, like a byte, has no decimal places.
    if !is_number(whole) || !is_number(decimals) || scale == 1 && number != whole {
        return Err(UnitError::Expected(expected));
    }
    let parse = |digits: &str| digits.parse::<u128>().map_err(|_| UnitError::TooLarge);
    let decimals = decimals.trim_end_matches('0');
    let places = u32::try_from(decimals.len()).ok().and_then(|places| 10_u128.checked_pow(places));
    let places = places.ok_or(UnitError::TooFine)?;
    let parts = if decimals.is_empty() { 0 } else { parse(decimals)? };
    let parts = parts.checked_mul(scale.into()).ok_or(UnitError::TooFine)?;
    if parts % places != 0 {
        return Err(UnitError::TooFine);
    }
    let whole = parse(whole)?.checked_mul(scale.into()).ok_or(UnitError::TooLarge)?;
    u64::try_from(whole.saturating_add(parts / places)).map_err(|_| UnitError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_and_of_permissions_only() {
        assert_eq!(mode("660"), Ok(0o660));
        assert_eq!(mode("0600"), Ok(0o600));
        for bad in ["", "668", "1777", "+60", "rw"] {
            assert!(
                mode(bad).unwrap_err().to_string().starts_with("expected an octal mode"),
                "{bad}"
            );
        }
    }

    #[test]
    fn counts_are_of_thousands_and_at_least_one() {
        assert_eq!(count("500"), Ok(500));
        assert_eq!(count("10k"), Ok(10_000));
        assert_eq!(count("1M"), Ok(1_000_000));
        assert_eq!(count("0"), Err(UnitError::Zero));
        assert_eq!(count("1.5k"), Ok(1500));
        assert_eq!(count("1.2345k"), Err(UnitError::TooFine));
        for bad in ["", "k", "-1", "+1", "1.5", "1.0", ".5k", "1.k", "1K", "1 k", "10kk", "ten"] {
            assert!(count(bad).unwrap_err().to_string().starts_with("expected a count"), "{bad}");
        }
        assert_eq!(count("18446744073709551616"), Err(UnitError::TooLarge));
        assert_eq!(count("18446744073709551615k"), Err(UnitError::TooLarge));
    }

    #[test]
    fn rates_may_have_parts_of_a_thousandth() {
        assert_eq!(rate("500"), Ok(500_000));
        assert_eq!(rate("0.5"), Ok(500));
        assert_eq!(rate("0.001"), Ok(1));
        assert_eq!(rate("1.5k"), Ok(1_500_000));
        assert_eq!(rate("1M"), Ok(1_000_000_000));
        assert_eq!(rate("0.0001"), Err(UnitError::TooFine));
        assert_eq!(rate("18446744073709551k"), Err(UnitError::TooLarge));
        for bad in ["", "0", "0.0", ".5", "1.", "1.5.5", "-1", "1e3", "1.5s", "inf"] {
            assert!(matches!(rate(bad), Err(UnitError::Expected(_))), "{bad}");
        }
    }

    #[test]
    fn sizes_are_of_1024_and_in_bytes() {
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("16KiB"), size("16K"));
        assert_eq!(size("16KiB"), Ok(16 * 1024));
        assert_eq!(size("1MiB"), size("1M"));
        assert_eq!(size("1M"), Ok(1024 * 1024));
        assert_eq!(size("1.5K"), Ok(1536));
        for bad in ["", "1.5", "KiB", "1kB", "1k", "64B", "-1"] {
            assert!(size(bad).unwrap_err().to_string().starts_with("expected a size"), "{bad}");
        }
    }

    #[test]
    fn a_range_of_sizes_includes_both_ends() {
        assert_eq!(sizes("64"), Ok(64..=64));
        assert_eq!(sizes("16..4KiB"), Ok(16..=4096));
        assert_eq!(sizes("0..0"), Ok(0..=0));
        for bad in ["", "..", "1..", "..5", "1..2..3", "1-5", "5..4"] {
            assert!(sizes(bad).unwrap_err().to_string().starts_with("expected a"), "{bad}");
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
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("0.5us"), Ok(Duration::from_nanos(500)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1h1s"), Ok(Duration::from_secs(3601)));
        assert_eq!(duration("1m2.5s"), Ok(Duration::from_millis(62_500)));
        assert_eq!(duration("1s5ms7us"), Ok(Duration::from_micros(1_005_007)));
        assert_eq!(duration("0.0001us"), Err(UnitError::TooFine));
        for bad in [
            "", "10", "1.5", "s", "1d", "-1s", "1 s", "1.s", ".5s", "1..5s", "1m1h", "1s1s",
            "1h30", "1.5h30m", "1h 30m", "h1m", "1h-5m", "0x1s",
        ] {
            assert!(
                duration(bad).unwrap_err().to_string().starts_with("expected a duration"),
                "{bad}"
            );
        }
        assert_eq!(duration("99999999999999999h"), Err(UnitError::TooLarge));
        assert_eq!(duration("5124095h59m"), Err(UnitError::TooLarge));
    }

    #[test]
    fn an_error_says_what_was_expected() {
        assert_eq!(count("0").unwrap_err().to_string(), "must be at least 1");
        assert_eq!(size("99999999999999999999").unwrap_err().to_string(), "too large");
    }
}
