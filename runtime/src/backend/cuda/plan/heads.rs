//! Attention: tiles of packed rows, which are the query heads of a key head for each query, and links along the keys.

use super::{Class, Work, axis, finish, links, missing};
use crate::dtype::DType;
use crate::error::Result;
use crate::op::{Attention, CheckedOp, KeyValue, Lens, OrderClass, Spec};
use crate::order::{Family, Order, Plan};
use leasehold_kernels::{AttentionSm90, BoxMap, Row};

/// The order: chunks of keys from left to right, the instructions of `attention_sm90.cu` inside one.
pub(super) const SM90: Order = Order {
    entry: "attention_sm90",
    tile: [1, 1],
    chunk: AttentionSm90::CHUNK,
    family: Family::Matrix16,
};

/// Elements of 16 bytes.
const ALIGNED: u64 = 8;
/// What the functions of a score cost, in operations of the matrix unit.
const SCORE: u64 = 256;
/// Nanoseconds to end a tile.
const END_NS: u64 = 5_000;

/// The geometry of attention.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Heads {
    pub(in super::super) batch: u64,
    pub(in super::super) kv_heads: u64,
    /// Query heads of a key head.
    pub(in super::super) group: u64,
    pub(in super::super) rows: u64,
    /// Keys that an entry has room for, and the most that one has.
    pub(in super::super) room: u64,
    pub(in super::super) keys: u64,
    pub(in super::super) d: u64,
    pub(in super::super) dv: u64,
    pub(in super::super) tiles_per_head: u64,
    /// Keys that a link covers, and links of a tile.
    pub(in super::super) link_keys: u64,
    links: u64,
    pub(super) link_ns: u64,
}

impl Heads {
    /// The geometry; `None` for an op that lacks an operand, which no checked one does.
    pub(in super::super) fn of(
        op: &CheckedOp,
        attention: &Attention,
        class: &Class,
    ) -> Option<Self> {
        let (q, k, v) = (op.spec("q")?, op.spec("k")?, op.spec("v")?);
        let [d, rows, heads, batch] = [0, 1, 2, 3].map(|i| axis(q, i)[0]);
        let [room, kv_heads] = [1, 2].map(|i| axis(k, i)[0]);
        let dv = axis(v, 0)[0];
        let group = heads.checked_div(kv_heads).unwrap_or(1);
        let keys = match &attention.lens {
            Lens::Host(list) => list.iter().max().map_or(0, |&n| u64::from(n)).min(room),
            _ => room,
        };
        let chunk = u64::from(AttentionSm90::CHUNK);
        let flops = u64::from(AttentionSm90::ROWS) * chunk * (2 * (d + dv) + SCORE);
        let chunk_ns = flops.div_ceil(class.attention);
        let chunks = keys.div_ceil(chunk).max(1);
        let (per_link, links) = links(chunks, chunk_ns, END_NS);
        Some(Self {
            batch,
            kv_heads,
            group,
            rows,
            room,
            keys,
            d,
            dv,
            tiles_per_head: rows.saturating_mul(group).div_ceil(AttentionSm90::ROWS.into()),
            link_keys: per_link * chunk,
            links,
            link_ns: per_link.min(chunks) * chunk_ns + END_NS,
        })
    }

    fn tiles(&self) -> u128 {
        [self.batch, self.kv_heads, self.tiles_per_head]
            .iter()
            .fold(1, |n: u128, &size| n.saturating_mul(size.into()))
    }

