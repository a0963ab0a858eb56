//! A lease as text: PASETO v4.public with the key's id in the footer. `verify` checks hostile text completely,
//! and only it makes a [`VerifiedLease`].

use std::ops::Deref;
use std::time::Duration;

use pasetors::token::{Public, UntrustedToken};
use pasetors::version4::{PublicToken, V4};
use serde::{Deserialize, Serialize};

use super::claims::{ClaimError, Lease, VERSION};
use super::keyset::{IssuerKey, KeySet};
use super::name::Name;
use crate::keys::{KeyId, SecretKey};
use crate::time::Timestamp;

/// A lease's text has at most this many bytes. Parsing is linear, and claims of a known shape nest twice.
pub const TOKEN_BYTES_MAX: usize = 8192;

/// How far an issuer's clock may be ahead of the node's: a lease is good this long before its start.
pub const CLOCK_SKEW: Duration = Duration::from_secs(30);

/// The implicit assertion: nothing else that an issuer signs verifies as a lease.
const CONTEXT: &[u8] = b"leasehold lease v1";

/// Why a text is no lease that this node honours now.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// More bytes than a lease.
    #[error("the lease has {bytes} bytes, at most {TOKEN_BYTES_MAX} are allowed")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// Another kind of token, or no token.
    #[error("the lease begins with `{found}`, a lease begins with `v4.public.`")]
    Header {
        /// The first characters.
        found: String,
    },
    /// Not base64url parts in PASETO's form.
    #[error("the lease is no PASETO text: wanted `v4.public.`, payload, `.`, footer, in base64url")]
    Form,
    /// A footer that names no key.
    #[error("the lease's footer is not {{\"kid\": \"k4.pid.…\"}}: {0}")]
    Footer(serde_json::Error),
    /// The node trusts nobody.
    #[error("the key set is empty: no lease can be verified")]
    NoKeys,
    /// Signed by a key that the node does not have.
    #[error("the lease names key {asked}, which is none of the {known} known")]
    UnknownKey {
        /// The key that the footer names.
        asked: KeyId,
        /// How many keys the node has.
        known: usize,
    },
    /// Signed by a key that is not in use at this time.
    #[error("the lease's key {key} is not accepted at {now}, only {}", period(*from, *until))]
    KeyPeriod {
        /// The key.
        key: KeyId,
        /// Now.
        now: Timestamp,
        /// Accepted from.
        from: Option<Timestamp>,
        /// Accepted before.
        until: Option<Timestamp>,
    },
    /// Changed, or signed by somebody else.
    #[error("the lease's signature is not that of key {key}")]
    Signature {
        /// The key that the footer names.
        key: KeyId,
    },
    /// Claims of another version.
    #[error("the lease has claims of version {asked}, allowed is {VERSION}")]
    Version {
        /// Its version.
        asked: u64,
    },
    /// Claims that are missing, unknown, double or of a wrong type.
    #[error("the lease's claims: {0}")]
    Json(serde_json::Error),
    /// A claim's value.
    #[error("the lease's claims: {0}")]
    Claim(#[from] ClaimError),
    /// Signed by a key of another issuer.
    #[error("the lease says issuer `{asked}`, but its key is of `{allowed}`")]
    Issuer {
        /// The claim.
        asked: Name,
        /// Whose key it is.
        allowed: Name,
    },
    /// A lease of another node.
    #[error("the lease is for {}, this node is {}", list(asked), list(names))]
    Audience {
        /// The lease's nodes and pools.
        asked: Vec<Name>,
        /// This node and its pools.
        names: Vec<Name>,
    },
    /// Too early.
    #[error("the lease is not good before {not_before}, now is {now}")]
    NotYetValid {
        /// Its start.
        not_before: Timestamp,
        /// Now.
        now: Timestamp,
    },
    /// Too late.
    #[error("the lease expired at {expiry}, now is {now}")]
    Expired {
        /// Its end.
        expiry: Timestamp,
        /// Now.
        now: Timestamp,
    },
}

fn period(from: Option<Timestamp>, until: Option<Timestamp>) -> String {
    match (from, until) {
        (Some(from), Some(until)) => format!("from {from} until {until}"),
        (Some(from), None) => format!("from {from}"),
        (None, Some(until)) => format!("until {until}"),
        (None, None) => "always".into(),
    }
}

