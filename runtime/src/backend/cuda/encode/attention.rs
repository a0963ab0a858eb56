//! What launches of attention are given.

use super::attention_entries as entries;
use super::{Addresses, Args, GRID, Launch, operand, runs, walked};
use crate::backend::cuda::plan::{self, Class, Cut, Heads};
use crate::op::{Attention, CheckedOp, KeyValue, Lens};
use crate::order::Span;
use leasehold_kernels::{
    AttentionArgs, AttentionCombine, AttentionEntries, AttentionSm90Args, Pages, Row,
};
use std::ops::Range;

/// As [`super::rows`].
pub(super) fn rows(attention: &Attention, row: &Row) -> Vec<Row> {
    let is_counted = attention.scores.rows.on_device() || attention.scores.lens.on_device();
    let others = [
        (is_counted, Row::AttentionEntries(AttentionEntries)),
        (matches!(row, Row::AttentionPaged(_)), Row::AttentionCombine(AttentionCombine)),
    ];
    let others = others.into_iter().filter_map(|(is, row)| is.then_some(row));
    [*row].into_iter().chain(others).collect()
}

/// As [`super::is_indexed`].
pub(super) fn is_indexed(attention: &Attention) -> bool {
    let is_paged = attention.key_value != KeyValue::Dense;
    is_paged || attention.scores.rows.on_device() || attention.scores.lens.on_device()
}

/// As [`super::made`].
pub(super) fn made(op: &CheckedOp, attention: &Attention, row: &Row, class: &Class) -> Vec<u8> {
    let heads = Heads::of(op, &attention.scores, attention.key_value);
    let cut = heads.and_then(|heads| Some((heads, Cut::of(&heads, attention, row, class)?)));
    cut.map_or_else(Vec::new, |(heads, cut)| {
        entries::made(&attention.scores, &heads, cut.tile_rows)
    })
}

/// An op, how it is cut, and where its operands lie.
struct Attend<'a> {
    op: &'a CheckedOp,
    attention: &'a Attention,
    heads: Heads,
    cut: Cut,
    row: &'a Row,
    at: &'a Addresses<'a>,
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
    let heads = Heads::of(op, &attention.scores, attention.key_value);
    let Some(heads) = heads else { return Vec::new() };
    let Some(cut) = Cut::of(&heads, attention, row, class) else { return Vec::new() };
    let attend = Attend { op, attention, heads, cut, row, at };
    let mut launches = Vec::new();
    for (pass, items) in plan::parts(&cut.passes().unwrap_or_default(), span) {
        if pass == 0 {
            let list = (cut.places(at.state)[0], cut.tile_rows);
            launches.push(entries::launch(op, &attention.scores, &heads, list, items, at));
            continue;
        }
        for (tiles, chunks) in cut.waves.parts(items) {
            launches.extend(attend.launches(tiles, chunks, multiprocessors));
        }
    }
    launches
}

