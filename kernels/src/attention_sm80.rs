//! The rows of `attention_sm80`, forward attention by `mma.sync`.

/// A row of `attention_sm80`. It takes [`AttentionArgs`](crate::AttentionArgs), a block for each tile of
/// [`ROWS`](Self::rows) packed rows, and any strides; K and V may lie in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionSm80 {
    /// Whether operands are bf16, not f16.
    pub bf16: bool,
    /// The largest head dim, of Q and K and of V.
    pub d: u32,
}

impl AttentionSm80 {
    /// Every row.
    pub fn all() -> Vec<Self> {
        let of = |bf16| [32, 64, 96, 128, 256].map(|d| Self { bf16, d });
        [false, true].into_iter().flat_map(of).collect()
    }

    /// Packed rows of a tile: two blocks of sixteen for each of four warps, where registers have room for the sums.
    pub fn rows(&self) -> u32 {
        if self.d > 96 { 64 } else { 128 }
    }

    /// Keys of a chunk of the order, at whose multiples launches are cut.
    pub fn chunk(&self) -> u32 {
        if self.d > 64 { 32 } else { 64 }
    }

    pub(crate) fn key(&self) -> String {
        format!("attention_sm80_{}_{}", if self.bf16 { "bf16" } else { "f16" }, self.d)
    }

    pub(crate) fn shape(&self) -> String {
        let (d, chunk) = (self.d, self.chunk());
        let dtype = if self.bf16 { "BF16" } else { "F16" };
        let blocks = if self.rows() == 128 { "0, 1" } else { "0" };
        format!("attention_sm80::Shape<{d}, {chunk}, {dtype}, {blocks}>")
    }

    pub(crate) fn threads(&self) -> u32 {
        128
    }

    pub(crate) fn shared_bytes(&self) -> u32 {
        2 * self.d * (self.rows() + 4 * self.chunk())
    }

    /// Bytes that a cut tile carries.
    pub fn state_bytes(&self) -> u64 {
        u64::from(self.rows() / 64 * 128) * 4 * (u64::from(self.d) / 2 + 4)
    }
}
