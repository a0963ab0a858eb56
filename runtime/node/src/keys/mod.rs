//! Ed25519 keys and what is signed with them: leases (issuers), proofs of possession (holders), checkpoints
//! and receipts (nodes). Text form is PASERK. `lease`, `ledger` and the CLI use this room; files are in `file`.

use std::fmt;
use std::str::FromStr;

use ct_codecs::{Base64UrlSafeNoPadding, Decoder as _};
use ed25519_compact as ed25519;
use pasetors::keys::{AsymmetricPublicKey, AsymmetricSecretKey};
use pasetors::paserk::{FormatAsPaserk, Id};
use pasetors::version4::V4;
use serde::{Deserialize, Serialize};

mod file;
pub use file::{KeyFileError, read_public, read_secret, write_public, write_secret};

/// Text or a file that is no key of the kind that was wanted. A secret's text is never repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `k4.secret.` and 64 bytes in base64url whose public half fits its seed.
    #[error("not a secret key: wanted `k4.secret.` and 86 base64url characters of an Ed25519 key")]
    Secret,
    /// Not `k4.public.` and 32 bytes in base64url that are a point of full order.
    #[error(
        "`{text}` is no public key: wanted `k4.public.` and 43 base64url characters of an Ed25519 key"
    )]
    Public {
        /// The text, cut.
        text: String,
    },
    /// Not `k4.pid.` and 33 bytes in base64url.
    #[error("`{text}` is no key id: wanted `k4.pid.` and 44 base64url characters")]
    Id {
        /// The text, cut.
        text: String,
    },
    /// Not 128 hexadecimal digits.
    #[error("`{text}` is no signature: wanted 128 hexadecimal digits")]
    Signature {
        /// The text, cut.
        text: String,
    },
}

/// What an error shows of `text`: enough to know it again, and never a secret given in the wrong place.
fn cut(text: &str) -> String {
    if text.contains("secret") { "k4.secret.…".into() } else { text.chars().take(80).collect() }
}

/// A private key. It has no `Debug` output and is wiped when dropped.
#[derive(Clone)]
pub struct SecretKey(ed25519::KeyPair);

impl SecretKey {
    /// A new key from the system's random source.
    pub fn generate() -> Self {
        Self(ed25519::KeyPair::generate())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.pk)
    }

    /// The text form, `k4.secret.…`.
    pub fn to_paserk(&self) -> String {
        paserk(&self.paseto())
    }

    /// Signs `parts` for one purpose. `context` names the purpose, so that no signature serves another; parts
    /// are length-prefixed, so that no two lists sign alike.
    pub fn sign(&self, context: &str, parts: &[&[u8]]) -> Signature {
        Signature(self.0.sk.sign(transcript(context, parts), None))
    }

    /// The same key as PASETO wants it.
    #[expect(
        clippy::expect_used,
        reason = "a pair is 64 bytes whose halves fit: all that PASETO asks"
    )]
    pub(crate) fn paseto(&self) -> AsymmetricSecretKey<V4> {
        AsymmetricSecretKey::from(&self.0.sk[..]).expect("a pair from a seed")
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        // Not by pasetors, which panics on a seed of zeros.
        let bytes = decode::<64>("k4.secret.", text).ok_or(KeyError::Secret)?;
        let seed = ed25519::Seed::from_slice(&bytes[..32]).map_err(|_| KeyError::Secret)?;
        // Derived again: a public half that does not fit its seed would leak the key when signing.
        let pair = ed25519::KeyPair::try_from_seed(seed).map_err(|_| KeyError::Secret)?;
        if pair.sk[..] == bytes[..] { Ok(Self(pair)) } else { Err(KeyError::Secret) }
    }
}

/// A public key, compared and printed as PASERK, `k4.public.…`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(ed25519::PublicKey);

impl PublicKey {
    /// The id, which leases name their key by.
    pub fn id(&self) -> KeyId {
        KeyId(paserk(&Id::from(&self.paseto())))
    }

    /// True when `signature` is this key's over exactly this context and these parts.
    pub fn verify(&self, context: &str, parts: &[&[u8]], signature: &Signature) -> bool {
        self.0.verify(transcript(context, parts), &signature.0).is_ok()
    }

    #[expect(clippy::expect_used, reason = "32 bytes are all that PASETO asks")]
    pub(crate) fn paseto(&self) -> AsymmetricPublicKey<V4> {
        AsymmetricPublicKey::from(&self.0[..]).expect("32 bytes")
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&paserk(&self.paseto()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bad = || KeyError::Public { text: cut(text) };
        let key = ed25519::PublicKey::new(decode("k4.public.", text).ok_or_else(bad)?);
        // Points of small order verify signatures that nobody made.
        key.validate().map_err(|_| bad())?;
        Ok(Self(key))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// A public key's PASERK id, `k4.pid.…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for KeyId {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        match decode::<33>("k4.pid.", &text) {
            Some(_) => Ok(Self(text)),
            None => Err(KeyError::Id { text: cut(&text) }),
        }
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

/// A signature by [`SecretKey::sign`]; 128 hexadecimal digits as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature(ed25519::Signature);

impl Signature {
    /// From the 64 bytes of the wire.
    pub fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(ed25519::Signature::new(bytes))
    }

    /// The 64 bytes for the wire.
    pub fn to_bytes(&self) -> [u8; 64] {
        *self.0
    }
}

impl TryFrom<String> for Signature {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        decode_hex(&text)
            .map(Self::from_bytes)
            .ok_or_else(|| KeyError::Signature { text: cut(&text) })
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        encode_hex(&signature.to_bytes())
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn encode_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `N` bytes from exactly `2 * N` lower-case hexadecimal digits.
pub fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// The `N` bytes behind a PASERK header, in their only spelling.
fn decode<const N: usize>(header: &str, text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let decoded =
        Base64UrlSafeNoPadding::decode(&mut bytes, text.strip_prefix(header)?, None).ok()?;
    (decoded.len() == N).then_some(bytes)
}

fn paserk(value: &impl FormatAsPaserk) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = value.fmt(&mut text);
    text
}

fn transcript(context: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [context.as_bytes()].iter().chain(parts) {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests;
