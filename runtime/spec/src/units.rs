//! Sizes (`128 MiB`) and durations (`30s`, `1m 30s`) as the manifest and the policy write them.

use std::time::Duration;

/// Why a size or duration was not understood, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitError {
    pub(crate) message: String,
    pub(crate) suggestion: Option<String>,
}

impl UnitError {
    fn new(message: impl Into<String>, suggestion: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            suggestion: Some(suggestion.into()),
        }
    }
}

const SIZES: [(&str, u64); 5] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const TIMES: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Reads a size in bytes: a number, which may have decimals as long as whole bytes come out, and
/// `B`, `KiB`, `MiB`, `GiB` or `TiB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, UnitError> {
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let unit = unit.trim();
    if number.is_empty() {
        return Err(UnitError::new(
            "is not a size",
            "use a number and a unit, as in \"128 MiB\"",
        ));
    }
    if unit.is_empty() {
        return Err(UnitError::new(
            "has no unit",
            format!("use B, KiB, MiB, GiB or TiB, as in \"{number} MiB\""),
        ));
    }
    let Some((_, factor)) = SIZES.iter().find(|(name, _)| *name == unit) else {
        let near = match unit.to_ascii_lowercase().as_str() {
            "k" | "kb" | "kib" => Some("KiB"),
            "m" | "mb" | "mib" => Some("MiB"),
            "g" | "gb" | "gib" => Some("GiB"),
            "t" | "tb" | "tib" => Some("TiB"),
            "b" | "byte" | "bytes" => Some("B"),
            _ => None,
        };
        let message = format!("has an unknown unit `{unit}`");
        return Err(match near {
            Some(near) => UnitError::new(message, format!("did you mean \"{number} {near}\"?")),
            None => UnitError::new(message, "use B, KiB, MiB, GiB or TiB"),
        });
    };
    scaled(number, *factor).ok_or_else(|| {
        UnitError::new(
            "is not a whole number of bytes below 8 EiB",
            "use a number and a unit, as in \"128 MiB\"",
        )
    })
}

/// `number` (digits, at most one point) times `factor`, if that is a whole number that fits an `i64`.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if whole.len() > 18 || decimals.len() > 12 {
        return None;
    }
    let factor = u128::from(factor);
    let ten = 10_u128.pow(u32::try_from(decimals.len()).ok()?);
    let part = decimals.parse::<u128>().ok()? * factor;
    if part % ten != 0 {
        return None;
    }
    let bytes = whole.parse::<u128>().ok()? * factor + part / ten;
    i64::try_from(bytes).ok().map(i64::cast_unsigned)
}

/// Reads a duration: whole numbers with `ms`, `s`, `m`, `h` or `d`, largest unit first, as in `1m 30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    const HELP: &str = "use a whole number and ms, s, m, h or d, as in \"30s\" or \"1m 30s\"";
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut below = u64::MAX;
    if rest.is_empty() {
        return Err(UnitError::new("is not a duration", HELP));
    }
    while !rest.is_empty() {
        let split = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(split);
        let after = after.trim_start();
        let split = after
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(split);
        if number.is_empty() {
            return Err(UnitError::new("is not a duration", HELP));
        }
        if after.starts_with('.') {
            return Err(UnitError::new("is not in whole numbers", HELP));
        }
        if unit.is_empty() {
            return Err(UnitError::new(
                "has no unit",
                format!("use ms, s, m, h or d, as in \"{number}s\""),
            ));
        }
        let factor = time_unit(number, unit)?;
        if factor >= below {
            return Err(UnitError::new(
                "has its units out of order",
                "write the largest unit first, each once",
            ));
        }
        below = factor;
        total = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(factor))
            .and_then(|n| n.checked_add(total))
            .ok_or_else(|| UnitError::new("is too long a time", HELP))?;
        rest = after.trim_start();
    }
    Ok(Duration::from_millis(total))
}

/// The milliseconds of one `unit`.
fn time_unit(number: &str, unit: &str) -> Result<u64, UnitError> {
    if let Some((_, factor)) = TIMES.iter().find(|(name, _)| *name == unit) {
        return Ok(*factor);
    }
    let near = match unit.to_lowercase().as_str() {
        "millis" | "millisecond" | "milliseconds" | "msec" => Some("ms"),
        "s" | "sec" | "secs" | "second" | "seconds" => Some("s"),
        "m" | "min" | "mins" | "minute" | "minutes" => Some("m"),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some("h"),
        "d" | "day" | "days" => Some("d"),
        _ => None,
    };
    let message = format!("has an unknown unit `{unit}`");
    Err(match near {
        Some(near) => UnitError::new(message, format!("did you mean \"{number}{near}\"?")),
        None => UnitError::new(message, "use ms, s, m, h or d"),
    })
}

/// A plain number as TOML may write it: `100_000`; up to four digits stay together.
pub(crate) fn show_count(count: u64) -> String {
    let digits = count.to_string();
    if digits.len() <= 4 {
        return digits;
    }
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('_');
        }
        grouped.push(digit);
    }
    grouped
}

/// A size in its largest unit that leaves a whole number: `1536 MiB`, `2 GiB`.
pub(crate) fn show_size(bytes: u64) -> String {
    let (unit, factor) = SIZES
        .iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor && bytes % factor == 0)
        .copied()
        .unwrap_or(("B", 1));
    format!("{} {unit}", bytes / factor)
}

/// A duration as the manifest writes it: `90s` is `1m 30s`.
pub(crate) fn show_duration(time: Duration) -> String {
    let mut millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut parts = Vec::new();
    for (unit, factor) in TIMES.iter().rev() {
        if millis >= *factor {
            parts.push(format!("{}{unit}", millis / factor));
            millis %= factor;
        }
    }
    if parts.is_empty() {
        "0s".to_owned()
    } else {
        parts.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("128 MiB"), Ok(128 << 20));
        assert_eq!(parse_size("1.5GiB"), Ok(1536 << 20));
        assert_eq!(parse_size("0 B"), Ok(0));
        for bad in [
            "",
            "MiB",
            "12",
            "12 MB",
            "1.3 B",
            "1..2 MiB",
            "99999999999 TiB",
            "-1 MiB",
            "1. MiB",
            ". B",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(
            parse_size("12 MB").unwrap_err().suggestion.unwrap(),
            "did you mean \"12 MiB\"?"
        );
        assert_eq!(show_size(1536 << 20), "1536 MiB");
        assert_eq!(show_size(0), "0 B");
        assert_eq!(
            [0, 9_999, 10_000, 123_456_789].map(show_count),
            ["0", "9999", "10_000", "123_456_789"]
        );
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250 ms"), Ok(Duration::from_millis(250)));
        for bad in [
            "",
            "30",
            "s",
            "1.5h",
            "30s 1m",
            "1s 1s",
            "9999999999999999999d",
            "-3s",
            "3 fortnights",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(
            parse_duration("15min").unwrap_err().suggestion.unwrap(),
            "did you mean \"15m\"?"
        );
        assert_eq!(show_duration(Duration::from_secs(90)), "1m 30s");
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }
}
