//! Records: what a tenant writes into the submit ring. A record is copied to private memory once and decoded from
//! there; decoding gives plain values, judged by nobody yet.

use super::op::{OP_BYTES, SPEC_BYTES, Wire, decode_spec, encode_spec};
use super::{MAX_OPERANDS, RECORD_ALIGN, RECORD_MAX};
use crate::error::{Error, Kind, Result};
use crate::op::Spec;

/// Bytes of a record's header: length u32, kind u16, version u16, ticket u64, queue u32, and four reserved.
pub const HEADER_BYTES: usize = 24;
/// The version that every record carries.
const RECORD_VERSION: u16 = 1;

/// A place in a block of the session. The generation tells a reused number from the block that had it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// The block's number.
    pub block: u32,
    /// How often the number was given out.
    pub generation: u32,
    /// Byte offset in the block.
    pub offset: u64,
}

/// One record, decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Check and plan an op, and keep it under a handle.
    Define {
        /// The handle, chosen by the tenant.
        handle: u32,
        /// The op.
        op: Wire,
        /// Operands, in the order of the op's roles.
        specs: Vec<Spec>,
        /// Where its host lengths lie in staging: byte offset and count of u32.
        lens: [u64; 2],
    },
    /// Forget a handle.
    Undefine {
        /// The handle.
        handle: u32,
    },
    /// Run a defined op.
    Run {
        /// The handle.
        handle: u32,
        /// Where its operands lie.
        bindings: Vec<BlockRef>,
    },
    /// Run every step of a recorded program, as one.
    Replay {
        /// The program.
        program: u32,
    },
    /// Keep a list of steps under a number.
    Record {
        /// The program, chosen by the tenant.
        program: u32,
        /// Where its steps lie in staging: byte offset and bytes.
        steps: [u64; 2],
    },
    /// Forget a program.
    Erase {
        /// The program.
        program: u32,
    },
    /// Ask for a block of at least this many bytes; the completion names it.
    Reserve {
        /// Bytes.
        bytes: u64,
    },
    /// Give a block back.
    Release {
        /// The block.
        at: BlockRef,
    },
    /// Copy staging bytes to a block.
    Write {
        /// To here.
        at: BlockRef,
        /// From this offset of staging.
        staging: u64,
        /// Bytes.
        len: u64,
    },
    /// Copy block bytes to staging.
    Read {
        /// From here.
        at: BlockRef,
        /// To this offset of staging.
        staging: u64,
        /// Bytes.
        len: u64,
    },
    /// Ask what plan a defined op follows: its text comes into staging, at most [`super::PLAN_TEXT_BYTES`].
    Plan {
        /// The handle.
        handle: u32,
        /// To this offset of staging.
        staging: u64,
    },
}

/// A step of a program: a defined op, and where its operands lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The op's handle.
    pub handle: u32,
    /// Its operands.
    pub bindings: Vec<BlockRef>,
}

impl Step {
    /// Steps as the bytes that lie in staging.
    pub fn encode(steps: &[Self]) -> Vec<u8> {
        let mut out = Vec::new();
        for Self { handle, bindings } in steps {
            out.extend(handle.to_le_bytes());
            out.extend((bindings.len() as u32).to_le_bytes());
            bindings.iter().for_each(|at| encode_at(at, &mut out));
        }
        out
    }

    /// The steps that these bytes, a private copy, say.
    ///
    /// # Errors
    /// `Protocol` with the field, its value and the bound.
    pub fn decode(bytes: &[u8]) -> Result<Vec<Self>> {
        let mut c = Cursor(bytes);
        let mut steps = Vec::new();
        while !c.0.is_empty() {
            let (handle, count) = (c.u32()?, c.count()?);
            let bindings = (0..count).map(|_| c.at()).collect::<Result<_>>()?;
            steps.push(Self { handle, bindings });
        }
        Ok(steps)
    }
}

fn protocol(what: &'static str, asked: impl Into<u64>, allowed: u64) -> Error {
    let asked = asked.into();
    Kind::Protocol { what, asked, allowed }.into()
}

/// Takes little-endian numbers off the front of a slice.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N]> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or_else(|| protocol("record length", 0u8, N as u64))?;
        self.0 = rest;
        Ok(head)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(*self.take()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(*self.take()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(*self.take()?))
    }

    /// A number and the zero word behind it.
    fn numbered(&mut self) -> Result<u32> {
        let (number, zero) = (self.u32()?, self.u32()?);
        if zero != 0 {
            return Err(protocol("reserved word", zero, 0));
        }
        Ok(number)
    }

    fn count(&mut self) -> Result<usize> {
        let n = self.u32()?;
        if n as usize > MAX_OPERANDS {
            return Err(protocol("operands", n, MAX_OPERANDS as u64));
        }
        Ok(n as usize)
    }

    fn at(&mut self) -> Result<BlockRef> {
        Ok(BlockRef { block: self.u32()?, generation: self.u32()?, offset: self.u64()? })
    }

    /// What is left must be padding.
    fn end(self) -> Result<()> {
        match self.0.iter().find(|&&b| b != 0) {
            Some(&b) => Err(protocol("padding", b, 0)),
            None => Ok(()),
        }
    }
}

