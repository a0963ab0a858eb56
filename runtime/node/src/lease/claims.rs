//! What a lease grants, as data, and which values are sound. Issuing and verifying check the same rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::name::{LeaseId, Name};
use crate::keys::PublicKey;
use crate::time::Timestamp;

/// The version of the claims that this code reads and writes.
pub(super) const VERSION: u32 = 1;

/// A lease: a signed grant. Its JSON is the payload of a PASETO v4.public token; registered claims have PASETO's
/// names. An unknown claim is refused: what need not be understood goes into `labels`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The version of the claims, 1.
    #[serde(rename = "v")]
    pub version: u32,
    /// The lease's id.
    #[serde(rename = "jti")]
    pub id: LeaseId,
    /// Who grants it; the node's key set says which keys this issuer has.
    #[serde(rename = "iss")]
    pub issuer: Name,
    /// Who uses it and is billed.
    #[serde(rename = "sub")]
    pub tenant: Name,
    /// The nodes or pools that it is good for, 1 to 16.
    #[serde(rename = "aud")]
    pub audience: Vec<Name>,
    /// The holder's key: whoever uses the lease proves to have its other half.
    #[serde(rename = "cnf")]
    pub holder: PublicKey,
    /// Not good before this.
    #[serde(rename = "nbf")]
    pub not_before: Timestamp,
    /// Not good from this on; jobs that still run are ended.
    #[serde(rename = "exp")]
    pub expiry: Timestamp,
    /// Whether others share the executor.
    pub isolation: Isolation,
    /// Whether the share is the lease's own or lent.
    pub priority: Priority,
    /// The share among leases of the same priority, 1 to 1000.
    pub weight: u32,
    /// An optional budget ahead of everyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Device memory in bytes, all sessions together.
    pub memory_bytes: u64,
    /// Staging memory in bytes, all sessions together; it is shared with the node, which may pin it.
    pub staging_bytes: u64,
    /// Sessions at a time, all jobs together, 1 to 256.
    pub sessions: u32,
    /// Queues of a session, 1 to 256.
    pub queues: u32,
    /// Ops submitted and not done, of a session, 1 to 65536.
    pub in_flight: u32,
    /// Jobs at a time, 1 to 1024.
    pub concurrency: u32,
    /// The ops that it may run.
    pub ops: Ops,
    /// What each job may take of the host.
    pub job: JobLimits,
    /// The price that the bill names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku: Option<Name>,
    /// Where `leasehold run` finds the node: the absolute path of its jobs socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Nobody pays: bills say `trial`.
    pub trial: bool,
    /// Anything else, for people and other programs: at most 16, values of at most 256 bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "unique")]
    pub labels: BTreeMap<Name, String>,
}

/// Who shares the executor, the process that owns the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// One executor for many tenants; bounds are kept in software.
    SharedContext,
    /// An executor of its own. No node grants it yet.
    OwnContext,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SharedContext => "shared-context",
            Self::OwnContext => "own-context",
        })
    }
}

/// Whose capacity it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// The lease's own.
    Reserved,
    /// The owner's, lent out and taken back.
    Spare,
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserved => "reserved",
            Self::Spare => "spare",
        })
    }
}

/// Device time that may run ahead of everyone: `budget_us` in each `period_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// The period in microseconds, 1 000 to 3 600 000 000.
    pub period_us: u64,
    /// Device time in microseconds, 250 to half of the period.
    pub budget_us: u64,
}

/// What a job may take of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobLimits {
    /// Processor time in thousandths of a CPU, 10 to 1 024 000.
    pub cpu_milli: u32,
    /// Host memory in bytes, 1 MiB to 2⁴⁸.
    pub memory_bytes: u64,
    /// Seconds from admission to the end, 1 to 31 days.
    pub wall_s: u64,
}

/// The ops that a lease allows; in JSON a list of names, or `["*"]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub enum Ops {
    /// Whatever the node runs.
    All,
    /// These alone.
    Only(BTreeSet<Name>),
}

impl Ops {
    /// True when an op of this name may run.
    pub fn allows(&self, op: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|n| n.as_str() == op),
        }
    }
}

impl TryFrom<Vec<String>> for Ops {
    type Error = String;

    fn try_from(list: Vec<String>) -> Result<Self, String> {
        if list == ["*"] {
            return Ok(Self::All);
        }
        if list.is_empty() || list.len() > 64 {
            return Err(format!(
                "{} ops are listed; a lease lists 1 to 64, or [\"*\"]",
                list.len()
            ));
        }
        let mut names = BTreeSet::new();
        for text in list {
            let name: Name = text.parse().map_err(|e: super::BadName| e.to_string())?;
            if !names.insert(name) {
                return Err(format!("op `{text}` is listed twice"));
            }
        }
        Ok(Self::Only(names))
    }
}

