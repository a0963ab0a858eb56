//! What launches are given: a checked op, the addresses of its operands and a run of units become the arguments of kernels.
//! Pure but for the addresses, which come from `memory`; `mod` launches. Each family of ops has a file of its own.

mod attention;
mod attention_backward;
mod attention_entries;
mod elements;
mod product;
mod rows;
mod scatter;
mod view;

use super::plan::{Class, Stream};
use crate::op::{CheckedOp, Op, Spec};
use crate::order::Span;
use leasehold_kernels::{
    AttentionBackwardSm90Args, AttentionSm90Args, MatmulSm90Args, MatmulSm90Fp8Args, Row,
};

/// Blocks that a grid has at most.
const GRID: u64 = i32::MAX as u64;

/// One launch: a row's kernel, what it is given, and its blocks.
pub(super) struct Launch {
    pub(super) row: Row,
    pub(super) args: Args,
    pub(super) blocks: u32,
}

/// What a kernel is given.
pub(super) enum Args {
    /// The bytes of the struct that the row's kernel takes.
    Plain(Vec<u8>),
    /// With maps that the driver has yet to encode.
    MatmulSm90(Box<MatmulSm90Args>),
    /// Likewise.
    MatmulSm90Fp8(Box<MatmulSm90Fp8Args>),
    /// Likewise.
    AttentionSm90(Box<AttentionSm90Args>),
    /// Likewise.
    AttentionBackwardSm90(Box<AttentionBackwardSm90Args>),
}

impl Args {
    /// What the kernel reads.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(args) => args,
            Self::MatmulSm90(args) => bytemuck::bytes_of(&**args),
            Self::MatmulSm90Fp8(args) => bytemuck::bytes_of(&**args),
            Self::AttentionSm90(args) => bytemuck::bytes_of(&**args),
            Self::AttentionBackwardSm90(args) => bytemuck::bytes_of(&**args),
        }
    }

    fn plain(args: &impl bytemuck::Pod) -> Self {
        Self::Plain(bytemuck::bytes_of(args).to_vec())
    }
}

/// Where an op's operands lie: addresses by role, of the state that units hand on, of what `prepare` made, and of the three
/// words that the first bad index is told in.
pub(super) struct Addresses<'a> {
    pub(super) operands: &'a [u64],
    pub(super) state: u64,
    pub(super) made: u64,
    pub(super) fault: u64,
}

/// Bytes that `prepare` puts into device memory beside the op's operands, for the plan that names `row`.
pub(super) fn made(op: &CheckedOp, row: &Row, class: &Class) -> Vec<u8> {
    match op.op() {
        Op::Matmul(matmul) => product::made(op, matmul, row),
        Op::Attention(attention) => attention::made(op, attention, row, class),
        Op::AttentionBackward(backward) => attention_backward::made(op, backward),
        Op::Rope(rope) => elements::turns(rope),
        _ => Vec::new(),
    }
}

/// The rows whose kernels an op launches by the plan that names `row`.
pub(super) fn rows(op: &CheckedOp, row: &Row, class: &Class) -> Vec<Row> {
    match op.op() {
        Op::Matmul(matmul) => product::rows(op, matmul, row, class),
        Op::Attention(attention) => attention::rows(attention, row),
        Op::AttentionBackward(backward) => attention_backward::rows(op, backward, class),
        _ => vec![*row],
    }
}

/// Whether an op reads indices, whose first fault is told.
pub(super) fn is_indexed(op: &CheckedOp) -> bool {
    match op.op() {
        Op::Matmul(matmul) => matmul.sizes.on_device() || matmul.is_indexed(),
        Op::Attention(attention) => attention::is_indexed(attention),
        Op::AttentionBackward(backward) => attention_backward::is_counted(backward),
        Op::Gather(_) | Op::Scatter(_) => true,
        _ => false,
    }
}

/// The launches of a span in their order; kernels that walk their tiles have as many blocks as multiprocessors.
pub(super) fn launches(
    op: &CheckedOp,
    row: &Row,
    class: &Class,
    span: Span,
    at: &Addresses<'_>,
    multiprocessors: u32,
) -> Vec<Launch> {
    match op.op() {
        Op::Matmul(matmul) => {
            product::launches(op, matmul, row, class, span, at, multiprocessors).unwrap_or_default()
        }
        Op::Attention(attention) => {
            attention::launches(op, attention, row, class, span, at, multiprocessors)
        }
        Op::AttentionBackward(backward) => {
            attention_backward::launches(op, backward, class, span, at, multiprocessors)
        }
        _ => streams(op, row, class, span, at),
    }
}

/// The launches of ops that stream; none of an op that no plan is of.
fn streams(
    op: &CheckedOp,
    row: &Row,
    class: &Class,
    span: Span,
    at: &Addresses<'_>,
) -> Vec<Launch> {
    match Stream::of(op, row, class) {
        Some(Stream::Elements(elements)) => elements::launches(op, &elements, span, at),
        Some(Stream::Groups(groups)) => rows::launches(op, &groups, span, at),
        Some(Stream::Landing(landing)) => scatter::sets(op, &landing, span, at),
        Some(Stream::Adds(adds)) => scatter::adds(op, &adds, span, at),
        None => Vec::new(),
    }
}

/// A span in runs of at most `most` tiles.
fn runs(span: Span, most: u64) -> impl Iterator<Item = Span> {
    (0..span.tiles).step_by(most as usize).map(move |from| Span {
        first: span.first + from,
        tiles: most.min(span.tiles - from),
        ..span
    })
}

/// Blocks that deal tiles out among themselves.
fn walked(tiles: u64, multiprocessors: u32) -> u32 {
    tiles.min(multiprocessors.into()) as u32
}

/// The operand of a role and its address.
fn operand<'a>(op: &'a CheckedOp, at: &Addresses<'_>, name: &str) -> Option<(&'a Spec, u64)> {
    let place = op.position(name)?;
    Some((op.specs().get(place)?, *at.operands.get(place)?))
}
