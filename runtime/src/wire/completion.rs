//! Completions: what an executor writes into the completion ring, 64 bytes each. An error keeps its kind, rule and
//! numbers, and as much of its text as fits: texts of one tenant never hold values of another.

use crate::error::{Error, Kind, Result, Rule};

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done. Of a `reserve`: block, generation and bytes. Of a `plan`: predicted nanoseconds in two halves, the low
    /// one first, and bytes of text.
    Done([u64; 3]),
    /// Not done, or done with a fault.
    Failed(Error),
}

/// A completion: the record's ticket and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The record's ticket.
    pub ticket: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// Bytes of text that an error keeps.
const TEXT: usize = 20;
/// Rule number of an error without one.
const NO_RULE: u16 = u16::MAX;

impl Completion {
    /// Bytes of a completion.
    pub const BYTES: usize = 64;

    /// The completion as bytes: ticket, code u16, rule u16, three u64, text length u32, text, eight zero bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let (code, rule, values, text) = match &self.outcome {
            Outcome::Done(values) => (0, NO_RULE, *values, String::new()),
            Outcome::Failed(error) => {
                let (code, values, text) = encode_kind(error.kind());
                (code, error.rule().map_or(NO_RULE, |rule| rule as u16), values, text)
            }
        };
        let mut cut = text.len().min(TEXT);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.ticket.to_le_bytes());
        out[8..10].copy_from_slice(&code.to_le_bytes());
        out[10..12].copy_from_slice(&rule.to_le_bytes());
        out[12..16].copy_from_slice(&(cut as u32).to_le_bytes());
        for (slot, value) in out[16..40].chunks_exact_mut(8).zip(values) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        out[40..40 + cut].copy_from_slice(&text.as_bytes()[..cut]);
        out
    }

    /// The completion that these bytes are.
    ///
    /// # Errors
    /// `Protocol` for an unknown code: the node speaks a newer version than it agreed to.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self> {
        let number =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let (ticket, code, rule) = (number(0), half(8), half(10));
        let values = [number(16), number(24), number(32)];
        let cut = usize::from(bytes[12]).min(TEXT);
        let text = String::from_utf8_lossy(&bytes[40..40 + cut]).into_owned();
        let outcome = match (code, Rule::from_wire(rule)) {
            (0, _) => Outcome::Done(values),
            (_, Some(rule)) => Outcome::Failed(Error::rejected(rule, None, text, rule.text())),
            (_, None) => Outcome::Failed(decode_kind(code, values, text)?.into()),
        };
        Ok(Self { ticket, outcome })
    }
}

fn encode_kind(kind: &Kind) -> (u16, [u64; 3], String) {
    let low = |n: &u128| u64::try_from(*n).unwrap_or(u64::MAX);
    match kind {
        Kind::Shape { asked, .. } => (1, [0; 3], asked.clone()),
        Kind::DType { asked, .. } => (2, [0; 3], asked.clone()),
        Kind::Layout { asked, .. } => (3, [0; 3], asked.clone()),
        Kind::Bounds { asked, .. } => (4, [0; 3], asked.clone()),
        Kind::Alias { asked, .. } => (5, [0; 3], asked.clone()),
        Kind::Value { asked, .. } => (6, [0; 3], asked.clone()),
        Kind::Unsupported { asked, .. } => (7, [0; 3], asked.clone()),
        Kind::Time { asked, allowed } => (8, [low(asked), low(allowed), 0], String::new()),
        Kind::OutOfMemory { asked, free, quota } => (9, [*asked, *free, *quota], String::new()),
        Kind::Index { value, bound } => (10, [(*value).into(), (*bound).into(), 0], String::new()),
        Kind::Revoked => (11, [0; 3], String::new()),
        Kind::Expired => (12, [0; 3], String::new()),
        Kind::Protocol { what, asked, allowed } => (14, [*asked, *allowed, 0], (*what).into()),
        // What remains is the device's own: the tenant learns that it failed, not how.
        _ => (13, [0; 3], "executor".into()),
    }
}

fn decode_kind(code: u16, [a, b, c]: [u64; 3], asked: String) -> Result<Kind> {
    let allowed = String::from("what the node allows");
    let word = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(match code {
        1 => Kind::Shape { asked, allowed },
        2 => Kind::DType { asked, allowed },
        3 => Kind::Layout { asked, allowed },
        4 => Kind::Bounds { asked, allowed },
        5 => Kind::Alias { asked, allowed },
        6 => Kind::Value { asked, allowed },
        7 => Kind::Unsupported { asked, allowed },
        8 => Kind::Time { asked: a.into(), allowed: b.into() },
        9 => Kind::OutOfMemory { asked: a, free: b, quota: c },
        10 => Kind::Index { value: word(a), bound: word(b) },
        11 => Kind::Revoked,
        12 => Kind::Expired,
        13 => Kind::DeviceLost { why: asked },
        14 => Kind::Protocol { what: "record", asked: a, allowed: b },
        other => {
            return Err(Kind::Protocol { what: "code", asked: other.into(), allowed: 14 }.into());
        }
    })
}
