//! The issuers' public keys that a node trusts, from a file that its operator writes. To rotate a key, list the
//! new one beside the old and give the old an `until`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::name::Name;
use crate::keys::{KeyId, PublicKey};
use crate::time::Timestamp;

/// A key set file has at most this many bytes: some hundred keys.
const KEY_SET_BYTES_MAX: u64 = 64 << 10;

/// Public keys of issuers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySet {
    /// The keys; one issuer may have several.
    pub keys: Vec<IssuerKey>,
}

/// A key, whose it is and when leases signed by it are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerKey {
    /// Whose key it is.
    pub issuer: Name,
    /// The key.
    pub key: PublicKey,
    /// Accepted from this on; always when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Not accepted from this on; never ends when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Why a file is no key set.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// More than a key set has.
    #[error("{}: has over {KEY_SET_BYTES_MAX} bytes, which is the most of a key set", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Not the JSON of a key set.
    #[error("{}: {source}; wanted {{\"keys\": [{{\"issuer\": …, \"key\": \"k4.public.…\"}}, …]}}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong where.
        source: serde_json::Error,
    },
}

impl KeySet {
    /// A set of one key that is always accepted.
    pub fn of(issuer: Name, key: PublicKey) -> Self {
        Self { keys: vec![IssuerKey { issuer, key, from: None, until: None }] }
    }

    /// Reads a key set file.
    pub fn read(path: &Path) -> Result<Self, KeySetError> {
        let io = |source| KeySetError::Io { path: path.into(), source };
        let mut text = Vec::new();
        // One byte more, by which a longer file is seen to be longer.
        let mut file = File::open(path).map_err(io)?.take(KEY_SET_BYTES_MAX + 1);
        if file.read_to_end(&mut text).map_err(io)? as u64 > KEY_SET_BYTES_MAX {
            return Err(KeySetError::TooLong { path: path.into() });
        }
        serde_json::from_slice(&text)
            .map_err(|source| KeySetError::Json { path: path.into(), source })
    }

    /// The key with this id.
    pub(super) fn find(&self, id: &KeyId) -> Option<&IssuerKey> {
        self.keys.iter().find(|k| k.key.id() == *id)
    }
}
