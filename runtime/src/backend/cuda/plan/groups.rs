//! Ops that go along rows: groups of rows, each of them in one piece, or in pieces that several passes take. A group in
//! passes is a tile of few bytes, so that the later passes find them near.

use super::chain::{self, Pass};
use super::streaming::{Cut, Item, RUN_NS, moved};
use super::walk::{Axis, OPERANDS, Walk};
use super::{Class, LAUNCH_NS};
use crate::op::{CheckedOp, NormKind, Op, QuantizeFormat};
use leasehold_kernels::Streaming;

/// Nanoseconds of a pass over the rows of a tile.
const NEAR_NS: u64 = 30_000;
/// Operations of a lane beside those of its elements.
const BEGIN: u64 = 100;
/// Rows of fewer elements are a lane's each in `reduce`; so are rows that lie side by side, up to so many elements.
const FEW: u64 = 32;
const ACROSS_MOST: u64 = 1 << 17;
/// Bytes of a word that is left for the next pass.
const WORD: u64 = 4;
/// Nanoseconds of a load that nothing hides.
const LOAD_NS: u64 = 100;

/// What the items of a pass are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Over {
    /// The first piece of the first row.
    First,
    /// Pieces of every row, row by row.
    Pieces,
    /// Rows, by the first group of lanes that each has.
    Rows,
    /// Pieces of all rows at once, one after another.
    Turns,
}

/// A pass of the op: its number, and what it goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Stage {
    pub(in super::super) number: u32,
    pub(in super::super) over: Over,
}

/// How an op goes along rows.
#[derive(Clone, Debug)]
pub(in super::super) struct Groups {
    pub(in super::super) row: Streaming,
    /// The operands that are walked.
    pub(in super::super) names: [&'static str; OPERANDS],
    pub(in super::super) outer: Walk,
    /// The axis of a row.
    pub(in super::super) inner: Axis,
    pub(in super::super) rows: u64,
    /// Pieces of a row.
    pub(in super::super) pieces: u32,
    /// Rows of a tile of the plan.
    pub(in super::super) per_tile: u64,
    /// Passes of a tile; none where one launch does all.
    pub(in super::super) stages: Vec<Stage>,
    /// Items of a link.
    step: u64,
    unit_ns: u64,
}

impl Groups {
    /// The way of an op; `None` where 32 bits do not count the pieces of a row.
    pub(super) fn of(op: &CheckedOp, class: &Class) -> Option<Self> {
        let (names, effort) = operands(op.op())?;
        let is_whole = is_tensor(op.op());
        let (outer, inner) = axes(op, names, is_whole)?;
        let (row, outer) = row(op.op(), outer, &inner);
        // What has no element has nothing to do, but for those that say so of a row.
        let speaks = matches!(op.op(), Op::Reduce(_) | Op::Quantize(_));
        let rows = if inner.size == 0 && !speaks { 0 } else { outer.elements() };
        let pieces = u32::try_from(inner.size.div_ceil(row.piece().into()).max(1)).ok()?;
        let stages = if pieces > 1 || is_whole { stages(op.op()) } else { Vec::new() };
        let (per_tile, step, unit_ns) = (1, 1, LAUNCH_NS);
        let groups =
            Self { row, names, outer, inner, rows, pieces, per_tile, stages, step, unit_ns };
        Some(groups.dealt(op, effort, class))
    }

    /// With tiles and links.
    fn dealt(mut self, op: &CheckedOp, effort: u64, class: &Class) -> Self {
        let (rows, pieces) = (self.rows, u64::from(self.pieces));
        let item = self.item(op, effort);
        if self.stages.is_empty() {
            self.per_tile = item.step(rows, RUN_NS, class);
            self.unit_ns = item.ns(self.per_tile.min(rows), class);
            return self;
        }
        let is_whole = is_tensor(op.op());
        let near = item.step(rows.saturating_mul(pieces), NEAR_NS, class) / pieces;
        self.per_tile = match near.max(1) {
            _ if is_whole => rows,
            near => rows.div_ceil(rows.div_ceil(near).max(1)).max(1),
        };
        let all = self.per_tile.saturating_mul(pieces);
        if self.stages[0].over == Over::Turns {
            let turn = item.ns(self.per_tile, class);
            // What one piece leaves for the next is the state of a tile of several links.
            self.step = (RUN_NS / turn.max(1)).clamp(1, pieces - 1);
            self.unit_ns = self.step.saturating_mul(turn);
            return self;
        }
        // Links cut no row of several, but for those of a whole tensor.
        let is_cut = is_whole || self.per_tile == 1;
        self.step = if is_cut { item.step(all, RUN_NS, class) } else { all };
        self.unit_ns = item.ns(self.step, class).max(self.ends(class));
        self
    }