impl Record {
    const fn kind(&self) -> u16 {
        match self {
            Self::Define { .. } => 1,
            Self::Undefine { .. } => 2,
            Self::Run { .. } => 3,
            Self::Replay { .. } => 4,
            Self::Reserve { .. } => 5,
            Self::Release { .. } => 6,
            Self::Write { .. } => 7,
            Self::Read { .. } => 8,
            Self::Record { .. } => 9,
            Self::Erase { .. } => 10,
            Self::Plan { .. } => 11,
        }
    }

    /// The record as bytes, padded to a multiple of 64.
    ///
    /// # Errors
    /// `Protocol` when it would be over the longest record.
    pub fn encode(&self, ticket: u64, queue: u32) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(256);
        out.extend([0; 4]);
        out.extend(self.kind().to_le_bytes());
        out.extend(RECORD_VERSION.to_le_bytes());
        out.extend(ticket.to_le_bytes());
        out.extend(queue.to_le_bytes());
        out.extend([0; 4]);
        let mut u32s = |list: &[u32]| list.iter().for_each(|n| out.extend(n.to_le_bytes()));
        match self {
            Self::Define { handle, op, specs, lens } => {
                u32s(&[*handle, specs.len() as u32]);
                op.encode(&mut out);
                lens.iter().for_each(|n| out.extend(n.to_le_bytes()));
                specs.iter().for_each(|spec| encode_spec(spec, &mut out));
            }
            Self::Undefine { handle: n }
            | Self::Replay { program: n }
            | Self::Erase { program: n } => u32s(&[*n, 0]),
            Self::Record { program, steps } => {
                u32s(&[*program, 0]);
                steps.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Self::Run { handle, bindings } => {
                u32s(&[*handle, bindings.len() as u32]);
                bindings.iter().for_each(|at| encode_at(at, &mut out));
            }
            Self::Plan { handle, staging } => {
                u32s(&[*handle, 0]);
                out.extend(staging.to_le_bytes());
            }
            Self::Reserve { bytes } => out.extend(bytes.to_le_bytes()),
            Self::Release { at } => encode_at(at, &mut out),
            Self::Write { at, staging, len } | Self::Read { at, staging, len } => {
                encode_at(at, &mut out);
                out.extend(staging.to_le_bytes());
                out.extend(len.to_le_bytes());
            }
        }
        let len = out.len().next_multiple_of(RECORD_ALIGN as usize);
        if len as u64 > RECORD_MAX {
            return Err(protocol("record length", len as u64, RECORD_MAX));
        }
        out.resize(len, 0);
        out[..4].copy_from_slice(&(len as u32).to_le_bytes());
        Ok(out)
    }

    /// Ticket, queue and record of one whole record's bytes.
    ///
    /// # Errors
    /// `Protocol` with the field, its value and the bound; the ticket, if it could be read.
    pub fn decode(bytes: &[u8]) -> (u64, u32, Result<Self>) {
        let mut c = Cursor(bytes);
        let mut header = || Ok((c.u32()?, c.u16()?, c.u16()?, c.u64()?, c.u32()?, c.u32()?));
        match header() {
            Err(error) => (0, 0, Err(error)),
            Ok((_, kind, version, ticket, queue, reserved)) => {
                (ticket, queue, Self::body(c, kind, version, reserved))
            }
        }
    }

    fn body(mut c: Cursor<'_>, kind: u16, version: u16, reserved: u32) -> Result<Self> {
        if version != RECORD_VERSION {
            return Err(protocol("record version", version, RECORD_VERSION.into()));
        }
        if reserved != 0 {
            return Err(protocol("reserved header", reserved, 0));
        }
        let record = match kind {
            1 => {
                let (handle, count) = (c.u32()?, c.count()?);
                let op = Wire::decode(c.take::<OP_BYTES>()?)?;
                let lens = [c.u64()?, c.u64()?];
                let specs = (0..count).map(|_| decode_spec(c.take::<SPEC_BYTES>()?));
                let specs = specs.collect::<Result<_>>()?;
                Self::Define { handle, op, specs, lens }
            }
            2 => Self::Undefine { handle: c.u32()? },
            3 => {
                let (handle, count) = (c.u32()?, c.count()?);
                let bindings = (0..count).map(|_| c.at()).collect::<Result<_>>()?;
                Self::Run { handle, bindings }
            }
            4 => Self::Replay { program: c.u32()? },
            5 => Self::Reserve { bytes: c.u64()? },
            6 => Self::Release { at: c.at()? },
            7 => Self::Write { at: c.at()?, staging: c.u64()?, len: c.u64()? },
            8 => Self::Read { at: c.at()?, staging: c.u64()?, len: c.u64()? },
            9 => {
                let program = c.numbered()?;
                Self::Record { program, steps: [c.u64()?, c.u64()?] }
            }
            10 => Self::Erase { program: c.u32()? },
            11 => Self::Plan { handle: c.numbered()?, staging: c.u64()? },
            other => return Err(protocol("record kind", other, 11)),
        };
        c.end()?;
        Ok(record)
    }
}

fn encode_at(at: &BlockRef, out: &mut Vec<u8>) {
    out.extend(at.block.to_le_bytes());
    out.extend(at.generation.to_le_bytes());
    out.extend(at.offset.to_le_bytes());
}

const _: () = assert!(
    HEADER_BYTES + 24 + OP_BYTES + MAX_OPERANDS * SPEC_BYTES <= RECORD_MAX as usize,
    "the longest define fits a record, and so does everything shorter"
);
