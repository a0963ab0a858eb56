//! Ops that go element by element: runs of vectors along the innermost axis, or of square tiles where two axes matter.

use super::Class;
use super::streaming::{Cut, Item, RUN_NS, SECTOR, moved};
use super::walk::{Axis, OPERANDS, Walk};
use crate::op::{CheckedOp, Op, Quantize, QuantizeFormat, Rope, Spec};
use leasehold_kernels::{Range, RopeArgs, Streaming};

/// Operations of a vector beside those of its elements: where it begins.
const BEGIN: u64 = 100;

/// How an op goes by elements.
#[derive(Clone, Debug)]
pub(in super::super) struct Elements {
    pub(in super::super) row: Streaming,
    /// The operands that are walked.
    pub(in super::super) names: [&'static str; OPERANDS],
    /// All axes but the innermost; the last of them is that of rows where items are square tiles.
    pub(in super::super) outer: Walk,
    pub(in super::super) inner: Axis,
    /// Vectors or tiles, and those of a tile of the plan.
    pub(in super::super) items: u64,
    pub(in super::super) step: u64,
    unit_ns: u64,
}

impl Elements {
    /// The ways of an op: of a copy several.
    pub(super) fn all(op: &CheckedOp, class: &Class) -> Vec<Self> {
        let Some(first) = op.specs().first() else { return Vec::new() };
        let width = first.dtype.size() as u32;
        let made = match op.op() {
            Op::Copy(_) => {
                let walk = alike(op, ["x", "out", "", ""]);
                let turned = walk.as_ref().and_then(|walk| turned(walk, width, op, class));
                let plain = walk.map(|walk| Self::new(Streaming::Copy(width), walk, 2, op, class));
                return plain.into_iter().chain(turned).collect();
            }
            Op::Map(_) => map(op, class),
            Op::Gather(_) => gather(op, width, class),
            Op::Rope(rope) => self::rope(op, rope, class),
            Op::Quantize(quantize) if quantize.inverse => dequantize(op, quantize, class),
            Op::Quantize(quantize) => cells(op, quantize, class),
            _ => None,
        };
        made.into_iter().collect()
    }

