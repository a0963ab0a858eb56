//! The rows of `matmul_sm80_bytes`; a launch is given [`MatmulScaledArgs`](crate::MatmulScaledArgs), a block a tile.

/// Elements of k of a chunk of the order: launches are cut at its multiples.
const CHUNK: u32 = 128;

/// Elements of k of a stage.
const BLOCK_K: u32 = 64;
/// Stages of the ring of copies.
const STAGES: u32 = 4;

/// What the operands of a row are, and how they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bytes {
    /// Both are i8.
    I8,
    /// Each is a float of 8 bits, either one, and becomes f16: on architectures that multiply none of 8 bits by `mma.sync`.
    Fp8AsF16,
    /// The same as it is, on the others.
    Fp8,
}

/// A row of `matmul_sm80_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulSm80Bytes {
    /// What both operands are.
    pub values: Bytes,
    /// Whether operands lie anyhow; else dense along K, rows and batch entries 16-byte aligned. Groups along K begin
    /// anywhere: theirs lie anyhow.
    pub gathered: bool,
    /// Rows and columns of a block's tile: 128 or 64. An output whose scales are found takes 128.
    pub tile: u32,
}

impl MatmulSm80Bytes {
    /// Elements of k in a chunk of the order.
    pub const CHUNK: u32 = CHUNK;

    /// Every row.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for values in [Bytes::I8, Bytes::Fp8AsF16, Bytes::Fp8] {
            for gathered in [false, true] {
                all.extend([128, 64].map(|tile| Self { values, gathered, tile }));
            }
        }
        all
    }

    pub(crate) fn key(&self) -> String {
        let dtype = match self.values {
            Bytes::I8 => "i8",
            Bytes::Fp8AsF16 => "fp8_as_f16",
            Bytes::Fp8 => "fp8",
        };
        let way = if self.gathered { 'g' } else { 'k' };
        format!("matmul_sm80_{dtype}_{way}{way}_{0}x{0}", self.tile)
    }

    /// Warps down and across a tile.
    fn form(&self) -> [u32; 2] {
        if self.tile == 128 { [2, 4] } else { [2, 2] }
    }

    pub(crate) fn shape(&self) -> String {
        let (Self { gathered, tile, .. }, [down, across]) = (self, self.form());
        let values = match self.values {
            Bytes::I8 => "I8",
            Bytes::Fp8AsF16 => "AsF16",
            Bytes::Fp8 => "Fp8",
        };
        let values = format!("matmul_sm80_bytes::Values::{values}");
        format!(
            "matmul_sm80_bytes::Shape<{tile}, {STAGES}, {down}, {across}, {gathered}, {values}>"
        )
    }

    pub(crate) fn archs(&self) -> &'static [&'static str] {
        match self.values {
            Bytes::I8 => &crate::ARCHS,
            // Hopper multiplies floats of 8 bits by warpgroups alone; on 10.0 the compiler spills what stands for `mma.sync`.
            Bytes::Fp8AsF16 => &["sm_80", "sm_86", "sm_90a", "sm_100"],
            Bytes::Fp8 => &["sm_89", "sm_120"],
        }
    }

    pub(crate) fn threads(&self) -> u32 {
        let [down, across] = self.form();
        32 * down * across
    }

    pub(crate) fn shared_bytes(&self) -> u32 {
        let ring = STAGES * 2 * self.tile * BLOCK_K;
        ring.max(self.tile * (self.tile + 8) * 4)
    }

    /// Bytes that a cut tile carries.
    pub fn state_bytes(&self) -> u64 {
        4 * u64::from(self.tile) * u64::from(self.tile)
    }
}