    /// What a pass over rows takes, which finds all pieces of each.
    fn ends(&self, class: &Class) -> u64 {
        if self.stages.iter().all(|stage| stage.over != Over::Rows) {
            return 0;
        }
        let pieces = u64::from(self.pieces);
        let (operations, per_block, waits) = match self.row {
            Streaming::ReduceAcross => (pieces * 8 + BEGIN, 256, pieces * LOAD_NS),
            _ => (pieces * 8 + lanes(&self.row) * BEGIN, 1, 0),
        };
        let item = Item { bytes: pieces * 8, operations, per_block, waits };
        item.ns(self.per_tile, class).saturating_add(self.waits())
    }

    /// Nanoseconds until 32 lanes have found what all pieces of a row left.
    fn waits(&self) -> u64 {
        u64::from(self.pieces).div_ceil(32) * LOAD_NS
    }

    /// What a row takes, or a piece of one.
    fn item(&self, op: &CheckedOp, effort: u64) -> Item {
        let elements = self.inner.size.min(self.row.piece().into());
        let mut along = self.inner;
        if self.row == Streaming::ReduceAcross {
            // Beside what a lane reads lies what its neighbour does.
            along.steps[0] = along.steps[0].min(1);
        }
        let of_operand =
            |(i, name): (usize, &&str)| Some(moved(op.spec(name)?, &along, i, elements));
        let walked: u64 = self.names.iter().enumerate().filter_map(of_operand).sum();
        let beside = ["weight", "bias"].into_iter().filter_map(|name| op.spec(name));
        let bytes = walked + beside.map(|spec| elements * spec.dtype.size()).sum::<u64>();
        let lanes = lanes(&self.row);
        // Every pass but the first finds what all pieces left.
        let found = u64::from(self.pieces) * 8;
        let is_met = match self.row {
            // Rows that end in a pass of their own find it there.
            Streaming::TopK(_) | Streaming::ReduceAcross => false,
            Streaming::Reduce(_) | Streaming::ArgMax(_) => false,
            _ => !self.is_whole(),
        };
        let (found, waits) = if is_met && self.pieces > 1 { (found, self.waits()) } else { (0, 0) };
        Item {
            bytes: bytes + found,
            operations: elements * effort + lanes * BEGIN,
            per_block: match lanes {
                1 => 256,
                32 => 8,
                _ => 1,
            },
            waits,
        }
    }

    pub(super) fn cut(&self) -> Cut {
        let tiles = self.rows.div_ceil(self.per_tile.max(1));
        let links = if self.is_chain() { chain::links(&self.passes(self.per_tile)) } else { 1 };
        let state_bytes = match links {
            1 => 0,
            _ if self.is_whole() => WORD,
            _ => self.state_bytes(self.per_tile),
        };
        Cut { row: self.row, tiles, links, unit_ns: self.unit_ns, state_bytes }
    }

    /// Bytes that so many rows leave for the next pass.
    pub(in super::super) fn state_bytes(&self, rows: u64) -> u64 {
        let of_row = match self.row {
            Streaming::TopK(_) => 1,
            _ => u64::from(self.pieces),
        };
        WORD * u64::from(self.row.state_words()) * of_row * rows
    }

    /// Whether rows are in passes.
    pub(in super::super) fn is_chain(&self) -> bool {
        !self.stages.is_empty()
    }

    /// Whether rows are parts of a whole that has one scale.
    pub(in super::super) fn is_whole(&self) -> bool {
        self.stages.iter().any(|stage| stage.over == Over::First)
    }

