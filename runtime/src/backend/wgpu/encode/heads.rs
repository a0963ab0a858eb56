//! Dispatches of attention.

use super::super::plan::{Class, Heads, counts};
use super::{Dispatch, LAST, Words, batch, strides};
use crate::op::{Attention, CheckedOp, KeyValue, Op};
use crate::order::Span;
use leasehold_shaders::variant;

/// Rows of a workgroup of the op's own kernel.
const ROWS: u64 = 4;
/// Entry points of `attention.wgsl`.
const COUNT: usize = 0;
const COMBINE: usize = 1;
const CHUNKS: usize = 2;
/// Flags of it, beside those of `batch`.
const HAS_LSE: u32 = 2;
const HAS_SINKS: u32 = 16;
const PAGED: u32 = 128;
const DIRECT: u32 = 4096;

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
    if counts(&attention.scores) {
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
    let scores = &attention.scores;
    let ([left, right], [max_rows, max_keys]) = (batch::window(scores), batch::most(scores));
    let mut params = Words::default();
    params.put(&[a.kv_heads, a.group, a.rows, a.d, a.dv]);
    params.float(scores.scale);
    params.put(&[(flags(attention, a) | last | direct).into(), a.tile, a.tiles]);
    params.put(&[first, workgroups, from, to, a.batch.entries]);
    params.float(scores.softcap);
    params.put(&[left, right, page.into(), op.specs()[1].layout.shape()[0]]);
    params.put(&[a.batch.room, max_rows, max_keys, 0, 0]);
    batch::put_lines(&mut params, op, &["alibi", "sinks", "rows", "lens"]);
    for name in ["q", "k", "v", "mask", "pages", "out", "lse"] {
        let spec = op.spec(name);
        params.view(spec, &spec.map(strides).unwrap_or_default());
    }
    params
}

/// The entry points of attention that launches may take.
pub(super) fn entries(op: &Attention) -> Vec<usize> {
    if counts(&op.scores) { vec![COUNT, COMBINE, CHUNKS] } else { vec![COMBINE, CHUNKS] }
}

fn flags(op: &Attention, a: &Heads) -> u32 {
    let paged = op.key_value != KeyValue::Dense;
    let own = [(op.log_sum_exp, HAS_LSE), (op.sinks, HAS_SINKS), (paged, PAGED)];
    let own: u32 = own.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum();
    batch::flags(&op.scores, &a.batch) | own
}
