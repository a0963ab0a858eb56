//! The gradients of attention: which rows give them, and three passes: what both sides need of each query row, then the
//! gradients of keys and values by tiles of keys, then those of queries by tiles of rows.

use super::attention_cut::{END_NS, PLAIN_KEY_NS, SCORE};
use super::chain::{Pass, links};
use super::heads::brought_strides;
use super::waves::{ALIGN, Form, Waves};
use super::{Class, axis, missing, name};
use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::op::CheckedOp;
use crate::order::{Family, Order, Plan, UNIT_CAP_GPU_NS};
use leasehold_kernels::{
    AttentionBackwardReference, AttentionBackwardRows, AttentionBackwardSm80,
    AttentionBackwardSm90, BoxMap, GradientSide, Row,
};

/// Sixteen rows at a time by `mma.sync` or by wgmma, and one after another. Tiles, chunks and cuts change no bit.
pub(super) const ORDERS: [Order; 3] = [SM80, SM90, REFERENCE];
const SM80: Order =
    Order { entry: "attention_backward_sm80", tile: [1, 1], chunk: 16, family: Family::Matrix16 };
const SM90: Order = Order { entry: "attention_backward_sm90", ..SM80 };
const REFERENCE: Order =
    Order { entry: "attention_backward_reference", tile: [1, 1], chunk: 1, family: Family::Fma32 };

/// The geometry of the gradients of attention, and how each side is cut.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Gradients {
    pub(in super::super) kv_heads: u64,
    pub(in super::super) group: u64,
    pub(in super::super) rows: u64,
    pub(in super::super) keys: u64,
    pub(in super::super) d: u64,
    pub(in super::super) dv: u64,
    /// The tiles of rows that both sides need, those of keys, and those of queries.
    pub(in super::super) waves: [Waves; 3],
    statistics_bytes: u64,
}

/// The rows that run an op, keys' first: those of the matrix unit where nothing shows that they round weights and gradients
/// of scores to its type, by wgmma where the copy engine brings all that they read.
pub(in super::super) fn rows(op: &CheckedOp, class: &Class) -> Option<[Row; 2]> {
    let dtype = |name| op.spec(name).map(|spec| spec.dtype);
    let own = dtype("q")?;
    let is_fine = ["d_q", "d_k", "d_v"].iter().any(|name| dtype(name) == Some(DType::F32));
    if own == DType::F32 || is_fine || dtype("d_out") != Some(own) {
        return Some(
            GradientSide::ALL
                .map(|side| Row::AttentionBackwardReference(AttentionBackwardReference { side })),
        );
    }
    let widest = axis(op.spec("q")?, 0)[0].max(axis(op.spec("v")?, 0)[0]);
    let by_wgmma = class.sm90[0] > 0 && maps(op, [0; 4]).is_some();
    let sm90 = if by_wgmma { AttentionBackwardSm90::all() } else { Vec::new() };
    let sm80 = AttentionBackwardSm80::all();
    let of = |side| {
        let is =
            |of, bf16, d: u32| of == side && bf16 == (own == DType::BF16) && u64::from(d) >= widest;
        let row = sm90.iter().find(|row| is(row.side, row.bf16, row.d));
        row.map(|row| Row::AttentionBackwardSm90(*row)).or_else(|| {
            let row = sm80.iter().find(|row| is(row.side, row.bf16, row.d));
            row.map(|row| Row::AttentionBackwardSm80(*row))
        })
    };
    let [keys, queries] = GradientSide::ALL.map(of);
    Some([keys?, queries?])
}

/// What the copy engine is told of Q, K, V and d_out at these addresses; `None` where it cannot bring one of them.
pub(in super::super) fn maps(op: &CheckedOp, at: [u64; 4]) -> Option<[BoxMap; 4]> {
    let map = |name, at| {
        let spec = op.spec(name)?;
        let sizes = [3, 2, 1, 0].map(|i| axis(spec, i)[0]);
        let map = AttentionBackwardSm90::map(at, sizes, brought_strides(spec)?);
        Some(map).filter(BoxMap::is_valid)
    };
    let [q, k, v, d_out] = at;
    Some([map("q", q)?, map("k", k)?, map("v", v)?, map("d_out", d_out)?])
}

/// Keys or rows of a tile, and rows of the other side of a chunk.
pub(in super::super) fn tile(row: &Row) -> [u64; 2] {
    match row {
        Row::AttentionBackwardSm80(row) => [row.tile(), row.chunk()].map(u64::from),
        Row::AttentionBackwardSm90(row) => {
            [AttentionBackwardSm90::TILE, row.chunk()].map(u64::from)
        }
        _ => [AttentionBackwardReference::TILE, AttentionBackwardReference::CHUNK].map(u64::from),
    }
}

