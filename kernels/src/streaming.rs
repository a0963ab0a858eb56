//! The rows of the kernels that stream through memory, and what their launches are given: the Rust side of `cuda/copy.h`
//! and its neighbours. Every block has 256 threads. Operand types are run-time values unless a row's name has a width.

use crate::view::{Range, Rows, View};
use bytemuck::{Pod, Zeroable};

/// A row of a kernel that streams through memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Streaming {
    /// `copy` of elements of so many bytes: 1, 2, 4. Given [`CopyArgs`].
    Copy(u32),
    /// `map` in f32, by vectors of 8 elements where all types are of 16 bits, else of 4. Given [`MapArgs`].
    Map(u32),
    /// `map` of i32 or u32. Given [`MapArgs`].
    MapIntegers,
    /// `norm` by so many lanes a row: [`Streaming::lanes`]. Given [`NormArgs`].
    Norm(u32),
    /// `softmax` by so many lanes a row. Given [`SoftmaxArgs`].
    Softmax(u32),
    /// `reduce` by so many lanes a row. Given [`ReduceArgs`].
    Reduce(u32),
    /// `reduce` by one lane a row, for rows that lie side by side (the innermost outer axis of x is dense, the row is not) or
    /// have fewer than 32 elements. Given [`ReduceArgs`].
    ReduceAcross,
}

/// What a launch of `copy` is given.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct CopyArgs {
    /// Which elements.
    pub range: Range,
    /// x, out.
    pub views: [View; 2],
}

/// What a launch of `map` is given.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct MapArgs {
    /// Which elements.
    pub range: Range,
    /// x, y, out. Where the function has one input, y is x again and not read.
    pub views: [View; 3],
    /// Number of the function in `MapFn`.
    pub function: u32,
    /// Factor of the result; integers have none.
    pub scale: f32,
    /// Added to the result.
    pub shift: f32,
    /// Nothing.
    pub padding: u32,
}

/// What a launch of `norm` is given. Passes of a row in pieces: 0 (of layer alone), 1, 2; two word pairs a piece.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct NormArgs {
    /// Which rows.
    pub rows: Rows,
    /// x, out.
    pub views: [View; 2],
    /// A vector of a row's length: its `inner` alone counts.
    pub weight: View,
    /// Another.
    pub bias: View,
    /// Added under the root.
    pub epsilon: f32,
    /// 1: mean and variance; 0: root mean square.
    pub layer: u32,
}

/// What a launch of `softmax` is given. Passes of a row in pieces: 0, 1; two word pairs a piece.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct SoftmaxArgs {
    /// Which rows.
    pub rows: Rows,
    /// x, out.
    pub views: [View; 2],
    /// Factor of the input.
    pub scale: f32,
    /// Nothing.
    pub padding: u32,
}

/// What a launch of `reduce` is given. Rows may be empty. Passes of a row in pieces: 0 over the pieces, 1 with
/// `piece_count` 1 and `first_piece` 0; one word pair a piece.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ReduceArgs {
    /// Which rows.
    pub rows: Rows,
    /// x; out, which has no innermost axis.
    pub views: [View; 2],
    /// Number of the function in `ReduceFn`.
    pub function: u32,
    /// Nothing.
    pub padding: u32,
}

const _: () = assert!(size_of::<NormArgs>() == 96 + 4 * 64 + 8);
const _: () = assert!(size_of::<SoftmaxArgs>() == 232 && size_of::<ReduceArgs>() == 232);
const _: () = assert!(size_of::<CopyArgs>() == 200 && size_of::<MapArgs>() == 280);

/// Lanes that a row may have.
const LANES: [u32; 3] = [32, 256, 1024];
/// Elements that a lane holds.
const HELD: u32 = 16;

impl Streaming {
    /// Every row, those of a file side by side.
    pub fn all() -> Vec<Self> {
        use Streaming::*;
        let mut all: Vec<Self> = [1, 2, 4].map(Copy).into();
        all.extend([Map(4), Map(8), MapIntegers]);
        all.extend([Norm, Softmax, Reduce].iter().flat_map(|op| LANES.map(op)));
        all.push(ReduceAcross);
        all
    }

