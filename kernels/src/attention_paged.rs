//! The rows of `attention_paged` and `attention_combine`: few rows over many keys, in pages or not.

/// A row of `attention_paged`. It takes [`AttentionArgs`](crate::AttentionArgs), a block for each split of each tile, tile by
/// tile, and leaves its parts for `attention_combine`, which takes the same arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionPaged {
    /// Whether operands are bf16, not f16.
    pub bf16: bool,
    /// The largest head dim, of Q and K and of V.
    pub d: u32,
}

impl AttentionPaged {
    /// Packed rows of a tile.
    pub const ROWS: u32 = 16;

    /// Keys of a split are a multiple of this; launches are cut at multiples of a split.
    pub const SPLIT_STEP: u32 = 64;

    /// Every row.
    pub fn all() -> Vec<Self> {
        let of = |bf16| [32, 64, 96, 128, 256].map(|d| Self { bf16, d });
        [false, true].into_iter().flat_map(of).collect()
    }

    pub(crate) fn key(&self) -> String {
        format!("attention_paged_{}_{}", if self.bf16 { "bf16" } else { "f16" }, self.d)
    }

    /// Warps, and stages of the ring of each: what shared memory has room for on the smallest of the GPUs.
    fn form(&self) -> [u32; 2] {
        match self.d {
            32 | 64 => [4, 4],
            256 => [2, 2],
            _ => [4, 2],
        }
    }

    pub(crate) fn shape(&self) -> String {
        let (d, [warps, stages]) = (self.d, self.form());
        let dtype = if self.bf16 { "BF16" } else { "F16" };
        format!("attention_paged::Shape<{d}, {warps}, {stages}, {dtype}>")
    }

    pub(crate) fn threads(&self) -> u32 {
        32 * self.form()[0]
    }

    pub(crate) fn shared_bytes(&self) -> u32 {
        let [warps, stages] = self.form();
        2 * self.d * 16 * (1 + warps * stages * 2)
    }
}

/// The row of `attention_combine`: it merges what splits of the keys left, and writes the output. It takes the arguments
/// of their launch, and a block for each row of each tile: of all tiles as many as one has at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionCombine;

impl AttentionCombine {
    /// Bytes of what one split of a tile leaves, and of what a cut tile carries: of [`AttentionArgs::partials`] a
    /// launch takes as many as it has tiles times splits, of [`AttentionArgs::state`] as many as it has tiles.
    ///
    /// [`AttentionArgs::partials`]: crate::AttentionArgs::partials
    /// [`AttentionArgs::state`]: crate::AttentionArgs::state
    pub fn part_bytes(dv: u32) -> u64 {
        4 * u64::from(AttentionPaged::ROWS) * (u64::from(dv) + 2)
    }

    pub(crate) fn shape(self) -> String {
        "attention_combine::Shape<256>".into()
    }

    pub(crate) fn threads(self) -> u32 {
        256
    }
}
