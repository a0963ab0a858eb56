//! Plain values that say *how* an op runs: its order (which fixes its bits), its plan (order and units), and
//! what that costs. Backends' planners make them, `plan` ranks them, schedulers count with them. No logic of
//! any backend is here. The Bits and Time contracts of ARCHITECTURE are about these values.

use std::fmt;
use std::ops::Range;

/// A unit is predicted to take at most this on a CPU or software adapter, in nanoseconds (U of the design).
pub const UNIT_CAP_SLOW_NS: u64 = 2_000_000;
/// Predicted nanoseconds that a slice may take there (S).
pub const SLICE_SLOW_NS: u64 = 2_000_000;
/// Predicted nanoseconds that may be queued there (W).
pub const WINDOW_SLOW_NS: u64 = 4_000_000;
/// A unit is predicted to take at most this on a whole GPU of its class, in nanoseconds (U). On a part of a card, which has
/// fewer multiprocessors, the same unit is predicted to take as much longer: `Caps::unit_cap_ns` is the device's own.
pub const UNIT_CAP_GPU_NS: u64 = 250_000;
/// Predicted nanoseconds that a slice may take on a whole GPU (S); a node gives a part of a card as many units.
pub const SLICE_GPU_NS: u64 = 1_000_000;
/// Predicted nanoseconds that may be queued on a whole GPU (W); on a part of a card as many units.
pub const WINDOW_GPU_NS: u64 = 2_000_000;

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
    /// Pairs of 16-bit products added in f32 by one instruction.
    Dot16,
    /// Square tiles of f16 products summed in f32 by one instruction of a matrix unit.
    Matrix16,
    /// The same of f32 operands rounded to tf32.
    MatrixTf32,
    /// Tiles of fp8 products by one instruction of a matrix unit, which keeps fewer bits of a sum than f32 has.
    Matrix8,
    /// Whatever a vendor's library does: no order that anybody promises.
    Vendor,
}

/// The sequence of additions that fixes an op's bits: how the contraction is cut and merged, the instruction
/// family, the accumulator (always f32, merged left to right but where the entry says otherwise), and the
/// epilogue.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Order {
    /// The entry of the backend's order table that this is, e.g. `matmul/x86-v4/f32`.
    pub entry: &'static str,
    /// Rows and columns (or query rows and head dim) of a full output tile.
    pub tile: [u32; 2],
    /// Elements of the contraction in a chunk; chunks are merged in sequence. 0: no contraction.
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
    /// What runs it, by the backend's name for it. Plans of one order may differ in this: it fixes speed, no bits.
    pub kernel: &'static str,
    /// Output tiles or row groups.
    pub tiles: u64,
    /// Units that a tile's contraction is cut into; 1 when it is not cut.
    pub links: u64,
    /// Predicted nanoseconds of the dearest unit, as a part of a launch of many.
    pub unit_ns: u64,
    /// Units of a launch that run side by side: fewer take as long.
    pub wave: u64,
    /// Predicted nanoseconds of those.
    pub wave_ns: u64,
    /// Bytes of f32 state carried between two links of a tile; 0 when `links` is 1.
    pub state_bytes: u64,
}

impl Plan {
    /// Units in all.
    pub fn units(&self) -> u128 {
        u128::from(self.tiles) * u128::from(self.links)
    }

    /// Predicted nanoseconds of a launch of so many units: their part of the whole, but no less than the waves that they are.
    pub fn launch_ns(&self, units: u64) -> u64 {
        let waves = units.div_ceil(self.wave.max(1)).saturating_mul(self.wave_ns);
        units.saturating_mul(self.unit_ns).max(waves)
    }

    /// Most units whose launch is predicted to fit `budget_ns`; where not even one does, those that take as long as one.
    pub fn units_within(&self, budget_ns: u64) -> u64 {
        let budget_ns = budget_ns.max(self.launch_ns(1));
        let waves = (budget_ns / self.wave_ns.max(1)).saturating_mul(self.wave);
        (budget_ns / self.unit_ns.max(1)).min(waves).max(1)
    }

    /// Predicted nanoseconds in all.
    pub fn total_ns(&self) -> u128 {
        self.units().saturating_mul(u128::from(self.unit_ns))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, kernel, tiles, links, unit_ns, .. } = self;
        write!(f, "{order} by {kernel}; {tiles} tiles x {links} links, {unit_ns} ns a unit")
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

/// A run of tiles that begins and ends its links alike. Head and tail of a range may be cut tiles; they run
/// apart, since both use the one carried state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first tile.
    pub first: u64,
    /// How many tiles.
    pub tiles: u64,
    /// The first link of each tile.
    pub from: u64,
    /// One past the last link of each tile.
    pub to: u64,
}

/// A range of units as spans, in order.
pub fn spans(units: UnitRange, links: u64) -> Vec<Span> {
    let mut spans = Vec::with_capacity(3);
    let (mut at, end) = (units.start, units.end);
    while at < end {
        let (tile, from) = (at / links, at % links);
        let whole = (end - at) / links;
        let span = if from == 0 && whole > 0 {
            Span { first: tile, tiles: whole, from: 0, to: links }
        } else {
            Span { first: tile, tiles: 1, from, to: links.min(from + (end - at)) }
        };
        at = span.first * links + (span.tiles - 1) * links + span.to;
        spans.push(span);
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_a_range_once_and_in_order() {
        for links in 1..5u64 {
            for start in 0..12 {
                for end in start..12 {
                    let units: Vec<u64> = spans(start..end, links)
                        .into_iter()
                        .flat_map(|s| {
                            (s.first..s.first + s.tiles)
                                .flat_map(move |t| (s.from..s.to).map(move |l| t * links + l))
                        })
                        .collect();
                    assert_eq!(units, (start..end).collect::<Vec<_>>());
                }
            }
        }
    }
}
