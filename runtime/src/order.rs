//! Plain values that say *how* an op runs: its order (which fixes its bits), its plan (order and units), and
//! what that costs. Backends' planners make them, `plan` ranks them, schedulers count with them. No logic of
//! any backend is here. The Bits and Time contracts of ARCHITECTURE are about these values.

use std::fmt;
use std::ops::Range;

/// A unit is predicted to take at most this on a CPU or software adapter, in nanoseconds (U of the design).
pub const UNIT_CAP_SLOW_NS: u64 = 2_000_000;
/// A unit is predicted to take at most this on a GPU, in nanoseconds (U of the design).
pub const UNIT_CAP_GPU_NS: u64 = 250_000;

/// What multiplies and adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// No arithmetic on elements: copies and gathers.
    Move,
    /// One operation an element, no contraction: maps.
    Scalar,
    /// Fused multiply-add in f32.
    Fma32,
    /// Multiply, round, add in f32: shader adapters that may not fuse.
    MulAdd32,
}

/// The sequence of additions that fixes an op's bits: how the contraction is cut and merged, the instruction
/// family, the accumulator (always f32, merged left to right), and the epilogue.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Order {
    /// The entry of the backend's order table that this is, e.g. `matmul/x86-v4/f32`.
    pub entry: &'static str,
    /// Rows and columns (or query rows and head dim) of a full output tile.
    pub tile: [u32; 2],
    /// Elements of the contraction in a chunk; chunks are merged left to right. 0: no contraction.
    pub chunk: u32,
    /// Instruction family.
    pub family: Family,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [m, n] = self.tile;
        write!(f, "{} tile {m}x{n} chunk {} {:?} acc f32", self.entry, self.chunk, self.family)
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Units `start..end` of a plan. Unit `u` is link `u % links` of tile `u / links`.
pub type UnitRange = Range<u64>;

/// An order and its units. A tile's links run in sequence; only they carry state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The order, which fixes the bits.
    pub order: Order,
    /// Output tiles or row groups.
    pub tiles: u64,
    /// Units that a tile's contraction is cut into; 1 when it is not cut.
    pub links: u64,
    /// Predicted nanoseconds of the dearest unit.
    pub unit_ns: u64,
    /// Bytes of f32 state carried between two links of a tile; 0 when `links` is 1.
    pub state_bytes: u64,
}

impl Plan {
    /// Units in all.
    pub fn units(&self) -> u128 {
        u128::from(self.tiles) * u128::from(self.links)
    }

    /// Predicted nanoseconds in all.
    pub fn total_ns(&self) -> u128 {
        self.units().saturating_mul(u128::from(self.unit_ns))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, tiles, links, unit_ns, .. } = self;
        write!(f, "{order}; {tiles} tiles x {links} links, {unit_ns} ns a unit")
    }
}

/// What an op costs, for reports and bills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts two.
    pub flops: u128,
    /// Bytes read and written at least once.
    pub bytes: u128,
}