fn list(names: &[Name]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

/// A lease that was verified: its key, signature, claims, audience and time were good. Only [`verify`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedLease {
    lease: Lease,
    key: KeyId,
}

impl VerifiedLease {
    /// The key that signed it.
    pub fn key(&self) -> &KeyId {
        &self.key
    }
}

impl Deref for VerifiedLease {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    kid: KeyId,
}

/// Signs a lease. What a node would refuse for its values is refused here.
pub fn issue(lease: &Lease, issuer: &SecretKey) -> Result<String, LeaseError> {
    lease.check()?;
    let claims = serde_json::to_vec(lease).map_err(LeaseError::Json)?;
    let footer =
        serde_json::to_vec(&Footer { kid: issuer.public().id() }).map_err(LeaseError::Footer)?;
    let text = PublicToken::sign(&issuer.paseto(), &claims, Some(&footer), Some(CONTEXT))
        .map_err(|_| LeaseError::Form)?;
    if text.len() > TOKEN_BYTES_MAX {
        return Err(LeaseError::TooLong { bytes: text.len() });
    }
    Ok(text)
}

/// Verifies a lease's text at the time `now` for a node that goes by `names`: its own and those of its pools.
pub fn verify(
    text: &str,
    keys: &KeySet,
    now: Timestamp,
    names: &[Name],
) -> Result<VerifiedLease, LeaseError> {
    let (token, key) = signed(text)?;
    let IssuerKey { issuer, key: public, from, until } = trusted(keys, &key)?;
    PublicToken::verify(&public.paseto(), &token, None, Some(CONTEXT))
        .map_err(|_| LeaseError::Signature { key: key.clone() })?;
    if from.is_some_and(|from| now < from) || until.is_some_and(|until| now >= until) {
        return Err(LeaseError::KeyPeriod { key, now, from: *from, until: *until });
    }
    let lease = claims(token.untrusted_payload())?;
    if lease.issuer != *issuer {
        return Err(LeaseError::Issuer { asked: lease.issuer, allowed: issuer.clone() });
    }
    if !lease.audience.iter().any(|name| names.contains(name)) {
        return Err(LeaseError::Audience { asked: lease.audience, names: names.to_vec() });
    }
    if now.after(CLOCK_SKEW) < lease.not_before {
        return Err(LeaseError::NotYetValid { not_before: lease.not_before, now });
    }
    if now >= lease.expiry {
        return Err(LeaseError::Expired { expiry: lease.expiry, now });
    }
    Ok(VerifiedLease { lease, key })
}

impl Lease {
    /// Reads a lease's claims **without** verifying anything, for people to look at.
    pub fn unverified(text: &str) -> Result<(Self, KeyId), LeaseError> {
        let (token, key) = signed(text)?;
        Ok((claims(token.untrusted_payload())?, key))
    }
}

fn signed(text: &str) -> Result<(UntrustedToken<Public, V4>, KeyId), LeaseError> {
    if text.len() > TOKEN_BYTES_MAX {
        return Err(LeaseError::TooLong { bytes: text.len() });
    }
    if !text.starts_with(PublicToken::HEADER) {
        let found = text.chars().take(10).map(|c| if c.is_control() { '?' } else { c }).collect();
        return Err(LeaseError::Header { found });
    }
    let token = UntrustedToken::<Public, V4>::try_from(text).map_err(|_| LeaseError::Form)?;
    let Footer { kid } =
        serde_json::from_slice(token.untrusted_footer()).map_err(LeaseError::Footer)?;
    Ok((token, kid))
}

fn trusted<'k>(keys: &'k KeySet, id: &KeyId) -> Result<&'k IssuerKey, LeaseError> {
    if keys.keys.is_empty() {
        return Err(LeaseError::NoKeys);
    }
    keys.find(id)
        .ok_or_else(|| LeaseError::UnknownKey { asked: id.clone(), known: keys.keys.len() })
}

fn claims(json: &[u8]) -> Result<Lease, LeaseError> {
    // The version first: another version's claims would be reported as unknown ones.
    #[derive(Deserialize)]
    struct Version {
        v: u64,
    }
    let Version { v: asked } = serde_json::from_slice(json).map_err(LeaseError::Json)?;
    if asked != u64::from(VERSION) {
        return Err(LeaseError::Version { asked });
    }
    let lease: Lease = serde_json::from_slice(json).map_err(LeaseError::Json)?;
    lease.check()?;
    Ok(lease)
}
