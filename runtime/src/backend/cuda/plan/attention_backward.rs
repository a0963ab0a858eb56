//! The gradients of attention: which rows give them, and four passes: the list of entries, where counts lie in device memory,
//! what both sides need of each query row, then the gradients of keys and values by tiles of keys, then those of queries by
//! tiles of rows.

use super::attention_cut::{END_NS, LIST_NS, LISTED, PLAIN_KEY_NS, SCORE, list_bytes};
use super::chain::{Pass, links};
use super::heads::{Heads, brought_strides};
use super::waves::{ALIGN, Form, Waves};
use super::{Class, axis, missing, name};
use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::op::{AttentionBackward, CheckedOp, KeyValue, Mask, Scores};
use crate::order::{Family, Order, Plan, UNIT_CAP_GPU_NS};
use leasehold_kernels::{
    AttentionBackwardReference, AttentionBackwardRows, AttentionBackwardSm80,
    AttentionBackwardSm90, BoxMap, GradientSide, Row, gradient_tiles,
};

/// Sixteen rows at a time by `mma.sync` or by wgmma, and one after another. Tiles, chunks and cuts change no bit.
pub(super) const ORDERS: [Order; 3] = [SM80, SM90, REFERENCE];
const SM80: Order =
    Order { entry: "attention_backward_sm80", tile: [1, 1], chunk: 16, family: Family::Matrix16 };
const SM90: Order = Order { entry: "attention_backward_sm90", ..SM80 };
const REFERENCE: Order =
    Order { entry: "attention_backward_reference", tile: [1, 1], chunk: 1, family: Family::Fma32 };

const STATISTICS_TILE: u64 = AttentionBackwardRows::ROWS as u64;

/// The geometry of the gradients of attention, and how each side is cut.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Gradients {
    pub(in super::super) heads: Heads,
    /// Entries of the list where rows and keys are packed, the last one included; else 0.
    pub(in super::super) packed: u64,
    /// Numbers of a head's rows.
    pub(in super::super) room: u64,
    /// Entries that are listed on the device.
    listed: u64,
    /// The tiles of rows that both sides need, those of keys, and those of queries.
    pub(in super::super) waves: [Waves; 3],
    list_bytes: u64,
    statistics_bytes: u64,
}