impl Attend<'_> {
    /// Of some tiles and chunks of their keys.
    fn launches(&self, tiles: Span, chunks: Range<u64>, multiprocessors: u32) -> Vec<Launch> {
        let Self { cut, heads, .. } = self;
        let key = |chunk: u64| heads.keys.max(1).min(chunk * cut.chunk);
        let chunks = cut.walked(chunks);
        let keys = key(chunks.start)..key(chunks.end);
        if cut.split > 0 {
            return self.in_parts(tiles, keys);
        }
        let launch = |tiles: Span| {
            let args = self.args(tiles, &keys);
            let Row::AttentionSm90(row) = self.row else {
                return self.plain(self.row, &args, tiles.tiles);
            };
            // Without a key nothing is brought.
            let [k, v] = heads.maps(self.op, row, [args.k.at, args.v.at]).unwrap_or_default();
            let all = AttentionSm90Args { k, v, attention: args, padding: [0; 10] };
            let blocks = walked(tiles.tiles, multiprocessors);
            Launch { row: *self.row, args: Args::AttentionSm90(Box::new(all)), blocks }
        };
        runs(tiles, GRID).map(launch).collect()
    }

    /// Splits of the keys, and what merges the parts that they leave: as many at once as there is room for.
    fn in_parts(&self, tiles: Span, keys: Range<u64>) -> Vec<Launch> {
        let Self { cut, heads, .. } = self;
        // Of packed rows there may be more that nobody owns than any entry has.
        let most = if heads.is_packed { u64::MAX } else { heads.rows.saturating_mul(heads.group) };
        let rows = cut.tile_rows.min(most);
        let splits = |keys: &Range<u64>| keys.end.div_ceil(cut.split) - keys.start / cut.split;
        let mut launches = Vec::new();
        for tiles in runs(tiles, (cut.parts / splits(&keys)).max(1)) {
            for from in keys.clone().step_by((cut.parts * cut.split) as usize) {
                let keys = from..keys.end.min(from + cut.parts * cut.split);
                let args = self.args(tiles, &keys);
                let combine = Row::AttentionCombine(AttentionCombine);
                launches.push(self.plain(self.row, &args, tiles.tiles * splits(&keys)));
                launches.push(self.plain(&combine, &args, tiles.tiles * rows));
            }
        }
        launches
    }

    fn plain(&self, row: &Row, args: &AttentionArgs, blocks: u64) -> Launch {
        Launch { row: *row, args: Args::plain(args), blocks: blocks as u32 }
    }

    fn heads(&self, name: &str, rank: usize) -> leasehold_kernels::Heads {
        let Some((spec, at)) = operand(self.op, self.at, name) else { return Default::default() };
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
    }

    fn pages(&self) -> Pages {
        let (KeyValue::Paged { page }, Some((spec, at)), Some(k)) =
            (self.attention.key_value, operand(self.op, self.at, "pages"), self.op.spec("k"))
        else {
            return Pages::default();
        };
        let [[_, step], [_, entry]] = [0, 1].map(|i| plan::axis(spec, i));
        let count = plan::axis(k, 3)[0] as u32;
        Pages { at, entry: entry as i64, step: step as i64, size: page, count }
    }

    fn args(&self, tiles: Span, keys: &Range<u64>) -> AttentionArgs {
        let Self { op, attention, heads, cut, at, .. } = self;
        let list = |name| {
            operand(op, at, name).map_or((0, 0), |(spec, at)| (at, plan::axis(spec, 0)[1] as i64))
        };
        let ((alibi, alibi_step), (sinks, sinks_step)) = (list("alibi"), list("sinks"));
        let [left, right] = attention.scores.window.unwrap_or([u32::MAX; 2]);
        let [listed, state, partials] = cut.places(at.state);
        let ends = cut.ends(keys, heads.keys.max(1)).map(u32::from);
        let alike = attention.scores.rows == Lens::Full && attention.scores.lens == Lens::Full;
        AttentionArgs {
            q: self.heads("q", 4),
            k: self.heads("k", 4),
            v: self.heads("v", 4),
            mask: self.heads("mask", 4),
            out: self.heads("out", 4),
            lse: self.heads("lse", 3),
            alibi,
            sinks,
            alibi_step,
            sinks_step,
            entries: if heads.is_counted { listed } else { at.made },
            state,
            first_tile: tiles.first,
            tiles: tiles.tiles,
            kv_heads: heads.kv_heads as u32,
            group: heads.group as u32,
            tiles_per_head: cut.tiles_per_head as u32,
            entry_count: (heads.entries + u64::from(heads.is_packed)) as u32,
            alike: u32::from(alike),
            packed: u32::from(heads.is_packed),
            key_from: keys.start as u32,
            key_to: keys.end as u32,
            last: ends[1],
            scale: attention.scores.scale,
            softcap: attention.scores.softcap,
            left,
            right: if attention.scores.causal { 0 } else { right },
            d: heads.d as u32,
            dv: heads.dv as u32,
            split: cut.split as u32,
            first: ends[0],
            heads_at_once: cut.heads_at_once as u32,
            pages: self.pages(),
            fault: at.fault,
            partials,
        }
    }
}
