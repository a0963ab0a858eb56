//! What launches are given: a checked op, the addresses of its operands and a run of tiles become the arguments of a
//! row's kernel. Pure but for the addresses, which come from `memory`; `mod` launches.

use super::plan::{self, Class, Heads, Product};
use crate::op::{Attention, CheckedOp, Lens, Matmul, Op, Spec};
use crate::order::Span;
use leasehold_kernels::{
    AttentionArgs, AttentionSm90Args, Entry, MatmulArgs, MatmulSm90Args, Matrices, Row,
};

/// Blocks that a grid has at most.
const GRID: u64 = i32::MAX as u64;

/// The arguments of one launch, and its blocks.
pub(super) enum Launch {
    Matmul(Box<MatmulArgs>),
    MatmulSm90(Box<MatmulSm90Args>),
    AttentionSm90(Box<AttentionSm90Args>),
}

/// Where an op's operands lie: addresses by role, of the state that a cut tile carries, and of what `prepare` made.
pub(super) struct Addresses<'a> {
    pub(super) operands: &'a [u64],
    pub(super) state: u64,
    pub(super) made: u64,
}

/// Bytes that `prepare` puts into device memory beside the op's operands.
pub(super) fn made(op: &CheckedOp) -> Vec<u8> {
    let Op::Attention(attention) = op.op() else { return Vec::new() };
    bytemuck::cast_slice(&entries(op, attention)).to_vec()
}

/// The launches of a span, with their blocks; kernels that walk their tiles have as many as multiprocessors.
pub(super) fn launches(
    op: &CheckedOp,
    row: &Row,
    class: &Class,
    span: Span,
    at: &Addresses<'_>,
    multiprocessors: u32,
) -> Vec<(Launch, u32)> {
    let runs = |most: u64| {
        (0..span.tiles).step_by(most as usize).map(move |from| Span {
            first: span.first + from,
            tiles: most.min(span.tiles - from),
            ..span
        })
    };
    let walked = |tiles: u64| tiles.min(multiprocessors.into()) as u32;
    match (op.op(), row) {
        (Op::Matmul(matmul), Row::MatmulSm80(_)) => {
            let launch = |part: Span| {
                let args = product(op, matmul, row, class, part, at)?;
                Some((Launch::Matmul(Box::new(args)), part.tiles as u32))
            };
            runs(GRID).filter_map(launch).collect()
        }
        (Op::Matmul(matmul), Row::MatmulSm90(form)) => {
            let launch = || {
                let args = product(op, matmul, row, class, span, at)?;
                let product = Product::of(op)?;
                let [a, b] = product.maps(form, [args.a.at, args.b.at])?;
                let [spread_a, spread_b] = product.sides.map(|lie| lie.spread());
                let rest = MatmulSm90Args::default();
                let all = MatmulSm90Args { a, b, matmul: args, spread_a, spread_b, ..rest };
                Some((Launch::MatmulSm90(Box::new(all)), walked(span.tiles)))
            };
            launch().into_iter().collect()
        }
        (Op::Attention(attention), Row::AttentionSm90(_)) => {
            let launch = || {
                let heads = Heads::of(op, attention, class)?;
                let args = attend(op, attention, &heads, span, at);
                // Without a key nothing is brought.
                let [k, v] = heads.maps(op, [args.k.at, args.v.at]).unwrap_or_default();
                let all = AttentionSm90Args { k, v, attention: args, padding: [0; 12] };
                Some((Launch::AttentionSm90(Box::new(all)), walked(span.tiles)))
            };
            launch().into_iter().collect()
        }
        // No plan has such a pair.
        _ => Vec::new(),
    }
}

/// The operand of a role and its address.
fn operand<'a>(op: &'a CheckedOp, at: &Addresses<'_>, name: &str) -> Option<(&'a Spec, u64)> {
    let place = op.position(name)?;
    Some((op.specs().get(place)?, *at.operands.get(place)?))
}

fn matrices(op: &CheckedOp, at: &Addresses<'_>, name: &str) -> Matrices {
    let Some((spec, at)) = operand(op, at, name) else { return Matrices::default() };
    let step = |from_end| plan::axis(spec, from_end)[1] as i64;
    Matrices {
        at,
        batch: [5, 4, 3, 2].map(step),
        row: step(1),
        column: step(0),
        dtype: spec.dtype as u32,
        present: 1,
    }
}

fn product(
    op: &CheckedOp,
    matmul: &Matmul,
    row: &Row,
    class: &Class,
    span: Span,
    at: &Addresses<'_>,
) -> Option<MatmulArgs> {
    let product = Product::of(op)?;
    let (tile, ..) = plan::form(row)?;
    let [tiles_m, tiles_n] = product.tiles(tile).map(|n| n as u32);
    let link_k = plan::link_k(&product, row, class);
    let of = |name| matrices(op, at, name);
    Some(MatmulArgs {
        a: of("a"),
        b: of("b"),
        bias: of("bias"),
        c: of("c"),
        gate: of("gate"),
        residual: of("residual"),
        out: of("out"),
        preactivation: of("preactivation"),
        state: at.state,
        first_tile: span.first,
        tiles: span.tiles,
        batch: product.batch.map(|n| n as u32),
        m: product.m as u32,
        n: product.n as u32,
        k: product.k as u32,
        tiles_m,
        tiles_n,
        k_from: product.k.min(span.from.saturating_mul(link_k)) as u32,
        k_to: product.k.min(span.to.saturating_mul(link_k)) as u32,
        alpha: matmul.alpha,
        beta: matmul.beta,
        activation: matmul.activation as u32,
    })
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
