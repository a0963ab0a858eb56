//! The rows of the kernels that stream through memory: every op but products and attention. Operand types are run-time
//! values unless a row's name has a width. `args.rs` has what their launches are given.

use crate::view::{Range, Rows};

/// A row of a kernel that streams through memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Streaming {
    /// `copy` of elements of so many bytes: 1, 2, 4. Given [`crate::CopyArgs`].
    Copy(u32),
    /// `copy` between views that are dense along different axes. Given [`crate::TurnArgs`].
    CopyTurned(u32),
    /// `map` in f32, by vectors of 8 elements where all types are of 16 bits, else of 4. Given [`crate::MapArgs`].
    Map(u32),
    /// `map` of i32 or u32. Given [`crate::MapArgs`].
    MapIntegers,
    /// `norm` by so many lanes a row: [`Streaming::lanes`]. Given [`crate::NormArgs`].
    Norm(u32),
    /// `softmax` by so many lanes a row. Given [`crate::SoftmaxArgs`].
    Softmax(u32),
    /// `reduce` by so many lanes a row. Given [`crate::ReduceArgs`].
    Reduce(u32),
    /// `reduce` by one lane a row, for rows that lie side by side (the innermost outer axis of x is dense, the row is not) or
    /// have fewer than 32 elements. Given [`crate::ReduceArgs`].
    ReduceAcross,
    /// `gather` of elements of so many bytes. Given [`crate::GatherArgs`].
    Gather(u32),
    /// `scatter` that sets or appends elements of so many bytes. Given [`crate::ScatterArgs`].
    Scatter(u32),
    /// `scatter` that adds. Given [`crate::ScatterAddArgs`].
    ScatterAdd,
    /// `rope`. Given [`crate::RopeArgs`].
    Rope,
    /// `arg_max` by so many lanes a row. Given [`crate::ArgMaxArgs`].
    ArgMax(u32),
    /// `top_k` by so many lanes a row. Given [`crate::TopKArgs`].
    TopK(u32),
    /// `quantize` with a scale for a row, or for the tensor, by so many lanes a row. Given [`crate::QuantizeRowsArgs`].
    QuantizeRows(u32),
    /// `quantize` with scales for cells of a row or of a matrix. Given [`crate::QuantizeCellsArgs`].
    QuantizeCells,
    /// `quantize` back. Given [`crate::DequantizeArgs`].
    Dequantize,
    /// `norm_backward` by so many lanes a row: [`Streaming::lanes_backward`]. Given [`crate::NormBackwardArgs`].
    NormBackward(u32),
}

/// Bytes that an element may have where only bits move.
const WIDTHS: [u32; 3] = [1, 2, 4];
/// Lanes that a row may have.
const LANES: [u32; 3] = [32, 256, 1024];
/// The same where a lane holds two rows.
const LANES_BACKWARD: [u32; 3] = [32, 256, 512];
/// Elements that a lane holds.
const HELD: u32 = 16;

impl Streaming {
    /// Every row, those of a file side by side.
    pub fn all() -> Vec<Self> {
        use Streaming::*;
        let mut all: Vec<Self> = WIDTHS.map(Copy).into();
        all.extend(WIDTHS.map(CopyTurned));
        all.extend([Map(4), Map(8), MapIntegers]);
        all.extend([Norm, Softmax, Reduce].iter().flat_map(|op| LANES.map(op)));
        all.push(ReduceAcross);
        all.extend([Gather, Scatter].iter().flat_map(|op| WIDTHS.map(op)));
        all.extend([ScatterAdd, Rope]);
        all.extend([ArgMax, TopK, QuantizeRows].iter().flat_map(|op| LANES.map(op)));
        all.extend([QuantizeCells, Dequantize]);
        all.extend(LANES_BACKWARD.map(NormBackward));
        all
    }

