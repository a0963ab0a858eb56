//! What launches of attention are given.

use super::{Addresses, Args, Launch, operand, walked};
use crate::backend::cuda::plan::{self, Class, Heads};
use crate::op::{Attention, CheckedOp, Lens};
use crate::order::Span;
use leasehold_kernels::{AttentionArgs, AttentionSm90Args, Entry, Row};

/// The list of batch entries, where the host knows it.
pub(super) fn made(op: &CheckedOp, attention: &Attention) -> Vec<u8> {
    bytemuck::cast_slice(&entries(op, attention)).to_vec()
}

/// As [`super::launches`].
pub(super) fn launches(
    op: &CheckedOp,
    attention: &Attention,
    row: &Row,
    class: &Class,
    span: Span,
    at: &Addresses<'_>,
    multiprocessors: u32,
) -> Vec<Launch> {
    let launch = || {
        let heads = Heads::of(op, attention, class)?;
        let args = attend(op, attention, &heads, span, at);
        // Without a key nothing is brought.
        let [k, v] = heads.maps(op, [args.k.at, args.v.at]).unwrap_or_default();
        let all = AttentionSm90Args { k, v, attention: args, padding: [0; 12] };
        let blocks = walked(span.tiles, multiprocessors);
        Some(Launch { row: *row, args: Args::AttentionSm90(Box::new(all)), blocks })
    };
    launch().into_iter().collect()
}

/// The batch entries of attention: one for all where they are alike.
fn entries(op: &CheckedOp, attention: &Attention) -> Vec<Entry> {
    let size = |name, from_end| op.spec(name).map_or(0, |spec| plan::axis(spec, from_end)[0]);
    let (rows, room) = (size("q", 1) as u32, size("k", 1) as u32);
    let entry = |keys: u32| Entry { rows, keys: keys.min(room), ..Entry::default() };
    match &attention.lens {
        Lens::Host(list) => list.iter().map(|&keys| entry(keys)).collect(),
        _ => vec![entry(room)],
    }
}

fn attend(
    op: &CheckedOp,
    attention: &Attention,
    heads: &Heads,
    span: Span,
    at: &Addresses<'_>,
) -> AttentionArgs {
    let of = |name, rank: usize| {
        let Some((spec, at)) = operand(op, at, name) else { return Default::default() };
        let step = |axis: usize| spec.layout.strides().get(axis).map_or(0, |&n| n as i64);
        leasehold_kernels::Heads {
            at,
            batch: step(0),
            head: step(1),
            row: step(2),
            column: if rank > 3 { step(3) } else { 0 },
            dtype: spec.dtype as u32,
            present: 1,
        }
    };
    let list = |name| {
        operand(op, at, name).map_or((0, 0), |(spec, at)| (at, plan::axis(spec, 0)[1] as i64))
    };
    let ((alibi, alibi_step), (sinks, sinks_step)) = (list("alibi"), list("sinks"));
    let [left, right] = attention.window.unwrap_or([u32::MAX; 2]);
    let key = |link: u64| heads.keys.min(link.saturating_mul(heads.link_keys)) as u32;
    let key_to = key(span.to);
    AttentionArgs {
        q: of("q", 4),
        k: of("k", 4),
        v: of("v", 4),
        mask: of("mask", 4),
        out: of("out", 4),
        lse: of("lse", 3),
        alibi,
        sinks,
        alibi_step,
        sinks_step,
        entries: at.made,
        state: at.state,
        first_tile: span.first,
        tiles: span.tiles,
        kv_heads: heads.kv_heads as u32,
        group: heads.group as u32,
        tiles_per_head: heads.tiles_per_head as u32,
        entry_count: heads.batch as u32,
        alike: u32::from(!matches!(attention.lens, Lens::Host(_))),
        packed: 0,
        key_from: key(span.from),
        key_to,
        last: u32::from(u64::from(key_to) == heads.keys),
        scale: attention.scale,
        softcap: attention.softcap,
        left,
        right: if attention.causal { 0 } else { right },
        d: heads.d as u32,
        dv: heads.dv as u32,
        ..AttentionArgs::default()
    }
}
