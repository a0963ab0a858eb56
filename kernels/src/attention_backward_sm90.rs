//! The rows of `attention_backward_sm90`, and what their launches are given: the Rust side of
//! `cuda/attention_backward_sm90.cu`.

use crate::attention_backward::{AttentionBackwardArgs, GradientSide};
use crate::map::BoxMap;
use bytemuck::{Pod, Zeroable};

/// What a launch of `attention_backward_sm90` is given. Its blocks may be any number: tiles are dealt out.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct AttentionBackwardSm90Args {
    /// Q as the driver encodes it.
    pub q: BoxMap,
    /// K likewise.
    pub k: BoxMap,
    /// V likewise.
    pub v: BoxMap,
    /// The outputs' gradients likewise.
    pub d_out: BoxMap,
    /// What [`crate::AttentionBackwardRows`] left, likewise.
    pub statistics: BoxMap,
    /// All else.
    pub backward: AttentionBackwardArgs,
    /// Nothing.
    pub padding: [u32; 8],
}

const _: () = assert!(size_of::<AttentionBackwardSm90Args>() == 1280);

/// A row of `attention_backward_sm90`, gradients by wgmma: what [`crate::AttentionBackwardSm80`] gives, of operands of which
/// there is something and that the copy engine brings, of scores without a mask, slopes or a soft cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionBackwardSm90 {
    /// What it gives.
    pub side: GradientSide,
    /// Whether operands are bf16, not f16.
    pub bf16: bool,
    /// The largest head dim, of Q and K and of V.
    pub d: u32,
}

impl AttentionBackwardSm90 {
    /// Keys or query rows of a tile.
    pub const TILE: u32 = 128;
    /// Rows of a box of every operand.
    const BOX: u32 = 64;

    /// Every row.
    pub fn all() -> Vec<Self> {
        let of = |side, bf16| [64, 128].map(|d| Self { side, bf16, d });
        let sides = GradientSide::ALL.into_iter();
        sides.flat_map(|side| [of(side, false), of(side, true)].concat()).collect()
    }

    /// Rows of the other side of a chunk, at whose multiples launches are cut.
    pub fn chunk(&self) -> u32 {
        if self.side == GradientSide::Queries && self.d == 64 { 128 } else { 64 }
    }

    pub(crate) fn key(&self) -> String {
        let dtype = if self.bf16 { "bf16" } else { "f16" };
        format!("attention_backward_sm90_{}_{dtype}_{}", self.side.name(), self.d)
    }

    pub(crate) fn shape(&self) -> String {
        let (d, chunk) = (self.d, self.chunk());
        let dtype = if self.bf16 { "BF16" } else { "F16" };
        let keys = self.side == GradientSide::Keys;
        format!("attention_backward_sm90::Shape<{keys}, {d}, {chunk}, {dtype}>")
    }

    pub(crate) fn threads(&self) -> u32 {
        384
    }

    pub(crate) fn shared_bytes(&self) -> u32 {
        let numbers = if self.side == GradientSide::Keys { 1024 } else { 0 };
        let stage = 4 * self.d * self.chunk() + numbers;
        4 * self.d * Self::TILE + 3 * (stage + 16) + 16
    }

    /// Bytes that a cut tile carries.
    pub fn state_bytes(&self) -> u64 {
        let gradients = if self.side == GradientSide::Keys { 2 } else { 1 };
        4 * 256 * gradients * u64::from(self.d) / 2
    }

    /// The box map of an operand: of `[batch, heads, rows, columns]` with these strides of batch, head and row.
    pub fn map(at: u64, [batch, heads, rows, columns]: [u64; 4], strides: [u64; 3]) -> BoxMap {
        let [of_batch, of_head, of_row] = strides.map(|n| 2 * n);
        BoxMap {
            at,
            sizes: [columns, rows, heads, batch, 1],
            strides: [of_row, of_head, of_batch, of_batch],
            boxed: [64, Self::BOX, 1, 1, 1],
            element: 2,
            padding: [0; 6],
        }
    }

    /// That of what [`crate::AttentionBackwardRows`] left, for so many query heads. It is words of 32 bits, brought as halves.
    pub fn statistics(at: u64, heads: u64, room: u64) -> BoxMap {
        BoxMap {
            at,
            sizes: [64, room / 32, 2, heads, 1],
            strides: [128, 4 * room, 8 * room, 16],
            boxed: [64, Self::BOX / 32, 2, 1, 1],
            element: 2,
            padding: [0; 6],
        }
    }
}