/// The rows that run an op, keys' first: those of the matrix unit where nothing shows that they round weights and gradients
/// of scores to its type, by wgmma where the copy engine brings all that they read and they know all options.
pub(in super::super) fn rows(
    op: &CheckedOp,
    backward: &AttentionBackward,
    class: &Class,
) -> Option<[Row; 2]> {
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
    let by_wgmma = class.sm90[0] > 0 && is_plain(&backward.scores) && maps(op, [0; 4]).is_some();
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

/// Whether rows of wgmma know all that is asked of scores.
fn is_plain(scores: &Scores) -> bool {
    scores.softcap == 0.0 && scores.mask == Mask::None && !scores.alibi
}

/// What the copy engine is told of Q, K, V and d_out at these addresses; `None` where it cannot bring one of them.
pub(in super::super) fn maps(op: &CheckedOp, at: [u64; 4]) -> Option<[BoxMap; 4]> {
    let map = |name, at| {
        let spec = op.spec(name)?;
        let sizes = [3, 2, 1, 0].map(|i| axis(spec, i)[0]);
        // The strides of nothing may be any numbers.
        let strides = brought_strides(spec).filter(|_| !sizes.contains(&0))?;
        Some(AttentionBackwardSm90::map(at, sizes, strides)).filter(BoxMap::is_valid)
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
    pub(in super::super) fn of(
        op: &CheckedOp,
        backward: &AttentionBackward,
        class: &Class,
    ) -> Option<Self> {
        let heads = Heads::of(op, &backward.scores, KeyValue::Dense)?;
        let Heads { entries, kv_heads, group, rows, most_rows, room, keys, d, dv, .. } = heads;
        let packed = if heads.is_packed { entries + 1 } else { 0 };
        let batch = if heads.is_packed { 1 } else { entries };
        let query_heads = batch.checked_mul(kv_heads)?.checked_mul(group)?;
        let by = self::rows(op, backward, class)?;
        let is_masked = backward.scores.mask == Mask::Additive;
        let of_rows = Form { chunk_ns: 0, end_ns: END_NS + class.moved(8 * 64 * dv), carried: 0 };
        let tiles = |heads: u64, count: u64, tile: u64| {
            let of_head = u32::try_from(gradient_tiles(count, tile, packed)).ok()?;
            heads.checked_mul(of_head.into())
        };
        let side = |row: &Row, heads, own: u64, chunks: &dyn Fn(u64) -> u64| {
            let [tile, chunk] = tile(row);
            let form = form(row, [tile, chunk], d + dv, is_masked, class);
            Some(Waves::of(tiles(heads, own, tile)?, chunks(chunk), &form, class))
        };
        let waves = [
            Waves::of(tiles(query_heads, rows, STATISTICS_TILE)?, 1, &of_rows, class),
            side(&by[0], batch * kv_heads, room, &|chunk| group * most_rows.div_ceil(chunk))?,
            side(&by[1], query_heads, rows, &|chunk| keys.div_ceil(chunk))?,
        ];
        let of_head = AttentionBackwardRows::room(rows, packed);
        u32::try_from(of_head).ok()?;
        query_heads.checked_mul(8)?.checked_mul(of_head)?;
        let has_tiles = waves.iter().any(|waves| waves.tiles > 0);
        let listed = if heads.is_counted && has_tiles { entries.max(1) } else { 0 };
        Some(Self {
            heads,
            packed,
            room: of_head,
            listed,
            waves,
            list_bytes: if listed > 0 { list_bytes(&heads)? } else { 0 },
            statistics_bytes: AttentionBackwardRows::bytes(query_heads, of_head)
                .next_multiple_of(ALIGN),
        })
    }

    /// The passes: over entries to list, then over the waves. `None` where they are too many.
    pub(in super::super) fn passes(&self) -> Option<[Pass; 4]> {
        let [rows, keys, queries] = self.waves;
        let entries = Pass { items: self.listed, step: LISTED };
        Some([entries, rows.pass()?, keys.pass()?, queries.pass()?])
    }

    fn state_bytes(&self) -> u64 {
        // One side after the other.
        let carried = self.waves[1].carried_bytes.max(self.waves[2].carried_bytes);
        self.list_bytes + self.statistics_bytes + carried
    }

    fn unit_ns(&self) -> u64 {
        let listing = if self.listed > 0 { LIST_NS } else { 0 };
        self.waves.iter().map(|waves| waves.unit_ns).fold(listing, u64::max)
    }

    /// Where the list, what rows need, and what tiles carry lie in a state.
    pub(in super::super) fn places(&self, state: u64) -> [u64; 3] {
        let statistics = state + self.list_bytes;
        [state, statistics, statistics + self.statistics_bytes]
    }
}

/// What a tile of a side and its chunk take: five products between both sides, four of the one of keys.
fn form(row: &Row, [tile, chunk]: [u64; 2], dims: u64, is_masked: bool, class: &Class) -> Form {
    let (rate, carried) = match row {
        Row::AttentionBackwardSm80(row) => {
            (class.attention.min(class.sm80[0] * 2 / 3) / 2, row.state_bytes())
        }
        Row::AttentionBackwardSm90(row) => (class.attention / 2, row.state_bytes()),
        _ => (0, AttentionBackwardReference::STATE_BYTES),
    };
    let product = (tile * chunk * (4 * dims + SCORE)).checked_div(rate);
    let product = product.map_or(2 * chunk * PLAIN_KEY_NS, |ns| ns + 1);
    let masked = if is_masked { class.moved(4 * tile * chunk) } else { 0 };
    let chunk_ns = product.max(class.moved(4 * chunk * dims)) + masked;
    Form { chunk_ns, end_ns: END_NS + class.moved(8 * tile * dims), carried }
}

/// The plan of the gradients of attention, of one tile: see [`super::chain`].
///
/// # Errors
/// As [`super::candidates`].
pub(super) fn plans(
    op: &CheckedOp,
    backward: &AttentionBackward,
    class: &Class,
) -> Result<Vec<Plan>> {
    let Some([keys, _]) = rows(op, backward, class) else { return Ok(Vec::new()) };
    let size = |name| op.spec(name).map_or(0, |spec| axis(spec, 1)[0]);
    // Kernels count positions among the keys in 32 bits.
    let (most, asked) = (u64::from(u32::MAX >> 1), size("q").saturating_add(size("k")));
    let cut = Gradients::of(op, backward, class).and_then(|cut| Some((cut, links(&cut.passes()?))));
    let (Some((cut, links)), true) = (cut, asked <= most) else {
        let asked = format!("{} rows and {} keys", size("q"), size("k"));
        return Err(missing(op, asked, format!("{most} in all, 2^64 tiles")));
    };
    let unit_ns = cut.unit_ns();
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
