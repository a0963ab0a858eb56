//! Scatters: entries that claim where they land before they set it, in passes; and sums, for which runs of columns take
//! all entries in their order.

use super::chain::{self, Pass};
use super::streaming::{Cut, Item, RUN_NS, moved};
use super::walk::{Axis, OPERANDS, Walk};
use super::{Class, LAUNCH_NS};
use crate::op::{CheckedOp, Scatter, ScatterFn, Spec};
use leasehold_kernels::{Range, Streaming};

/// Entries that a claim's word tells apart.
const RUN: u64 = 1 << 31;
/// Runs of entries that an op has at most.
const RUNS: u64 = 1 << 10;
/// Bytes that move for an index and a claim, which lie anywhere.
const CLAIM: u64 = 96;
/// Operations of a vector beside those of its elements.
const BEGIN: u64 = 150;

/// Nanoseconds of an entry that is added, of all threads of a block, and operations of a vector of columns for it.
const ENTRY_NS: u64 = 100;
const ENTRY: u64 = 64 * 40;

/// How entries set or append.
#[derive(Clone, Debug)]
pub(in super::super) struct Landing {
    pub(in super::super) row: Streaming,
    /// The operands that are walked.
    pub(in super::super) names: [&'static str; OPERANDS],
    /// Axes of the entries, then those of an entry but the innermost.
    pub(in super::super) entries: Walk,
    pub(in super::super) outer: Walk,
    pub(in super::super) inner: Axis,
    /// Steps of entries, and of vectors.
    steps: [u64; 2],
    unit_ns: u64,
    state_bytes: u64,
}

impl Landing {
    /// The way of an op.
    pub(super) fn of(op: &CheckedOp, scatter: &Scatter, class: &Class) -> Option<Self> {
        let (x, out) = (op.spec("x")?, op.spec("out")?);
        let (names, entries, columns, claims) = match scatter.function {
            ScatterFn::Append => appended(op, x, out)?,
            _ => {
                let (entries, columns) = placed(op, x, out)?;
                let claims = out.layout.shape().first().copied()?;
                (["x", "out", "index", ""], entries.merged(), columns, claims)
            }
        };
        let (outer, inner) = columns.sorted(1).merged().split();
        let row = Streaming::Scatter(x.dtype.size() as u32);
        let vector = u64::from(row.vector());
        let per_block = Range::PER_BLOCK;
        let claim = Item { bytes: CLAIM, operations: BEGIN, per_block, waits: 0 };
        let bytes = moved(x, &inner, 0, vector) + moved(out, &inner, 1, vector) + CLAIM;
        let operations = BEGIN + 4 * vector;
        let set = Item { bytes, operations, per_block, waits: 0 };
        let mut landing = Self {
            row,
            names,
            entries,
            outer,
            inner,
            steps: [1; 2],
            unit_ns: LAUNCH_NS,
            state_bytes: claims.saturating_mul(4),
        };
        let count = landing.entries.elements().min(RUN);
        let items = [count, count.saturating_mul(landing.vectors())];
        landing.steps = [claim.step(items[0], RUN_NS, class), set.step(items[1], RUN_NS, class)];
        landing.unit_ns = claim.ns(landing.steps[0], class).max(set.ns(landing.steps[1], class));
        Some(landing)
    }

    /// Rows of an entry along the innermost axis.
    pub(in super::super) fn per_entry(&self) -> u64 {
        self.outer.elements()
    }

    /// Vectors of an entry.
    fn vectors(&self) -> u64 {
        self.per_entry().saturating_mul(self.inner.size.div_ceil(self.row.vector().into()))
    }

    /// Three passes for each run of entries: claims cleared, claimed, and kept by those that set.
    ///
    /// Where an index changes between them an entry meets a claim that its run did not clear: zeros, or what the same owner
    /// left, as all states are. No address comes of a claim: the entry is then dropped, or another that landed there stays.
    pub(in super::super) fn passes(&self) -> Vec<Pass> {
        let count = self.entries.elements();
        let runs = (0..count).step_by(RUN as usize).map(|from| RUN.min(count - from));
        let [entries, vectors] = self.steps;
        let passes = |run: u64| {
            let claims = Pass { items: run, step: entries };
            [claims, claims, Pass { items: run * self.vectors(), step: vectors }]
        };
        runs.flat_map(passes).collect()
    }

    /// Number and first entry of a pass.
    pub(in super::super) fn number(&self, place: usize) -> (u32, u64) {
        (place as u32 % 3, place as u64 / 3 * RUN)
    }

