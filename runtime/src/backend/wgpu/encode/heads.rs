//! Dispatches of attention, and the table of its batch entries.

use super::super::plan::{Class, Heads, counts};
use super::{Dispatch, LAST, Words, base, strides};
use crate::op::{Attention, CheckedOp, KeyValue, Lens, Mask, Op};
use crate::order::Span;
use leasehold_shaders::variant;

/// Rows of a workgroup of the op's own kernel.
const ROWS: u64 = 4;
/// Entry points of `attention.wgsl`.
const COUNT: usize = 0;
const COMBINE: usize = 1;
const CHUNKS: usize = 2;
/// Flags of it.
const HAS_MASK: u32 = 1;
const HAS_LSE: u32 = 2;
const HAS_ALIBI: u32 = 4;
const HAS_SINKS: u32 = 16;
const PACKED: u32 = 32;
const PACKED_KEYS: u32 = 64;
const PAGED: u32 = 128;
const DEVICE_ROWS: u32 = 256;
const DEVICE_LENS: u32 = 512;
const AS_ROWS: u32 = 1024;
const ALIKE: u32 = 2048;
const DIRECT: u32 = 4096;
/// Words of an entry of the table.
const ENTRY: usize = 5;

/// Counting, where counts lie in device memory, then the tiles of a span: the chunks of a run of tiles side by side, as
/// many as the scratch holds, and what merges them. A tile that it does not hold goes by runs of chunks.
pub(super) fn heads(
    op: &CheckedOp,
    attention: &Attention,
    class: &Class,
    kernel: &str,
    span: Span,
) -> Vec<Dispatch> {
    let of_workgroup = variant(kernel).map_or(ROWS, |variant| variant.tile[0].into());
    let a = Heads::of(op, attention, class);
    let cut = span.from > 0 || (span.to * a.per_link) < a.chunks;
    let [from, to] = [span.from, span.to].map(|link| (link * a.per_link).min(a.chunks));
    let fits = class.scratch / (a.tile * a.width());
    let (tiles, chunks) = match fits / (to - from) {
        _ if direct(&a) => (span.tiles, 1),
        0 => (1, fits),
        tiles => (tiles, to - from),
    };
    let mut out = Vec::new();
    if counts(attention) {
        let params = params(op, attention, &a, [span.first, 0], [from, to]);
        out.push(Dispatch { entry: COUNT, workgroups: 1, params, cut });
    }
    let end = span.first + span.tiles;
    for first in (span.first..end).step_by(tiles as usize) {
        let tiles = tiles.min(end - first);
        for from in (from..to).step_by(chunks as usize) {
            let run = [from, (from + chunks).min(to)];
            let mut push = |entry, workgroups| {
                let params = params(op, attention, &a, [first, workgroups], run);
                out.push(Dispatch { entry, workgroups, params, cut });
            };
            push(CHUNKS, tiles * a.tile.div_ceil(of_workgroup) * (run[1] - run[0]));
            if !direct(&a) {
                push(COMBINE, tiles * a.tile);
            }
        }
    }
    out
}

/// Whether there is nothing to merge.
fn direct(a: &Heads) -> bool {
    a.chunks == 1
}

/// Whether a launch leaves partial results.
pub(in super::super) fn has_partial(op: &CheckedOp, class: &Class) -> bool {
    matches!(op.op(), Op::Attention(attention) if !direct(&Heads::of(op, attention, class)))
}

