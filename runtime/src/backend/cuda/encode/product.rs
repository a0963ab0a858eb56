//! What launches of products are given.

use super::{Addresses, Args, GRID, Launch, operand, runs, walked};
use crate::backend::cuda::plan::{self, Class, Product};
use crate::op::{CheckedOp, Matmul};
use crate::order::Span;
use leasehold_kernels::{MatmulArgs, MatmulSm90Args, Matrices, Row};

/// As [`super::launches`].
pub(super) fn launches(
    op: &CheckedOp,
    matmul: &Matmul,
    row: &Row,
    class: &Class,
    span: Span,
    at: &Addresses<'_>,
    multiprocessors: u32,
) -> Vec<Launch> {
    let Row::MatmulSm90(form) = row else {
        let launch = |part: Span| {
            let args = Args::plain(&product(op, matmul, row, class, part, at)?);
            Some(Launch { row: *row, args, blocks: part.tiles as u32 })
        };
        return runs(span, GRID).filter_map(launch).collect();
    };
    let launch = || {
        let args = product(op, matmul, row, class, span, at)?;
        let product = Product::of(op)?;
        let [a, b] = product.maps(form, [args.a.at, args.b.at])?;
        let [spread_a, spread_b] = product.sides.map(|lie| lie.spread());
        let rest = MatmulSm90Args::default();
        let all = MatmulSm90Args { a, b, matmul: args, spread_a, spread_b, ..rest };
        let blocks = walked(span.tiles, multiprocessors);
        Some(Launch { row: *row, args: Args::MatmulSm90(Box::new(all)), blocks })
    };
    launch().into_iter().collect()
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
