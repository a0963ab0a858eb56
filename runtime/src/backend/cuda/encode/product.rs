//! What launches of products are given.

use super::{Addresses, Args, GRID, Launch, operand, runs, walked};
use crate::backend::cuda::plan::{self, Class, Product, Splits};
use crate::op::{CheckedOp, Gate, Group, Lens, Matmul, Scale};
use crate::order::Span;
use leasehold_kernels::{
    BoxMap, MatmulArgs, MatmulGroups, MatmulGroupsArgs, MatmulMerge, MatmulScaledArgs,
    MatmulScaling, MatmulSm90, MatmulSm90Args, MatmulSm90Fp8Args, Matrices, Row, Scales,
};

/// The list of groups, or room for it.
pub(super) fn made(op: &CheckedOp, matmul: &Matmul, row: &Row) -> Vec<u8> {
    let list = Product::of(op, matmul).map(|product| product.list(matmul, row));
    bytemuck::cast_slice(&list.unwrap_or_default()).to_vec()
}

/// As [`super::rows`].
pub(super) fn rows(op: &CheckedOp, matmul: &Matmul, row: &Row, class: &Class) -> Vec<Row> {
    let is_split = Product::of(op, matmul)
        .is_some_and(|product| Splits::of(op, &product, matmul, row, class).is_some());
    let others = [
        (matmul.sizes.on_device(), Row::MatmulGroups(MatmulGroups)),
        (is_split, Row::MatmulMerge(MatmulMerge)),
    ];
    let others = others.into_iter().filter_map(|(is, row)| is.then_some(row));
    [*row].into_iter().chain(others).collect()
}

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
    if let Some(launches) = split(op, matmul, row, class, span, at, multiprocessors) {
        return launches;
    }
    let launch = |part: Span| {
        let matmul_args = product(op, matmul, row, class, part, at)?;
        let scaled = || MatmulScaledArgs { matmul: matmul_args, scaling: scaling(op, matmul, at) };
        let args = match row {
            Row::MatmulSm90(form) => {
                Args::MatmulSm90(Box::new(sm90(op, matmul, form, &matmul_args)?))
            }
            Row::MatmulSm90Fp8(_) => {
                let ([a, b], [spread_a, spread_b]) = brought(op, matmul, row, &matmul_args)?;
                let (scaled, padding) = (scaled(), Default::default());
                let all = MatmulSm90Fp8Args { a, b, scaled, spread_a, spread_b, padding };
                Args::MatmulSm90Fp8(Box::new(all))
            }
            Row::MatmulReference(_) | Row::MatmulSm80Bytes(_) => Args::plain(&scaled()),
            _ => Args::plain(&matmul_args),
        };
        let blocks = match args {
            Args::Plain(_) => part.tiles as u32,
            _ => {
                let cluster = if let Row::MatmulSm90(form) = row { form.cluster } else { 1 };
                cluster * walked(part.tiles, (multiprocessors / cluster).max(1))
            }
        };
        Some(Launch { row: *row, args, blocks })
    };
    // Where groups are counted on the device, they are before each launch: their list does not outlive a slice.
    counted(op, matmul, row, at).into_iter().chain(runs(span, GRID).filter_map(launch)).collect()
}

fn sm90(
    op: &CheckedOp,
    matmul: &Matmul,
    row: &MatmulSm90,
    args: &MatmulArgs,
) -> Option<MatmulSm90Args> {
    let ([a, b], [spread_a, spread_b]) = brought(op, matmul, &Row::MatmulSm90(*row), args)?;
    let out = row.out(args);
    let stores_boxes = out.is_some().into();
    let (out, matmul, rest) = (out.unwrap_or_default(), *args, MatmulSm90Args::default());
    Some(MatmulSm90Args { a, b, out, matmul, spread_a, spread_b, stores_boxes, ..rest })
}