    /// Name of the op and of its source.
    pub fn op(&self) -> &'static str {
        self.names()[0]
    }

    /// Lanes of a row of `n` elements, and with it how the row is added.
    pub fn lanes(n: u64) -> u32 {
        LANES.into_iter().find(|lanes| n <= u64::from(lanes * HELD)).unwrap_or(LANES[2])
    }

    /// Elements that a thread moves at once, where units are vectors of a [`Range`].
    pub fn vector(&self) -> u32 {
        match self {
            Self::Copy(width) => 16 / width,
            Self::Map(vector) => *vector,
            _ => 4,
        }
    }

    /// The most elements of a row, or of a piece of it, where units are [`Rows`].
    pub fn piece(&self) -> u32 {
        match self {
            Self::Norm(lanes) | Self::Softmax(lanes) | Self::Reduce(lanes) => lanes * HELD,
            _ => 128,
        }
    }

    /// Words of 32 bits that are kept of a piece from pass to pass.
    pub fn state_words(&self) -> u32 {
        match self {
            Self::Norm(_) | Self::Softmax(_) => 4,
            Self::Reduce(_) | Self::ReduceAcross => 2,
            _ => 0,
        }
    }

    /// Blocks of a launch of rows.
    pub fn blocks(&self, rows: &Rows) -> u64 {
        let pieces = u64::from(rows.piece_count);
        match self {
            Self::ReduceAcross => rows.count.div_ceil(256) * pieces,
            Self::Norm(32) | Self::Softmax(32) | Self::Reduce(32) => {
                (rows.count * pieces).div_ceil(8)
            }
            _ => rows.count * pieces,
        }
    }

    /// Threads of a block.
    pub(crate) fn threads(&self) -> u32 {
        match self {
            Self::Norm(lanes) | Self::Softmax(lanes) | Self::Reduce(lanes) => (*lanes).max(256),
            _ => 256,
        }
    }

    /// Bytes of shared memory of a block: a word pair of each warp, where several meet.
    pub(crate) fn shared_bytes(&self) -> u32 {
        match self {
            Self::Norm(lanes) | Self::Softmax(lanes) | Self::Reduce(lanes) if *lanes > 32 => {
                lanes / 32 * 8
            }
            _ => 0,
        }
    }

    /// The op, the struct of its launches, and its function.
    fn names(&self) -> [&'static str; 3] {
        match self {
            Self::Copy(_) => ["copy", "CopyArgs", "copy::run"],
            Self::Map(_) | Self::MapIntegers => ["map", "MapArgs", "map::run"],
            Self::Norm(_) => ["norm", "NormArgs", "norm_forward::run"],
            Self::Softmax(_) => ["softmax", "SoftmaxArgs", "softmax::run"],
            Self::Reduce(_) => ["reduce", "ReduceArgs", "reduce::run"],
            Self::ReduceAcross => ["reduce", "ReduceArgs", "reduce::run_across"],
        }
    }

    pub(crate) fn key(&self) -> String {
        let op = self.op();
        match self {
            Self::Copy(n) | Self::Map(n) => format!("{op}_{n}"),
            Self::Norm(n) | Self::Softmax(n) | Self::Reduce(n) => format!("{op}_{n}"),
            Self::MapIntegers => "map_integers".into(),
            Self::ReduceAcross => "reduce_across".into(),
        }
    }

    pub(crate) fn file(&self) -> &'static str {
        match self.op() {
            "copy" => "cuda/copy.cu",
            "map" => "cuda/map.cu",
            "norm" => "cuda/norm.cu",
            "softmax" => "cuda/softmax.cu",
            _ => "cuda/reduce.cu",
        }
    }

    pub(crate) fn template(&self) -> (&'static str, String, &'static str) {
        let shape = match self {
            Self::Copy(width) => format!("copy::Shape<{width}>"),
            Self::Map(n) => format!("map::Shape<{n}, false>"),
            Self::MapIntegers => "map::Shape<4, true>".into(),
            Self::Norm(n) | Self::Softmax(n) | Self::Reduce(n) => format!("RowShape<{n}>"),
            Self::ReduceAcross => "reduce::Across".into(),
        };
        let [_, args, run] = self.names();
        (args, shape, run)
    }
}
