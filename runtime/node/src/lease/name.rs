//! Names and ids: of nodes, pools, tenants, issuers and ops; of leases and jobs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no name: wanted 1 to 64 of a-z, 0-9, `-`, `_`, `.`, the first a letter or digit"
)]
pub struct BadName {
    /// The text, cut, without control characters.
    pub text: String,
}

/// A name that is safe in a log, a path and a metric: 1 to 64 of `a-z 0-9 - _ .`, not starting with a sign.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good =
            text.bytes().enumerate().all(|(i, c)| letter(c) || (i > 0 && b"-_.".contains(&c)));
        if good && (1..=64).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err(BadName {
                text: text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect(),
            })
        }
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A lease's id: a UUID, version 7 when made here, so that ids sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub Uuid);

/// A job's id, chosen by its holder and used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub Uuid);

impl LeaseId {
    /// A new id from the clock and the system's random source.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl JobId {
    /// A new id from the clock and the system's random source.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