impl From<Ops> for Vec<String> {
    fn from(ops: Ops) -> Self {
        match ops {
            Ops::All => vec!["*".into()],
            Ops::Only(names) => names.into_iter().map(String::from).collect(),
        }
    }
}

/// A claim that is no grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// A number outside its range.
    #[error("`{claim}` is {asked}, allowed is {least} to {most}")]
    Range {
        /// The claim's name.
        claim: &'static str,
        /// Its value.
        asked: u64,
        /// The least that is allowed.
        least: u64,
        /// The most that is allowed.
        most: u64,
    },
    /// Text that is not what the claim holds.
    #[error("`{claim}` is `{asked}`, wanted is {wanted}")]
    Text {
        /// The claim's name.
        claim: &'static str,
        /// Its value, cut.
        asked: String,
        /// What is allowed.
        wanted: &'static str,
    },
    /// An expiry that is not after the start.
    #[error("the lease ends at {expiry}, not after its start at {not_before}")]
    Empty {
        /// The start.
        not_before: Timestamp,
        /// The end.
        expiry: Timestamp,
    },
    /// A claim that is sound, but that no node grants yet.
    #[error("`{claim}` is {asked}, supported is {supported}")]
    Unsupported {
        /// The claim's name.
        claim: &'static str,
        /// Its value.
        asked: String,
        /// What nodes grant.
        supported: String,
    },
}

impl Lease {
    /// Every rule on a lease's values that can be checked without a clock or a key.
    pub fn check(&self) -> Result<(), ClaimError> {
        let Self { not_before, expiry, job, .. } = *self;
        if expiry <= not_before {
            return Err(ClaimError::Empty { not_before, expiry });
        }
        let bytes = 1..=1 << 48;
        range("v", self.version.into(), u64::from(VERSION)..=VERSION.into())?;
        range("aud", self.audience.len() as u64, 1..=16)?;
        range("weight", self.weight.into(), 1..=1000)?;
        range("memory_bytes", self.memory_bytes, bytes.clone())?;
        range("staging_bytes", self.staging_bytes, bytes.clone())?;
        range("sessions", self.sessions.into(), 1..=256)?;
        range("queues", self.queues.into(), 1..=256)?;
        range("in_flight", self.in_flight.into(), 1..=65_536)?;
        range("concurrency", self.concurrency.into(), 1..=1024)?;
        range("job.cpu_milli", job.cpu_milli.into(), 10..=1_024_000)?;
        range("job.memory_bytes", job.memory_bytes, 1 << 20..=1 << 48)?;
        range("job.wall_s", job.wall_s, 1..=31 * 86_400)?;
        range("labels", self.labels.len() as u64, 0..=16)?;
        for value in self.labels.values() {
            range("labels: bytes of a value", value.len() as u64, 0..=256)?;
        }
        if let Some(Latency { period_us, budget_us }) = self.latency {
            range("latency.period_us", period_us, 1000..=3_600_000_000)?;
            range("latency.budget_us", budget_us, 250..=period_us / 2)?;
        }
        if let Some(name) = first_repeated(&self.audience) {
            return Err(text("aud", name.as_str(), "each name once"));
        }
        if let Some(path) = &self.node
            && (!path.starts_with('/') || path.len() > 107 || path.chars().any(char::is_control))
        {
            // 108 bytes with the final zero: sun_path of unix(7).
            return Err(text("node", path, "an absolute path of at most 107 bytes"));
        }
        if self.isolation != Isolation::SharedContext {
            let (asked, supported) =
                (self.isolation.to_string(), Isolation::SharedContext.to_string());
            return Err(ClaimError::Unsupported { claim: "isolation", asked, supported });
        }
        Ok(())
    }
}

fn range(
    claim: &'static str,
    asked: u64,
    allowed: std::ops::RangeInclusive<u64>,
) -> Result<(), ClaimError> {
    if allowed.contains(&asked) {
        return Ok(());
    }
    Err(ClaimError::Range { claim, asked, least: *allowed.start(), most: *allowed.end() })
}

fn text(claim: &'static str, asked: &str, wanted: &'static str) -> ClaimError {
    let asked = asked.chars().take(120).map(|c| if c.is_control() { '?' } else { c }).collect();
    ClaimError::Text { claim, asked, wanted }
}

fn first_repeated(names: &[Name]) -> Option<&Name> {
    names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)).map(|(_, name)| name)
}

/// A map in which no key comes twice: two readers of a token must not see two leases.
fn unique<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Name, String>, D::Error> {
    struct Unique;
    impl<'de> Visitor<'de> for Unique {
        type Value = BTreeMap<Name, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of names and text")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = entries.next_entry::<Name, String>()? {
                if map.contains_key(&key) {
                    return Err(A::Error::custom(format_args!("label `{key}` is given twice")));
                }
                map.insert(key, value);
            }
            Ok(map)
        }
    }
    from.deserialize_map(Unique)
}
