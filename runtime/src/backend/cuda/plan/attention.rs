//! Attention: which row runs an op, its order, and its plan.

use super::attention_cut::Cut;
use super::heads::{Heads, is_bf16};
use super::{Class, missing, name};
use crate::error::{Error, Kind, Result};
use crate::op::{Attention, CheckedOp, OrderClass};
use crate::order::{Family, Order, Plan, UNIT_CAP_GPU_NS};
use leasehold_kernels::{AttentionPaged, AttentionReference, AttentionSm80, AttentionSm90, Row};

/// Packed rows that are few: where there are more keys than a split holds, splits of them run side by side.
const FEW: u64 = 2 * AttentionPaged::ROWS as u64;
/// Bytes of the keys and values of a split.
const SPLIT_BYTES: u32 = 1 << 18;

/// Keys of a split, which depend on the row only.
pub(in super::super) fn split(row: &AttentionPaged) -> u32 {
    1 << (SPLIT_BYTES / (4 * row.d)).ilog2()
}

/// Chunks of keys from left to right, or where the entry says so from right to left; the instructions of the row's kernel
/// inside one. Tiles and cuts change no bit.
fn order(row: &Row) -> Option<Order> {
    let of = |entry, chunk, family| Some(Order { entry, tile: [1, 1], chunk, family });
    match row {
        Row::AttentionSm90(row) => of("attention_sm90_from_right", row.chunk(), Family::Matrix16),
        Row::AttentionSm80(row) => of("attention_sm80", row.chunk(), Family::Matrix16),
        Row::AttentionPaged(row) => of("attention_paged", split(row), Family::Matrix16),
        Row::AttentionReference(_) => of("attention_reference", 1, Family::Fma32),
        _ => None,
    }
}

/// Every order of attention.
pub(super) fn orders() -> Vec<Order> {
    super::table().iter().filter_map(|(_, row)| order(row)).collect()
}

/// The row that runs an op: by types and layouts; by rows and keys only where the order need not ignore them.
fn row(op: &CheckedOp, attention: &Attention, heads: &Heads, class: &Class) -> Option<Row> {
    let Some(bf16) = is_bf16(op) else {
        return Some(Row::AttentionReference(AttentionReference));
    };
    let [d, dv] = [heads.d, heads.dv].map(|n| n as u32);
    let widest = d.max(dv);
    // A row of `attention_sm80` is one and the same whatever tile it is in: chunks that it does not see change nothing.
    let sm80 = || AttentionSm80::all().into_iter().find(|r| r.bf16 == bf16 && r.d >= widest);
    if attention.order == OrderClass::BatchInvariant {
        return sm80().map(Row::AttentionSm80);
    }
    let paged = AttentionPaged::all().into_iter().find(|r| r.bf16 == bf16 && r.d >= widest)?;
    let is_few = heads.most_rows.saturating_mul(heads.group) <= FEW;
    if is_few && heads.reach > split(&paged).into() {
        return Some(Row::AttentionPaged(paged));
    }
    let mut sm90 = AttentionSm90::all();
    sm90.retain(|r| r.bf16 == bf16 && r.d >= d && r.dv >= dv);
    let least = sm90.into_iter().min_by_key(|r| r.d + r.dv);
    match least.filter(|r| class.sm90[0] > 0 && heads.is_brought(op, r)) {
        Some(row) => Some(Row::AttentionSm90(row)),
        None => sm80().map(Row::AttentionSm80),
    }
}

/// The plan of attention, of one tile: see [`super::chain`].
///
/// # Errors
/// As [`super::candidates`].
pub(super) fn plans(op: &CheckedOp, attention: &Attention, class: &Class) -> Result<Vec<Plan>> {
    let Some(heads) = Heads::of(op, &attention.scores, attention.key_value) else {
        return Ok(Vec::new());
    };
    // Kernels count packed rows, and positions among the keys, in 32 bits.
    let most = u64::from(u32::MAX >> 1);
    let packed = heads.rows.saturating_mul(heads.group);
    if packed > most || heads.rows.saturating_add(heads.room) > most {
        let asked = format!("{} rows of {} heads, {} keys", heads.rows, heads.group, heads.room);
        return Err(missing(op, asked, format!("{most} in all")));
    }
    let Some(row) = row(op, attention, &heads, class) else { return Ok(Vec::new()) };
    let Some(order) = order(&row) else { return Ok(Vec::new()) };
    let cut = Cut::of(&heads, attention, &row, class);
    let Some((cut, links)) = cut.and_then(|cut| Some((cut, cut.links()?))) else {
        let [entries, heads] = [heads.entries, heads.kv_heads];
        let asked = format!("tiles of {packed} rows, {entries} entries, {heads} heads");
        return Err(missing(op, asked, format!("{} tiles of a head", u32::MAX)));
    };
    if cut.unit_ns() > UNIT_CAP_GPU_NS {
        let (asked, allowed) = (cut.unit_ns().into(), UNIT_CAP_GPU_NS.into());
        return Err(Error::from(Kind::Time { asked, allowed }));
    }
    Ok(vec![Plan {
        order,
        kernel: name(&row),
        tiles: u64::from(links > 0),
        links: links.max(1),
        unit_ns: cut.unit_ns(),
        wave: 1,
        wave_ns: cut.unit_ns(),
        state_bytes: cut.state_bytes(),
    }])
}