    /// The passes of a tile of so many rows, one a stage.
    pub(in super::super) fn passes(&self, rows: u64) -> Vec<Pass> {
        let pieces = u64::from(self.pieces);
        let pass = |stage: &Stage| match stage.over {
            Over::First => Pass { items: 1, step: 1 },
            Over::Pieces => Pass { items: rows * pieces, step: self.step },
            Over::Rows => Pass { items: rows, step: rows.max(1) },
            Over::Turns => Pass { items: pieces, step: self.step },
        };
        self.stages.iter().map(pass).collect()
    }
}

/// The operands that an op along rows walks, an output among the first two, and operations of an element.
fn operands(op: &Op) -> Option<([&'static str; OPERANDS], u64)> {
    Some(match op {
        Op::Norm(_) => (["x", "out", "", ""], 24),
        Op::Softmax(_) => (["x", "out", "", ""], 60),
        Op::Reduce(_) => (["x", "out", "", ""], 12),
        Op::ArgMax(_) => (["x", "index", "", ""], 16),
        // Found bit by bit.
        Op::TopK(_) => (["x", "value", "index", ""], 300),
        Op::NormBackward(_) => (["x", "d_out", "d_x", "terms"], 60),
        Op::Quantize(_) => (["x", "out", "scale", ""], 60),
        _ => return None,
    })
}

/// Whether rows are parts of a whole that has one scale.
fn is_tensor(op: &Op) -> bool {
    matches!(op, Op::Quantize(quantize) if quantize.format == QuantizeFormat::Tensor)
}

/// The axes of rows, and that along them.
fn axes(op: &CheckedOp, names: [&'static str; OPERANDS], is_whole: bool) -> Option<(Walk, Axis)> {
    let shape = op.spec(names[0])?.layout.shape();
    let last = shape.len().checked_sub(1)?;
    let all = names.map(|name| op.spec(name).map_or(&[][..], |spec| spec.layout.strides()));
    if is_whole {
        if shape.contains(&0) {
            // A tensor of nothing has a scale all the same.
            return Some((Walk(Vec::new()), Axis { size: 0, ..Axis::ONE }));
        }
        let walk = Walk::new(shape, [all[0], all[1], &[], &[]]);
        return Some(walk.sorted(1).merged().split());
    }
    let outer = Walk::new(&shape[..last], all).sorted(1).merged();
    let steps = all.map(|strides| strides.get(last).copied().unwrap_or(0));
    Some((outer, Axis { size: shape[last], steps }))
}

/// The row of the table for rows of an axis; rows that a lane each takes have their neighbours innermost.
fn row(op: &Op, outer: Walk, inner: &Axis) -> (Streaming, Walk) {
    let (n, lanes) = (inner.size, Streaming::lanes(inner.size));
    let row = match op {
        Op::Norm(_) => Streaming::Norm(lanes),
        Op::NormBackward(_) => Streaming::NormBackward(Streaming::lanes_backward(n)),
        Op::Softmax(_) => Streaming::Softmax(lanes),
        Op::ArgMax(_) => Streaming::ArgMax(lanes),
        Op::TopK(_) => Streaming::TopK(lanes),
        Op::Quantize(_) => Streaming::QuantizeRows(lanes),
        _ => {
            let beside = outer.0.iter().position(|axis| axis.steps[0] == 1);
            let beside = beside.filter(|_| inner.steps[0] != 1 && n <= ACROSS_MOST);
            return match beside {
                Some(beside) => (Streaming::ReduceAcross, outer.with_last(beside)),
                None if n < FEW => (Streaming::ReduceAcross, outer),
                None => (Streaming::Reduce(lanes), outer),
            };
        }
    };
    (row, outer)
}

/// Lanes of a row.
fn lanes(row: &Streaming) -> u64 {
    match row {
        Streaming::ReduceAcross => 1,
        row => u64::from(row.piece()) / 16,
    }
}

/// The passes of rows in pieces.
fn stages(op: &Op) -> Vec<Stage> {
    let pieces = |numbers: std::ops::Range<u32>| {
        numbers.map(|number| Stage { number, over: Over::Pieces }).collect::<Vec<_>>()
    };
    let of_kind = |kind, end| pieces(u32::from(kind != NormKind::Layer)..end);
    let then_rows = || vec![pieces(0..1)[0], Stage { number: 1, over: Over::Rows }];
    match op {
        Op::Norm(norm) => of_kind(norm.kind, 3),
        Op::NormBackward(norm) => of_kind(norm.kind, 4),
        Op::Reduce(_) | Op::ArgMax(_) => then_rows(),
        Op::TopK(_) => vec![Stage { number: 0, over: Over::Turns }],
        op if is_tensor(op) => {
            let first = Stage { number: 0, over: Over::First };
            [first].into_iter().chain(pieces(1..3)).collect()
        }
        _ => pieces(0..2),
    }
}