fn params(
    op: &CheckedOp,
    attention: &Attention,
    a: &Heads,
    [first, workgroups]: [u64; 2],
    [from, to]: [u64; 2],
) -> Words {
    let last = if to == a.chunks { LAST } else { 0 };
    let direct = if direct(a) { DIRECT } else { 0 };
    let page = match attention.key_value {
        KeyValue::Dense => 0,
        KeyValue::Paged { page } => page,
    };
    let [left, right] = attention.scores.window.unwrap_or([u32::MAX; 2]);
    let right = if attention.scores.causal { 0 } else { right };
    let most = |lens: &Lens| match lens {
        Lens::Device { max } => u64::from(*max),
        _ => 0,
    };
    let mut params = Words::default();
    params.put(&[a.kv_heads, a.group, a.rows, a.d, a.dv]);
    params.float(attention.scores.scale);
    params.put(&[(flags(attention) | last | direct).into(), a.tile, a.tiles]);
    params.put(&[first, workgroups, from, to, a.entries]);
    params.float(attention.scores.softcap);
    params.put(&[left.into(), right.into(), page.into(), op.specs()[1].layout.shape()[0]]);
    params.put(&[a.room, most(&attention.scores.rows), most(&attention.scores.lens), 0, 0]);
    for name in ["alibi", "sinks", "rows", "lens"] {
        let line = op.spec(name).map_or([0; 2], |spec| [base(spec), strides(spec)[0]]);
        params.put(&line);
    }
    for name in ["q", "k", "v", "mask", "pages", "out", "lse"] {
        let spec = op.spec(name);
        params.view(spec, &spec.map(strides).unwrap_or_default());
    }
    params
}

/// The entry points of attention that launches may take.
pub(super) fn entries(op: &Attention) -> Vec<usize> {
    if counts(op) { vec![COUNT, COMBINE, CHUNKS] } else { vec![COMBINE, CHUNKS] }
}

fn flags(op: &Attention) -> u32 {
    let packed = op.scores.rows != Lens::Full;
    let dense = op.key_value == KeyValue::Dense;
    let flags = [
        (op.scores.mask == Mask::Additive, HAS_MASK),
        (op.log_sum_exp, HAS_LSE),
        (op.scores.alibi, HAS_ALIBI),
        (op.sinks, HAS_SINKS),
        (packed, PACKED),
        (packed && dense, PACKED_KEYS),
        (!dense, PAGED),
        (op.scores.rows.on_device(), DEVICE_ROWS),
        (op.scores.lens.on_device(), DEVICE_LENS),
        (packed && op.scores.lens == Lens::Full, AS_ROWS),
        (alike(op), ALIKE),
    ];
    flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum()
}

/// Whether one entry of the table stands for all.
fn alike(op: &Attention) -> bool {
    op.scores.rows == Lens::Full && op.scores.lens == Lens::Full
}

/// The table of batch entries; where counts lie in device memory room for it, then the counts that the host knows.
pub(super) fn made(op: &CheckedOp, attention: &Attention, class: &Class) -> Vec<u32> {
    let a = Heads::of(op, attention, class);
    let entries = if alike(attention) { 1 } else { a.entries as usize };
    let list = |lens: &Lens, full: u64| match lens {
        Lens::Host(list) => list.clone(),
        // The plan held sizes to 31 bits.
        _ => vec![full as u32; entries],
    };
    let rows = list(&attention.scores.rows, a.rows);
    let packed = attention.scores.rows != Lens::Full;
    let keys = match attention.scores.lens {
        Lens::Full if packed => rows.clone(),
        _ => list(&attention.scores.lens, a.room),
    };
    if counts(attention) {
        let mut words = vec![0; ENTRY * (entries + usize::from(packed))];
        words.extend(rows);
        words.extend(keys);
        return words;
    }
    let packed_keys = packed && attention.key_value == KeyValue::Dense;
    let (mut words, mut first_row, mut first_key, mut tile) = (Vec::new(), 0, 0, 0);
    for (rows, keys) in rows.into_iter().zip(keys) {
        words.extend([first_row, rows, first_key, keys, tile]);
        if packed {
            first_row += rows;
            tile += (u64::from(rows) * a.group).div_ceil(a.tile) as u32;
        }
        first_key += if packed_keys { keys } else { 0 };
    }
    if packed {
        words.extend([first_row, a.rows as u32 - first_row, first_key, 0, tile]);
    }
    words
}