    /// What the copy engine is told of K and V at these addresses; `None` where it cannot bring them.
    pub(in super::super) fn maps(&self, op: &CheckedOp, at: [u64; 2]) -> Option<[BoxMap; 2]> {
        let map = |spec: &Spec, columns, at| {
            let [[_, dense], key, head, batch] = [0, 1, 2, 3].map(|i| axis(spec, i));
            // A stride that nothing follows is any valid one; one of 0 is no stride of the engine.
            let step = |[n, step]: [u64; 2]| match (n, step) {
                (..=1, _) => Some(ALIGNED),
                (_, 0) => None,
                (_, step) => Some(step),
            };
            let strides = [step(batch)?, step(head)?, step(key)?];
            let sizes = [self.batch, self.kv_heads, self.room, columns];
            let is_whole = dense == 1 && spec.offset_class.is_multiple_of(16);
            let map = is_whole.then(|| AttentionSm90::map(at, sizes, strides))?;
            Some(map).filter(BoxMap::is_valid)
        };
        Some([map(op.spec("k")?, self.d, at[0])?, map(op.spec("v")?, self.dv, at[1])?])
    }
}

/// The plans of attention.
///
/// # Errors
/// As [`super::candidates`].
pub(super) fn plans(op: &CheckedOp, attention: &Attention, class: &Class) -> Result<Vec<Plan>> {
    if let Some((asked, allowed)) = unsupported(op, attention, class) {
        return Err(missing(op, asked, allowed.into()));
    }
    let (Some(heads), Some(q)) = (Heads::of(op, attention, class), op.spec("q")) else {
        return Ok(Vec::new());
    };
    let [d, dv] = [heads.d, heads.dv].map(|n| n as u32);
    let wanted = AttentionSm90 { bf16: q.dtype == DType::BF16, d, dv };
    let row = AttentionSm90::all().into_iter().find(|row| *row == wanted);
    let Some(row) = row else {
        let allowed = "64 and 128".into();
        return Err(missing(op, format!("head dims of {d} and {dv}"), allowed));
    };
    let dense = |[n, step]: [u64; 2]| n <= 1 || step.is_multiple_of(ALIGNED);
    let is_whole = axis(q, 0)[1] == 1
        && q.offset_class.is_multiple_of(16)
        && [1, 2, 3].iter().all(|&i| dense(axis(q, i)));
    let has_keys = heads.batch.min(heads.kv_heads).min(heads.room) > 0;
    // Queries are read also where there is no key.
    let brought = is_whole && (!has_keys || heads.maps(op, [0; 2]).is_some());
    if heads.rows > 0 && !brought {
        let asked = "rows of q, k or v that no copies of 16 bytes bring".into();
        return Err(missing(op, asked, "dense head dims, strides of whole 16 bytes".into()));
    }
    let most = u64::from(u32::MAX >> 1);
    if heads.rows.saturating_mul(heads.group) > most || heads.rows + heads.room > most {
        let asked = format!("{} rows of {} heads, {} keys", heads.rows, heads.group, heads.room);
        return Err(missing(op, asked, format!("{most} in all")));
    }
    let state_bytes = row.state_bytes();
    let (tiles, links, link_ns) = (heads.tiles(), heads.links, heads.link_ns);
    let work = Work { tiles, links, link_ns, state_bytes };
    Ok(vec![finish(op, class, SM90, super::name(&Row::AttentionSm90(row)), work)?])
}

/// What of attention no row runs, and what rows do.
fn unsupported(
    op: &CheckedOp,
    attention: &Attention,
    class: &Class,
) -> Option<(String, &'static str)> {
    let q = op.spec("q")?;
    if class.sm90[0] == 0 {
        return Some((format!("attention on {}", class.arch), "sm_90a"));
    }
    if !matches!(q.dtype, DType::F16 | DType::BF16) {
        return Some((format!("attention of {}", q.dtype), "f16 or bf16"));
    }
    if attention.key_value != KeyValue::Dense {
        return Some(("paged keys".into(), "dense keys"));
    }
    if attention.rows != Lens::Full || attention.lens.on_device() {
        return Some(("packed rows, or lengths in device memory".into(), "lengths of the host"));
    }
    // Every tile walks the keys that any of its rows sees: which tile a row is in is not in the order.
    (attention.order == OrderClass::BatchInvariant)
        .then(|| ("a batch-invariant order".into(), "a fixed order"))
}
