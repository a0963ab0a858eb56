//! The row of `attention_reference`, forward attention as it is written down.

/// The row of `attention_reference`. It takes [`AttentionArgs`](crate::AttentionArgs) with operands in f32, f16 or bf16 alike,
/// head dims to 256, a block for each tile of 16 packed rows, and may be cut at any key; its state is as large as that of
/// [`AttentionCombine`](crate::AttentionCombine).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionReference;

impl AttentionReference {
    /// Packed rows of a tile.
    pub const ROWS: u32 = 16;

    pub(crate) fn shape(self) -> String {
        "attention_reference::Shape<256>".into()
    }

    pub(crate) fn threads(self) -> u32 {
        32 * Self::ROWS
    }
}
