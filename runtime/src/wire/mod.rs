//! What a tenant and an executor say to each other: records, completions, rings in shared memory, and the messages
//! that open a session. `docs/WIRE.md` is the specification; `remote` and a node's executor are the two ends.
//!
//! Wire types are separate from the ops they carry: decoding gives plain, unchecked values, and only `op::check`
//! turns them into something that runs.

mod completion;
mod hello;
mod op;
mod record;
mod ring;
mod shm;

pub use completion::{Completion, Outcome};
pub use hello::{
    Ends, Mapped, Open, Opened, TenantEnd, VERSION, from_bytes, message, pair, receive, send,
};
pub use op::{MAX_OPERANDS, SPEC_BYTES, Wire};
pub use record::{BlockRef, HEADER_BYTES, Record, Step};
pub use ring::{Bad, Consumer, Producer, awake};
pub use shm::{Memfd, Shared, inherited};

/// Records are multiples of this many bytes.
pub const RECORD_ALIGN: u64 = 64;
/// The longest record.
pub const RECORD_MAX: u64 = 4096;
/// Bytes of a ring's control page, before its data.
pub const PAGE: u64 = 4096;
/// Data bytes of the submit ring.
pub const SUBMIT_BYTES: u64 = 1 << 20;
/// Data bytes of the completion ring.
pub const COMPLETE_BYTES: u64 = 1 << 18;
/// Bytes of staging.
pub const STAGING_BYTES: u64 = 32 << 20;
/// Most bytes of one staged copy, so that copies of several sessions take turns.
pub const COPY_MAX: u64 = 4 << 20;
/// Most bytes of a program's steps.
pub const STEPS_BYTES_MAX: u64 = 1 << 20;
/// Room in staging for what a plan says of itself.
pub const PLAN_TEXT_BYTES: u64 = 256;
/// Most lengths that one op carries.
pub const LENS_MAX: u64 = 1 << 18;
