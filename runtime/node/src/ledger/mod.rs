//! The record of use: append-only, each record chained to the one before by BLAKE3. Control appends; the CLI
//! reads, verifies and bills.
//!
//! The file has one line a record: 64 hexadecimal digits, a space, the record as JSON. The digits are the hash
//! of exactly the JSON bytes, which hold the sequence number and the hash of the line before. JSON lines rather
//! than a binary form: an operator can read a disputed record with any tool, a torn last line is recognised
//! without a header, and at a few hundred bytes a job the fsync costs far more than the text.
//!
//! What a chain shows: a changed, dropped, inserted or reordered record. What it cannot show alone: a cut tail, or
//! a history rewritten by whoever holds the node's key. Checkpoints kept elsewhere show those.
//!
//! `record` and `chain`, `bill`, `receipt` are pure; `file` alone does I/O.

mod bill;
mod chain;
mod file;
mod receipt;
mod record;

pub use bill::{Bill, Of};
pub use chain::{Broken, Chain, Checkpoint, LINE_BYTES_MAX, Line, Verifier};
pub use file::{Group, Ledger, LedgerError, Opened, read};
pub use receipt::Receipt;
pub use record::{Entry, Hash, Outcome, Record, Usage};

#[cfg(test)]
mod tests;
