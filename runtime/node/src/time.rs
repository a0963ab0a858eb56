//! A moment on the wall clock as the node writes it: UTC, RFC 3339 text, nanoseconds inside. Leases, ledger
//! records and messages hold these. Deadlines are not wall time: they are on the boot-time clock.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Nanoseconds since 1970-01-01T00:00:00Z; reaches the year 2554.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(u64);

/// Text that is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no time from 1970 to 2554 such as 2026-01-31T12:00:00Z")]
pub struct BadTime {
    /// The text.
    pub text: String,
}

impl Timestamp {
    /// From nanoseconds since 1970.
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// From whole seconds since 1970; saturates in 2554.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(SECOND_NS))
    }

    /// The wall clock of this machine; a clock before 1970 reads as 1970. Pure code is handed one instead.
    pub fn now() -> Self {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(Self(0), |d| Self(saturating_ns(d)))
    }

    /// Nanoseconds since 1970.
    pub const fn ns(self) -> u64 {
        self.0
    }

    /// This moment `d` later; saturates in 2554.
    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(saturating_ns(d)))
    }

    /// Nanoseconds from `earlier` to here, 0 when `earlier` is later.
    pub const fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment cut to the whole second, as leases are issued.
    pub const fn whole_second(self) -> Self {
        Self(self.0 - self.0 % SECOND_NS)
    }
}

/// Nanoseconds of the boot-time clock, which counts through suspend and which nobody can set.
pub fn boot_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (t.tv_sec as u64).saturating_mul(SECOND_NS).saturating_add(t.tv_nsec as u64)
}

/// A duration in nanoseconds, at most `u64::MAX` (584 years).
pub fn saturating_ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339(UNIX_EPOCH + Duration::from_nanos(self.0)).fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = BadTime;

    fn from_str(text: &str) -> Result<Self, BadTime> {
        let bad = || BadTime { text: text.chars().take(40).collect() };
        let time = humantime::parse_rfc3339(text).map_err(|_| bad())?;
        let since = time.duration_since(UNIX_EPOCH).map_err(|_| bad())?;
        u64::try_from(since.as_nanos()).map(Self).map_err(|_| bad())
    }
}

impl TryFrom<String> for Timestamp {
    type Error = BadTime;

    fn try_from(text: String) -> Result<Self, BadTime> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(t: Timestamp) -> Self {
        t.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_prints_rfc3339() {
        let t: Timestamp = "2026-11-24T01:43:17Z".parse().unwrap();
        assert_eq!(t.to_string(), "2026-11-24T01:43:17Z");
        assert_eq!(t.after(Duration::from_millis(5)).to_string(), "2026-11-24T01:43:17.005000000Z");
    }

    #[test]
    fn what_is_no_time_is_named() {
        for text in
            ["", "tomorrow", "1969-12-31T23:59:59Z", "2555-01-01T00:00:00Z", "2026-13-01T00:00:00Z"]
        {
            assert_eq!(text.parse::<Timestamp>(), Err(BadTime { text: text.into() }));
        }
    }

    proptest! {
        #[test]
        fn text_is_lossless(ns: u64) {
            let t = Timestamp::from_ns(ns);
            prop_assert_eq!(t.to_string().parse::<Timestamp>(), Ok(t));
        }
    }
}