    /// First of the items of a pass among those of all runs.
    pub(in super::super) fn first(&self, place: usize) -> u64 {
        let (number, entry) = self.number(place);
        if number < 2 { entry } else { entry * self.vectors() }
    }

    pub(super) fn cut(&self) -> Cut {
        let is_none = self.entries.elements() == 0 || self.vectors() == 0;
        let (tiles, row) = (u64::from(!is_none), self.row);
        if self.entries.elements() > RUN * RUNS {
            // The passes of so many are not even counted.
            return Cut { row, tiles, links: 1, unit_ns: u64::MAX, state_bytes: 0 };
        }
        let links = if is_none { 1 } else { chain::links(&self.passes()) };
        let unit_ns = self.unit_ns;
        let state_bytes = if is_none { 0 } else { self.state_bytes };
        Cut { row, tiles, links, unit_ns, state_bytes }
    }
}

/// Axes of entries and of one's columns, where an index places them: strides of x, out and the index.
fn placed(op: &CheckedOp, x: &Spec, out: &Spec) -> Option<(Walk, Walk)> {
    let index = op.spec("index")?;
    let (x, out_steps) = (x.layout.strides(), out.layout.strides());
    let (of_entries, of_columns) = x.split_at_checked(index.layout.rank())?;
    let entries = [of_entries, &[], index.layout.strides(), &[]];
    let entries = Walk::new(index.layout.shape(), entries);
    let columns = [of_columns, out_steps.get(1..)?, &[], &[]];
    Some((entries, Walk::new(out.layout.shape().get(1..)?, columns)))
}

/// The same where pages place rows of batch entries, which the kernel counts as they are; and the keys of all pages.
fn appended(
    op: &CheckedOp,
    x: &Spec,
    out: &Spec,
) -> Option<([&'static str; OPERANDS], Walk, Walk, u64)> {
    let (pages, lens) = (op.spec("pages")?, op.spec("lens")?);
    let (&[batch, heads, rows, d], &[b, h, r, c]) = (&**x.layout.shape(), &**x.layout.strides())
    else {
        return None;
    };
    let (&[count, _, page, _], &[_, to_head, _, to_column]) =
        (&**out.layout.shape(), &**out.layout.strides())
    else {
        return None;
    };
    let of_pages = [pages.layout.strides().first().copied()?, 0];
    let of_lens = [lens.layout.strides().first().copied()?, 0];
    let entries = Walk::new(&[batch, rows], [&[b, r], &[], &of_pages, &of_lens]);
    let columns = Walk::new(&[heads, d], [&[h, c], &[to_head, to_column], &[], &[]]);
    Some((["x", "out", "pages", "lens"], entries, columns, count.saturating_mul(page)))
}

/// How entries add.
#[derive(Clone, Debug)]
pub(in super::super) struct Adds {
    /// Axes of the entries.
    pub(in super::super) entries: Walk,
    /// Axes of an entry but the innermost.
    pub(in super::super) outer: Walk,
    pub(in super::super) inner: Axis,
    /// Vectors of columns, those of a tile of the plan, and entries of a link.
    pub(in super::super) vectors: u64,
    pub(in super::super) per_tile: u64,
    pub(in super::super) step: u64,
    unit_ns: u64,
}

impl Adds {
    /// The operands that are walked.
    pub(in super::super) const NAMES: [&'static str; OPERANDS] = ["x", "out", "index", ""];

    /// The way of an op.
    pub(super) fn of(op: &CheckedOp, class: &Class) -> Option<Self> {
        let (entries, columns) = placed(op, op.spec("x")?, op.spec("out")?)?;
        let (outer, inner) = columns.sorted(1).merged().split();
        let entries = entries.merged();
        let vector = u64::from(Streaming::ScatterAdd.vector());
        let vectors = outer.elements().saturating_mul(inner.size.div_ceil(vector));
        // A launch of so many vectors is as long as one of a block: all wait for the same loads.
        let item = Item { bytes: 0, operations: ENTRY, per_block: 4, waits: 0 };
        let per_tile = item.step(vectors, ENTRY_NS, class);
        let step = RUN_NS / ENTRY_NS;
        let unit_ns = LAUNCH_NS + step.min(entries.elements()) * 2 * ENTRY_NS;
        Some(Self { entries, outer, inner, vectors, per_tile, step, unit_ns })
    }

    pub(super) fn cut(&self) -> Cut {
        let count = self.entries.elements();
        let tiles = if count == 0 { 0 } else { self.vectors.div_ceil(self.per_tile) };
        let (links, unit_ns) = (count.div_ceil(self.step).max(1), self.unit_ns);
        Cut { row: Streaming::ScatterAdd, tiles, links, unit_ns, state_bytes: 0 }
    }
}
