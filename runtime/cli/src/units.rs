//! Values of arguments with their units, and the same values for people to read. Each parser's error says what
//! it wants; clap adds the argument and the value.

use std::str::FromStr;
use std::time::Duration;

use leasehold_node::lease::{Latency, Name};
use leasehold_node::time::Timestamp;
use uuid::Uuid;

const SUFFIXES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// `4GiB`, `512MiB`, `64KiB`, `100B` or plain bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (digits, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))
        .unwrap_or((text, 1));
    let count = digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
    count
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| "wanted bytes, such as 512MiB or 4GiB, below 2^64".into())
}

/// Bytes in the largest unit that leaves no rest.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let unit = SUFFIXES.iter().find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor));
    let (suffix, factor) = unit.unwrap_or(&("B", 1));
    format!("{} {suffix}", bytes / factor)
}

/// `90m`, `1h 30m`, `500us`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "wanted a duration, such as 90m, 24h or 500us".into())
}

/// Whole seconds of a [`duration`].
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    match duration(text)? {
        d if d.subsec_nanos() == 0 => Ok(d.as_secs()),
        _ => Err("wanted whole seconds, such as 90m or 24h".into()),
    }
}

/// Nanoseconds for people.
pub(crate) fn show_ns(ns: u64) -> String {
    humantime::format_duration(Duration::from_nanos(ns)).to_string()
}

/// `1.5` CPUs as 1500 thousandths.
pub(crate) fn cpus(text: &str) -> Result<u32, String> {
    let bad = || "wanted CPUs with at most three decimals, such as 2 or 0.5".to_string();
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return Err(bad());
    }
    let thousandths = format!("{part:0<3}").parse::<u32>().map_err(|_| bad())?;
    let whole = whole.parse::<u32>().ok().and_then(|n| n.checked_mul(1000));
    whole.and_then(|n| n.checked_add(thousandths)).ok_or_else(bad)
}

/// `500us/10ms`: a budget in each period.
pub(crate) fn latency(text: &str) -> Result<Latency, String> {
    let bad = || "wanted BUDGET/PERIOD in whole microseconds, such as 500us/10ms".to_string();
    let micros = |t: &str| {
        let d = humantime::parse_duration(t).ok()?;
        (d.subsec_nanos() % 1000 == 0).then(|| u64::try_from(d.as_micros()).ok())?
    };
    let (budget, period) = text.split_once('/').ok_or_else(bad)?;
    let (budget_us, period_us) = (micros(budget).ok_or_else(bad)?, micros(period).ok_or_else(bad)?);
    Ok(Latency { period_us, budget_us })
}

/// A device by a name that `leasehold devices` prints.
pub(crate) fn device(text: &str) -> Result<String, String> {
    let number = |n: &str| n.parse::<u16>().is_ok_and(|parsed| parsed.to_string() == n);
    if text == "cpu" || text.strip_prefix("wgpu:").is_some_and(number) {
        return Ok(text.into());
    }
    Err("wanted cpu or wgpu:N, as `leasehold devices` prints them".into())
}

/// `team=search`.
pub(crate) fn label(text: &str) -> Result<(Name, String), String> {
    let (key, value) = text.split_once('=').ok_or("wanted NAME=TEXT")?;
    Ok((key.parse().map_err(|e| format!("{e}"))?, value.into()))
}

/// A lease's or a job's id.
pub(crate) fn id(text: &str) -> Result<Uuid, String> {
    // Only the hyphenated form: the one that is printed.
    let parsed = Uuid::try_parse(text).ok().filter(|id| id.to_string() == text);
    parsed.ok_or_else(|| "wanted an id, such as 0199d3c8-6a00-7000-8000-000000000001".into())
}

/// When a lease ends: some time after its start, or at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    After(Duration),
    At(Timestamp),
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse() {
            return Ok(Self::At(time));
        }
        let after = duration(text).map(Self::After);
        after.map_err(|_| {
            "wanted a duration, such as 24h, or a time, such as 2026-01-31T12:00:00Z".into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_values_are_read() {
        assert_eq!(bytes("4GiB"), Ok(4 << 30));
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(seconds("1h 30m"), Ok(5400));
        assert_eq!(cpus("1.5"), Ok(1500));
        assert_eq!(cpus("0.025"), Ok(25));
        assert_eq!(latency("500us/10ms"), Ok(Latency { period_us: 10_000, budget_us: 500 }));
        assert_eq!(label("team=a=b"), Ok(("team".parse().unwrap(), "a=b".into())));
    }

    #[test]
    fn bad_values_are_refused() {
        for text in ["", "GiB", "-1", "+1", "1.5GiB", "4GB", "99999999TiB", " 1"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        for text in ["", ".", "1.", ".5", "1.0005", "-1", "1e3", "9999999999"] {
            assert!(cpus(text).is_err(), "{text}");
        }
        for text in ["", "10", "1.5s", "500ms"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        for text in ["500us", "500us/", "/10ms", "1ns/1ms", "a/b"] {
            assert!(latency(text).is_err(), "{text}");
        }
        for text in ["", "gpu", "wgpu", "wgpu:", "wgpu:x", "wgpu:+1", "wgpu:01", "CPU", "cuda:0"] {
            assert!(device(text).is_err(), "{text}");
        }
        assert!(device("cpu").is_ok() && device("wgpu:10").is_ok());
        assert!(id("0199d3c86a0070008000000000000001").is_err());
        assert!(label("Team=x").is_err() && label("team").is_err());
    }

    #[test]
    fn bytes_are_shown_without_loss() {
        for (n, text) in
            [(0, "0 B"), (1 << 30, "1 GiB"), (1 << 20 | 1 << 10, "1025 KiB"), (1001, "1001 B")]
        {
            assert_eq!(show_bytes(n), text);
        }
    }
}