    /// Of walked operands by their names.
    fn new(
        row: Streaming,
        (names, walk): ([&'static str; OPERANDS], Walk),
        operations: u64,
        op: &CheckedOp,
        class: &Class,
    ) -> Self {
        let (outer, inner) = walk.split();
        let vector = u64::from(row.vector());
        let (items, elements, per_block) = match side(&row) {
            None => {
                let items = outer.elements().saturating_mul(inner.size.div_ceil(vector));
                (items, vector, Range::PER_BLOCK)
            }
            Some(side) => {
                let (outside, rows) = outer.clone().split();
                let across = inner.size.div_ceil(side);
                let tiles = rows.size.div_ceil(side).saturating_mul(across);
                (outside.elements().saturating_mul(tiles), side * side, 1)
            }
        };
        let bytes = names.iter().enumerate().filter_map(|(i, name)| {
            // Along either axis of a square something is dense.
            let along = if side(&row).is_some() { dense(&inner, i) } else { inner };
            Some(moved(op.spec(name)?, &along, i, elements))
        });
        // Elements that each have an index of their own lie anywhere.
        let is_scattered = matches!(row, Streaming::Gather(_)) && inner.steps[1] != 0;
        let anywhere = if is_scattered { elements * SECTOR } else { 0 };
        let (bytes, operations) = (bytes.sum::<u64>() + anywhere, elements * operations + BEGIN);
        let item = Item { bytes, operations, per_block, waits: 0 };
        let step = item.step(items, RUN_NS, class);
        let unit_ns = item.ns(step.min(items), class);
        Self { row, names, outer, inner, items, step, unit_ns }
    }

    pub(super) fn cut(&self) -> Cut {
        let tiles = self.items.div_ceil(self.step);
        Cut { row: self.row, tiles, links: 1, unit_ns: self.unit_ns, state_bytes: 0 }
    }
}

/// Elements along each axis of a square tile, where items are such.
pub(in super::super) fn side(row: &Streaming) -> Option<u64> {
    match row {
        Streaming::CopyTurned(_) => Some(64),
        Streaming::QuantizeCells => Some(128),
        _ => None,
    }
}

/// An axis as an operand that is dense along another steps through it.
fn dense(axis: &Axis, operand: usize) -> Axis {
    let mut axis = *axis;
    axis.steps[operand] = 1;
    axis
}

/// The axes of operands of one shape, as the output, which is called so, lies.
fn alike(
    op: &CheckedOp,
    names: [&'static str; OPERANDS],
) -> Option<([&'static str; OPERANDS], Walk)> {
    let out = op.spec("out")?;
    let strides = names.map(|name| op.spec(name).map_or(&[][..], strides));
    let place = names.iter().position(|name| *name == "out")?;
    Some((names, Walk::new(out.layout.shape(), strides).sorted(place).merged()))
}

fn strides(spec: &Spec) -> &[u64] {
    spec.layout.strides()
}

/// The way of a copy whose input is dense along another axis than its output is.
fn turned(
    (names, walk): &([&'static str; OPERANDS], Walk),
    width: u32,
    op: &CheckedOp,
    class: &Class,
) -> Option<Elements> {
    let columns = walk.0.len().checked_sub(1)?;
    let rows = walk.0.iter().position(|axis| axis.steps[0] == 1).filter(|&rows| rows < columns)?;
    let turned = walk.clone().with_last(rows);
    // The rows come last but one.
    let walk = turned.with_last(columns - 1);
    Some(Elements::new(Streaming::CopyTurned(width), (*names, walk), 4, op, class))
}

fn map(op: &CheckedOp, class: &Class) -> Option<Elements> {
    let specs = op.specs();
    let row = match specs {
        _ if !op.spec("out")?.dtype.is_float() => Streaming::MapIntegers,
        _ if specs.iter().all(|spec| spec.dtype.size() == 2) => Streaming::Map(8),
        _ => Streaming::Map(4),
    };
    Some(Elements::new(row, alike(op, ["x", "y", "out", ""])?, 40, op, class))
}

fn gather(op: &CheckedOp, width: u32, class: &Class) -> Option<Elements> {
    let (table, index, out) = (op.spec("table")?, op.spec("index")?, op.spec("out")?);
    let rank = index.layout.rank();
    let (of_entries, of_columns) = strides(out).split_at_checked(rank)?;
    let entries = Walk::new(index.layout.shape(), [&[], strides(index), of_entries, &[]]);
    let columns = table.layout.shape().get(1..)?;
    let columns = Walk::new(columns, [strides(table).get(1..)?, &[], of_columns, &[]]);
    let mut walk = entries.then(columns).sorted(2).merged();
    // Elements beside each other are best of one entry.
    let innermost = walk.0.last().is_some_and(|axis| axis.steps[1] != 0);
    let column = walk.0.iter().rposition(|axis| axis.steps[0] != 0);
    if let (true, Some(column)) = (innermost, column) {
        walk = walk.with_last(column);
    }
    let names = ["table", "index", "out", ""];
    Some(Elements::new(Streaming::Gather(width), (names, walk), 6, op, class))
}

fn rope(op: &CheckedOp, rope: &Rope, class: &Class) -> Option<Elements> {
    let (x, position, out) = (op.spec("x")?, op.spec("position")?, op.spec("out")?);
    let (&[batch, heads, rows, d], &[of_batch, of_rows]) = (&**x.layout.shape(), strides(position))
    else {
        return None;
    };
    let along = [of_batch, 0, of_rows];
    let outer = Walk::new(&[batch, heads, rows], [strides(x), &along, strides(out), &[]]);
    let steps = [strides(x)[3], 0, strides(out)[3], 0];
    let size = if d == 0 { 0 } else { RopeArgs::columns(d, rope.dims) };
    let walk = outer.sorted(2).merged().then(Walk(vec![Axis { size, steps }]));
    let names = ["x", "position", "out", ""];
    // A vector is of pairs.
    Some(Elements::new(Streaming::Rope, (names, walk), 120, op, class))
}

/// Columns are the last axis, along which cells are cut; where cells are blocks, rows are the last but one.
fn dequantize(op: &CheckedOp, quantize: &Quantize, class: &Class) -> Option<Elements> {
    let (x, scale, out) = (op.spec("x")?, op.spec("scale")?, op.spec("out")?);
    let names = ["x", "scale", "min", "out"];
    let shape = out.layout.shape();
    let last = shape.len().checked_sub(1)?;
    let min = op.spec("min").map_or(&[][..], strides);
    let all = [strides(x), strides(scale), min, strides(out)];
    let step = |at: usize| all.map(|s| s.get(at).copied().unwrap_or(0));
    let walk = match quantize.format {
        QuantizeFormat::Tensor => Walk::new(shape, [all[0], &[], &[], all[3]]).sorted(3).merged(),
        QuantizeFormat::Block128x128 => {
            let rows = last.checked_sub(1)?;
            let mut steps = step(rows);
            steps[1] = 0;
            let outer = Walk::new(&shape[..rows], all).merged();
            let rows = Axis { size: shape[rows], steps };
            outer.then(Walk(vec![rows, Axis { size: shape[last], steps: step(last) }]))
        }
        _ => {
            let outer = Walk::new(&shape[..last], all).sorted(3).merged();
            outer.then(Walk(vec![Axis { size: shape[last], steps: step(last) }]))
        }
    };
    Some(Elements::new(Streaming::Dequantize, (names, walk), 12, op, class))
}

/// Scales of cells of a row or of a matrix: tiles of 128 by 128.
fn cells(op: &CheckedOp, quantize: &Quantize, class: &Class) -> Option<Elements> {
    let names = ["x", "out", "scale", "min"];
    let shape = op.spec("x")?.layout.shape();
    let all = names.map(|name| op.spec(name).map_or(&[][..], strides));
    let last = shape.len().checked_sub(1)?;
    let axis =
        |at: usize| Axis { size: shape[at], steps: all.map(|s| s.get(at).map_or(0, |&n| n)) };
    let outer = match quantize.format {
        QuantizeFormat::Block128x128 => {
            let rows = last.checked_sub(1)?;
            Walk::new(&shape[..rows], all).merged().then(Walk(vec![axis(rows)]))
        }
        // Rows of any axes, as far as they lie alike.
        _ => Walk::new(&shape[..last], all).merged(),
    };
    let outer = if outer.0.is_empty() { Walk(vec![Axis::ONE]) } else { outer };
    let walk = outer.then(Walk(vec![axis(last)]));
    Some(Elements::new(Streaming::QuantizeCells, (names, walk), 40, op, class))
}
