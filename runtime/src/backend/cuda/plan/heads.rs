//! The geometry of attention and its gradients: what the operands and the descriptor say of rows, keys and heads, and whether the copy engine
//! can bring them.

use super::axis;
use crate::dtype::DType;
use crate::op::{CheckedOp, KeyValue, Lens, Scores, Spec};
use leasehold_kernels::{AttentionSm90, BoxMap};

/// Elements of 16 bytes.
const ALIGNED: u64 = 8;

/// The geometry of attention.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Heads {
    /// Batch entries, and the batch that Q and dense keys have an axis for: 1 where rows are packed.
    pub(in super::super) entries: u64,
    pub(in super::super) batch: u64,
    pub(in super::super) kv_heads: u64,
    /// Query heads of a key head.
    pub(in super::super) group: u64,
    /// Rows of Q, of all entries where they are packed, and the most that an entry has.
    pub(in super::super) rows: u64,
    pub(in super::super) most_rows: u64,
    /// Room for the keys of an entry, of all where they are packed; the most that an entry has, and what plans are made
    /// from: the same but for lengths of the host, which change from one step of a decode to the next.
    pub(in super::super) room: u64,
    pub(in super::super) keys: u64,
    pub(in super::super) reach: u64,
    pub(in super::super) d: u64,
    pub(in super::super) dv: u64,
    /// Whether rows lie one entry after another, and keys in pages.
    pub(in super::super) is_packed: bool,
    pub(in super::super) is_paged: bool,
    /// Whether counts lie in device memory.
    pub(in super::super) is_counted: bool,
}

impl Heads {
    /// The geometry; `None` for an op that lacks an operand, which no checked one does.
    pub(in super::super) fn of(
        op: &CheckedOp,
        scores: &Scores,
        key_value: KeyValue,
    ) -> Option<Self> {
        let (q, k, v) = (op.spec("q")?, op.spec("k")?, op.spec("v")?);
        let [d, rows, heads, batch] = [0, 1, 2, 3].map(|i| axis(q, i)[0]);
        let kv_heads = axis(k, 2)[0];
        let entries = match &scores.rows {
            Lens::Full => batch,
            Lens::Host(list) => list.len() as u64,
            Lens::Device { .. } => axis(op.spec("rows")?, 0)[0],
        };
        let room = match key_value {
            KeyValue::Dense => axis(k, 1)[0],
            KeyValue::Paged { page } => axis(op.spec("pages")?, 0)[0].saturating_mul(page.into()),
        };
        let lens = if scores.lens == Lens::Full { &scores.rows } else { &scores.lens };
        Some(Self {
            entries,
            batch,
            kv_heads,
            group: heads.checked_div(kv_heads).unwrap_or(1),
            rows,
            most_rows: most(&scores.rows, rows),
            room,
            keys: most(lens, room),
            reach: if lens.on_device() { most(lens, room) } else { room },
            d,
            dv: axis(v, 0)[0],
            is_packed: scores.rows != Lens::Full,
            is_paged: key_value != KeyValue::Dense,
            is_counted: scores.rows.on_device() || scores.lens.on_device(),
        })
    }

    /// Tiles of a key head, of an entry or where rows are packed of all: as many as there may be.
    pub(super) fn tiles_per_head(&self, rows: &Lens, tile: u64) -> u64 {
        let tiles = |rows: u64| rows.saturating_mul(self.group).div_ceil(tile);
        match rows {
            Lens::Full => tiles(self.rows),
            Lens::Host(list) => {
                let owned: u64 = list.iter().map(|&n| u64::from(n)).sum();
                let whole: u64 = list.iter().map(|&n| tiles(n.into())).sum();
                whole + tiles(self.rows.saturating_sub(owned))
            }
            // At most one partial tile an entry, and one of the rows that none owns.
            Lens::Device { .. } if self.rows > 0 => {
                self.rows.saturating_mul(self.group) / tile + self.entries + 1
            }
            Lens::Device { .. } => 0,
        }
    }

    /// Whether Q, K and V lie where copies of 16 bytes and the copy engine bring them for a row.
    pub(super) fn is_brought(&self, op: &CheckedOp, row: &AttentionSm90) -> bool {
        let whole = |n: u64| n > 0 && n.is_multiple_of(ALIGNED);
        let dense = |[n, step]: [u64; 2]| n <= 1 || step.is_multiple_of(ALIGNED);
        let queries = op.spec("q").is_some_and(|q| {
            axis(q, 0)[1] == 1
                && q.offset_class.is_multiple_of(16)
                && [1, 2, 3].iter().all(|&i| dense(axis(q, i)))
        });
        let has_keys = self.batch.min(self.kv_heads).min(self.room) > 0;
        // Queries are read also where there is no key.
        let keys = || !has_keys || self.maps(op, row, [0; 2]).is_some();
        !self.is_paged && whole(self.d) && whole(self.dv) && queries && keys()
    }

    /// What the copy engine is told of K and V at these addresses for a row; `None` where it cannot bring them.
    pub(in super::super) fn maps(
        &self,
        op: &CheckedOp,
        row: &AttentionSm90,
        at: [u64; 2],
    ) -> Option<[BoxMap; 2]> {
        let map = |spec: &Spec, columns, at| {
            let sizes = [self.batch, self.kv_heads, self.room, columns];
            Some(row.map(at, sizes, brought_strides(spec)?)).filter(BoxMap::is_valid)
        };
        Some([map(op.spec("k")?, self.d, at[0])?, map(op.spec("v")?, self.dv, at[1])?])
    }
}

/// The strides of batch, head and row that the copy engine is told of an operand; `None` where it lies as no map can say.
pub(super) fn brought_strides(spec: &Spec) -> Option<[u64; 3]> {
    // A stride that nothing follows is any valid one; one of 0 is no stride of the engine.
    let step = |[n, step]: [u64; 2]| match (n, step) {
        (..=1, _) => Some(ALIGNED),
        (_, 0) => None,
        (_, step) => Some(step),
    };
    let is_whole = axis(spec, 0)[1] == 1 && spec.offset_class.is_multiple_of(16);
    let [row, head, batch] = [1, 2, 3].map(|i| step(axis(spec, i)));
    Some([batch?, head?, row?]).filter(|_| is_whole)
}

/// The most of an entry's counts, of which there are at most `full`.
fn most(lens: &Lens, full: u64) -> u64 {
    match lens {
        Lens::Full => full,
        Lens::Host(list) => list.iter().max().map_or(0, |&n| u64::from(n)).min(full),
        Lens::Device { max } => full.min((*max).into()),
    }
}

/// The type that the rows of kernels multiply in; `None` where it is f32, of operands or of an output that would show that
/// weights are rounded to 16 bits.
pub(super) fn is_bf16(op: &CheckedOp) -> Option<bool> {
    let dtype = |name| op.spec(name).map(|spec| spec.dtype);
    match (dtype("q")?, dtype("out")?) {
        (_, DType::F32) => None,
        (DType::F16, _) => Some(false),
        (DType::BF16, _) => Some(true),
        _ => None,
    }
}