impl Gradients {
    /// The geometry and the cut; `None` where there are more tiles than are counted.
    pub(in super::super) fn of(op: &CheckedOp, class: &Class) -> Option<Self> {
        let (q, k) = (op.spec("q")?, op.spec("k")?);
        let [d, rows, heads, batch] = [0, 1, 2, 3].map(|i| axis(q, i)[0]);
        let [keys, kv_heads] = [1, 2].map(|i| axis(k, i)[0]);
        let dv = axis(op.spec("v")?, 0)[0];
        let group = heads.checked_div(kv_heads).unwrap_or(1);
        let by = self::rows(op, class)?;
        let of_rows = Form { chunk_ns: 0, end_ns: END_NS + class.moved(8 * 64 * dv), carried: 0 };
        let tiles = |heads: u64, rows: u64, tile: u64| {
            batch.checked_mul(heads)?.checked_mul(rows.div_ceil(tile))
        };
        let side = |row: &Row, heads, own: u64, chunks: &dyn Fn(u64) -> u64| {
            let [tile, chunk] = tile(row);
            let form = form(row, [tile, chunk], d + dv, class);
            Some(Waves::of(tiles(heads, own, tile)?, chunks(chunk), &form, class))
        };
        let statistics_tile = AttentionBackwardRows::ROWS.into();
        let waves = [
            Waves::of(tiles(heads, rows, statistics_tile)?, 1, &of_rows, class),
            side(&by[0], kv_heads, keys, &|chunk| group * rows.div_ceil(chunk))?,
            side(&by[1], heads, rows, &|chunk| keys.div_ceil(chunk))?,
        ];
        let rows_of_all = batch.checked_mul(heads)?;
        rows_of_all.checked_mul(8)?.checked_mul(rows.checked_add(64)?)?;
        let statistics =
            AttentionBackwardRows::bytes(rows_of_all, AttentionBackwardRows::room(rows, 0));
        let statistics_bytes = statistics.next_multiple_of(ALIGN);
        Some(Self { kv_heads, group, rows, keys, d, dv, waves, statistics_bytes })
    }

    /// The passes; `None` where they are too many.
    pub(in super::super) fn passes(&self) -> Option<[Pass; 3]> {
        let [rows, keys, queries] = self.waves;
        Some([rows.pass()?, keys.pass()?, queries.pass()?])
    }

    fn state_bytes(&self) -> u64 {
        // One side after the other.
        self.statistics_bytes + self.waves[1].carried_bytes.max(self.waves[2].carried_bytes)
    }

    /// Where what rows need, and what tiles carry, lie in a state.
    pub(in super::super) fn places(&self, state: u64) -> [u64; 2] {
        [state, state + self.statistics_bytes]
    }
}

/// What a tile of a side and its chunk take: five products between both sides, four of the one of keys.
fn form(row: &Row, [tile, chunk]: [u64; 2], dims: u64, class: &Class) -> Form {
    let (rate, carried) = match row {
        Row::AttentionBackwardSm80(row) => {
            (class.attention.min(class.sm80[0] * 2 / 3) / 2, row.state_bytes())
        }
        Row::AttentionBackwardSm90(row) => (class.attention / 2, row.state_bytes()),
        _ => (0, AttentionBackwardReference::STATE_BYTES),
    };
    let product = (tile * chunk * (4 * dims + SCORE)).checked_div(rate);
    let product = product.map_or(2 * chunk * PLAIN_KEY_NS, |ns| ns + 1);
    let chunk_ns = product.max(class.moved(4 * chunk * dims));
    Form { chunk_ns, end_ns: END_NS + class.moved(8 * tile * dims), carried }
}

/// The plan of the gradients of attention, of one tile: see [`super::chain`].
///
/// # Errors
/// As [`super::candidates`].
pub(super) fn plans(op: &CheckedOp, class: &Class) -> Result<Vec<Plan>> {
    let Some([keys, _]) = rows(op, class) else { return Ok(Vec::new()) };
    let size = |name| op.spec(name).map_or(0, |spec| axis(spec, 1)[0]);
    // Kernels count positions among the keys in 32 bits.
    let (most, asked) = (u64::from(u32::MAX >> 1), size("q").saturating_add(size("k")));
    let cut = Gradients::of(op, class).and_then(|cut| Some((cut, links(&cut.passes()?))));
    let (Some((cut, links)), true) = (cut, asked <= most) else {
        let asked = format!("{} rows and {} keys", size("q"), size("k"));
        return Err(missing(op, asked, format!("{most} in all, 2^64 tiles")));
    };
    let unit_ns = cut.waves.iter().map(|waves| waves.unit_ns).max().unwrap_or(0);
    if unit_ns > UNIT_CAP_GPU_NS {
        let (asked, allowed) = (unit_ns.into(), UNIT_CAP_GPU_NS.into());
        return Err(Error::from(Kind::Time { asked, allowed }));
    }
    let order = match keys {
        Row::AttentionBackwardSm90(_) => SM90,
        Row::AttentionBackwardSm80(_) => SM80,
        _ => REFERENCE,
    };
    Ok(vec![Plan {
        order,
        kernel: name(&keys),
        tiles: u64::from(links > 0),
        links: links.max(1),
        unit_ns,
        wave: 1,
        wave_ns: unit_ns,
        state_bytes: cut.state_bytes(),
    }])
}