    /// Name of the op and of its source.
    pub fn op(&self) -> &'static str {
        self.names()[0]
    }

    /// Lanes of a row of `n` elements, and with it how the row is added.
    pub fn lanes(n: u64) -> u32 {
        Self::least(LANES, n)
    }

    /// The same for `norm_backward`.
    pub fn lanes_backward(n: u64) -> u32 {
        Self::least(LANES_BACKWARD, n)
    }

    /// The fewest that hold a row, or the most.
    fn least(lanes: [u32; 3], n: u64) -> u32 {
        lanes.into_iter().find(|lanes| n <= u64::from(lanes * HELD)).unwrap_or(lanes[2])
    }

    /// Elements that a thread moves at once, where units are vectors of a [`Range`].
    pub fn vector(&self) -> u32 {
        match self {
            Self::Copy(width) | Self::Gather(width) | Self::Scatter(width) => 16 / width,
            Self::Map(vector) => *vector,
            Self::Rope | Self::Dequantize => 8,
            _ => 4,
        }
    }

    /// Lanes of a row, where a row of the table has them.
    fn lanes_of_row(&self) -> Option<u32> {
        match self {
            Self::Norm(lanes) | Self::Softmax(lanes) | Self::Reduce(lanes) => Some(*lanes),
            Self::ArgMax(lanes) | Self::TopK(lanes) | Self::QuantizeRows(lanes) => Some(*lanes),
            Self::NormBackward(lanes) => Some(*lanes),
            _ => None,
        }
    }

    /// The most elements of a row, or of a piece of it, where units are [`Rows`].
    pub fn piece(&self) -> u32 {
        self.lanes_of_row().map_or(128, |lanes| lanes * HELD)
    }

    /// Words of 32 bits that are kept of a piece from pass to pass; of `top_k` those of a row.
    pub fn state_words(&self) -> u32 {
        match self {
            Self::Norm(_) | Self::Softmax(_) => 4,
            Self::Reduce(_) | Self::ReduceAcross | Self::ArgMax(_) | Self::QuantizeRows(_) => 2,
            Self::NormBackward(_) => 8,
            Self::TopK(_) => 512,
            _ => 0,
        }
    }

    /// Blocks of a launch of rows.
    pub fn row_blocks(&self, rows: &Rows) -> u64 {
        let groups = rows.count * u64::from(rows.piece_count);
        match self {
            Self::ReduceAcross => rows.count.div_ceil(256) * u64::from(rows.piece_count),
            _ if self.lanes_of_row() == Some(32) => groups.div_ceil(8),
            _ => groups,
        }
    }

    /// Blocks of a launch of `scatter` that adds.
    pub fn add_blocks(range: &Range) -> u64 {
        // Each vector of columns is 64 threads': thread s adds the entries whose index is s modulo 64.
        (range.count * 64).div_ceil(256)
    }

    /// Threads of a block.
    pub(crate) fn threads(&self) -> u32 {
        self.lanes_of_row().unwrap_or(256).max(256)
    }

    /// Bytes of shared memory of a block: a word pair of each warp where several meet, and of each of the k.
    pub(crate) fn shared_bytes(&self) -> u32 {
        if matches!(self, Self::CopyTurned(_)) {
            // A tile of 64 by 64, an element a word.
            return 64 * 65 * 4;
        }
        let cells = if *self == Self::QuantizeCells { 256 } else { 32 };
        let lanes = self.lanes_of_row().unwrap_or(cells);
        let meet = if lanes > 32 { lanes / 32 * 8 } else { 0 };
        let found =
            if matches!(self, Self::TopK(_)) { self.threads() / lanes * 256 * 8 } else { 0 };
        meet + found
    }

    /// The op, the struct of its launches, and its function.
    fn names(&self) -> [&'static str; 3] {
        match self {
            Self::Copy(_) => ["copy", "CopyArgs", "copy::run"],
            Self::CopyTurned(_) => ["copy", "TurnArgs", "copy::turn"],
            Self::Map(_) | Self::MapIntegers => ["map", "MapArgs", "map::run"],
            Self::Norm(_) => ["norm", "NormArgs", "norm_forward::run"],
            Self::Softmax(_) => ["softmax", "SoftmaxArgs", "softmax::run"],
            Self::Reduce(_) => ["reduce", "ReduceArgs", "reduce::run"],
            Self::ReduceAcross => ["reduce", "ReduceArgs", "reduce::run_across"],
            Self::Gather(_) => ["gather", "GatherArgs", "gather::run"],
            Self::Scatter(_) => ["scatter", "ScatterArgs", "scatter::run"],
            Self::ScatterAdd => ["scatter", "ScatterAddArgs", "scatter::add"],
            Self::ArgMax(_) => ["arg_max", "ArgMaxArgs", "arg_max::run"],
            Self::TopK(_) => ["top_k", "TopKArgs", "top_k::run"],
            Self::QuantizeRows(_) => ["quantize", "QuantizeRowsArgs", "quantize::run"],
            Self::QuantizeCells => ["quantize", "QuantizeCellsArgs", "quantize::run_cells"],
            Self::Dequantize => ["quantize", "DequantizeArgs", "quantize::run_inverse"],
            Self::NormBackward(_) => ["norm_backward", "NormBackwardArgs", "norm_backward::run"],
            Self::Rope => ["rope", "RopeArgs", "rope::run"],
        }
    }

    pub(crate) fn key(&self) -> String {
        let op = self.op();
        match self {
            Self::CopyTurned(width) => format!("copy_turned_{width}"),
            Self::MapIntegers => "map_integers".into(),
            Self::ReduceAcross => "reduce_across".into(),
            Self::ScatterAdd => "scatter_add".into(),
            Self::QuantizeCells => "quantize_cells".into(),
            Self::Dequantize => "quantize_inverse".into(),
            Self::Rope => "rope_8".into(),
            Self::Copy(n) | Self::Map(n) | Self::Gather(n) | Self::Scatter(n) => {
                format!("{op}_{n}")
            }
            _ => format!("{op}_{}", self.lanes_of_row().unwrap_or_default()),
        }
    }

    pub(crate) fn file(&self) -> &'static str {
        match self.op() {
            "copy" => "cuda/copy.cu",
            "map" => "cuda/map.cu",
            "norm" => "cuda/norm.cu",
            "softmax" => "cuda/softmax.cu",
            "gather" => "cuda/gather.cu",
            "scatter" => "cuda/scatter.cu",
            "rope" => "cuda/rope.cu",
            "arg_max" => "cuda/arg_max.cu",
            "top_k" => "cuda/top_k.cu",
            "quantize" => "cuda/quantize.cu",
            "norm_backward" => "cuda/norm_backward.cu",
            _ => "cuda/reduce.cu",
        }
    }

    pub(crate) fn template(&self) -> (&'static str, String, &'static str) {
        let shape = match self {
            Self::Copy(width) => format!("copy::Shape<{width}>"),
            Self::CopyTurned(width) => format!("copy::Turned<{width}>"),
            Self::Map(n) => format!("map::Shape<{n}, false>"),
            Self::MapIntegers => "map::Shape<4, true>".into(),
            Self::ReduceAcross => "reduce::Across".into(),
            Self::Gather(width) => format!("gather::Shape<{width}>"),
            Self::Scatter(width) => format!("scatter::Shape<{width}>"),
            Self::ScatterAdd => "scatter::Adding".into(),
            Self::Rope => "rope::Shape".into(),
            Self::QuantizeCells => "quantize::Cells".into(),
            Self::Dequantize => "quantize::Inverse".into(),
            Self::TopK(n) => format!("top_k::Shape<{n}>"),
            _ => format!("RowShape<{}>", self.lanes_of_row().unwrap_or_default()),
        };
        let [_, args, run] = self.names();
        (args, shape, run)
    }
}