/// The launches of a product whose K is split; `None` of any other.
fn split(
    op: &CheckedOp,
    matmul: &Matmul,
    row: &Row,
    class: &Class,
    span: Span,
    at: &Addresses<'_>,
    multiprocessors: u32,
) -> Option<Vec<Launch>> {
    let Row::MatmulSm90(form) = row else { return None };
    let whole = Product::of(op, matmul)?;
    let splits = Splits::of(op, &whole, matmul, row, class)?;
    let launch = |(pass, tiles): (usize, std::ops::Range<u64>)| {
        let (first, tiles) = (tiles.start, tiles.end - tiles.start);
        let part = Span { first, tiles, from: 0, to: 1 };
        let state = at.state + first * splits.tile_bytes;
        let k_to = whole.k as u32;
        let args = MatmulArgs { state, k_to, ..product(op, matmul, row, class, part, at)? };
        if pass == 1 {
            let eights = tiles * u64::from(form.rows * form.columns / 8);
            let row = Row::MatmulMerge(MatmulMerge);
            let blocks = eights.div_ceil(row.threads().into()).min(GRID) as u32;
            return Some(Launch {
                row,
                args: Args::plain(&form.merge(&args, splits.count)),
                blocks,
            });
        }
        let all = sm90(op, matmul, form, &args)?;
        let all = MatmulSm90Args { splits: splits.count, split_k: Splits::LENGTH, ..all };
        let clusters =
            walked(tiles * u64::from(splits.count), (multiprocessors / form.cluster).max(1));
        let args = Args::MatmulSm90(Box::new(all));
        Some(Launch { row: *row, args, blocks: form.cluster * clusters })
    };
    Some(plan::parts(&splits.passes, span).into_iter().filter_map(launch).collect())
}

/// What the copy engine is told of A and B, and along which axes of the batch they are not repeated.
fn brought(
    op: &CheckedOp,
    matmul: &Matmul,
    row: &Row,
    args: &MatmulArgs,
) -> Option<([BoxMap; 2], [u32; 2])> {
    let product = Product::of(op, matmul)?;
    let maps = product.maps(row, [args.a.at, args.b.at])?;
    Some((maps, product.sides.map(|lie| lie.spread())))
}

/// The launch that makes the list of groups from sizes in device memory.
fn counted(op: &CheckedOp, matmul: &Matmul, row: &Row, at: &Addresses<'_>) -> Option<Launch> {
    let Lens::Device { max } = matmul.sizes else { return None };
    let (product, (sizes, from)) = (Product::of(op, matmul)?, operand(op, at, "sizes")?);
    let room = match matmul.group {
        Group::K => plan::axis(op.spec("a")?, 0)[0],
        _ => product.m,
    };
    let args = MatmulGroupsArgs {
        sizes: from,
        step: plan::axis(sizes, 0)[1] as i64,
        groups: at.made,
        fault: at.fault,
        count: product.groups as u32,
        most: max,
        room: room as u32,
        follow: u32::from(matmul.group != Group::Masked),
        tile_rows: plan::form(row)?.0[0],
        rest: u32::from(matmul.group == Group::Contiguous),
    };
    Some(Launch { row: Row::MatmulGroups(MatmulGroups), args: Args::plain(&args), blocks: 1 })
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

/// Scales of a side: over all of k, or over each 128 of it.
fn scales(op: &CheckedOp, at: &Addresses<'_>, name: &str, scale: Scale) -> Scales {
    let Some((spec, at)) = operand(op, at, name) else { return Scales::default() };
    let step = |from_end| plan::axis(spec, from_end)[1] as i64;
    let all = Scales { at, ..Scales::default() };
    // The axis of the outer index, and that of k, from the end.
    let (outer, depth) = if name == "scale_a" { (1, 0) } else { (0, 1) };
    match scale {
        Scale::None => Scales::default(),
        Scale::Tensor => Scales { covers: 1, ..all },
        Scale::Row => Scales { batch: [4, 3, 2, 1].map(step), outer: step(0), covers: 1, ..all },
        Scale::Block1x128 | Scale::Block128x128 => Scales {
            batch: [5, 4, 3, 2].map(step),
            outer: step(outer),
            depth: step(depth),
            shift: if scale == Scale::Block128x128 { 7 } else { 0 },
            covers: 2,
            ..all
        },
    }
}

fn scaling(op: &CheckedOp, matmul: &Matmul, at: &Addresses<'_>) -> MatmulScaling {
    let (out, quantize) = match matmul.quantize {
        Scale::Tensor => {
            let one = operand(op, at, "scale_out").map_or(0, |(_, at)| at);
            (Matrices { at: one, present: 1, ..Matrices::default() }, 1)
        }
        Scale::Block1x128 => (matrices(op, at, "out_scale"), 2),
        _ => (Matrices::default(), 0),
    };
    MatmulScaling {
        a: scales(op, at, "scale_a", matmul.scales[0]),
        b: scales(op, at, "scale_b", matmul.scales[1]),
        out,
        quantize,
        padding: 0,
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
    let product = Product::of(op, matmul)?;
    let [tiles_m, tiles_n] = product.tiles(matmul, row).map(|n| n as u32);
    let link_k = plan::link_k(&product, matmul, row, class);
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
        interleaved: u32::from(matmul.gate == Gate::Interleaved),
        group: matmul.group as u32,
        group_count: product.groups as u32,
        padding: 0,
        groups: at.made,
    })
}
