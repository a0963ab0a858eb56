//! What launches of products are given.

use super::{Addresses, Args, GRID, Launch, operand, runs, walked};
use crate::backend::cuda::plan::{self, Class, Product, Splits};
use crate::op::{CheckedOp, Gate, Group, Lens, Matmul, Scale};
use crate::order::Span;
use leasehold_kernels::{
    BoxMap, Indices, MatmulArgs, MatmulGroups, MatmulGroupsArgs, MatmulIndices, MatmulIndicesArgs,
    MatmulMerge, MatmulScaledArgs, MatmulScaling, MatmulSm90, MatmulSm90Args, MatmulSm90Fp8,
    MatmulSm90Fp8Args, Matrices, MatrixPair, Row, Scales,
};

/// The kernels' numbers are those of groupings, and one that is none of theirs.
const _: () = assert!(Group::K as u32 == MatmulArgs::ALONG_K);
const _: () = assert!(Group::K as u32 + 1 == MatmulArgs::BY_INDEX);

/// The list of groups, or room for it, or for that of matrices which indices name.
pub(super) fn made(op: &CheckedOp, matmul: &Matmul, row: &Row) -> Vec<u8> {
    let Some(product) = Product::of(op, matmul) else { return Vec::new() };
    if matmul.is_indexed() {
        return vec![0; product.listed(matmul) as usize * size_of::<MatrixPair>()];
    }
    bytemuck::cast_slice(&product.list(matmul, row)).to_vec()
}

/// As [`super::rows`].
pub(super) fn rows(op: &CheckedOp, matmul: &Matmul, row: &Row, class: &Class) -> Vec<Row> {
    let is_split = Product::of(op, matmul)
        .is_some_and(|product| Splits::of(op, &product, matmul, row, class).is_some());
    let others = [
        (matmul.sizes.on_device(), Row::MatmulGroups(MatmulGroups)),
        (matmul.is_indexed(), Row::MatmulIndices(MatmulIndices)),
        (is_split, Row::MatmulMerge(MatmulMerge)),
    ];
    let others = others.into_iter().filter_map(|(is, row)| is.then_some(row));
    [*row].into_iter().chain(others).collect()
}

/// As [`super::launches`]; none where one of them cannot be said: a product is launched whole or not at all.
pub(super) fn launches(
    op: &CheckedOp,
    matmul: &Matmul,
    row: &Row,
    class: &Class,
    span: Span,
    at: &Addresses<'_>,
    multiprocessors: u32,
) -> Option<Vec<Launch>> {
    let product = Product::of(op, matmul)?;
    let source = Source { op, matmul, product, row, class, at, multiprocessors };
    if let Some(splits) = Splits::of(op, &product, matmul, row, class) {
        return source.split(&splits, span);
    }
    if matmul.is_indexed() {
        return source.indexed(span);
    }
    // Where groups are counted on the device, they are before each launch: their list does not outlive a slice.
    let parts = runs(span, GRID).map(|part| source.launch(source.args(part)));
    let counted = matmul.sizes.on_device().then(|| source.counted());
    counted.into_iter().chain(parts).collect()
}

/// What the launches of a product are encoded from.
struct Source<'a> {
    op: &'a CheckedOp,
    matmul: &'a Matmul,
    product: Product,
    row: &'a Row,
    class: &'a Class,
    at: &'a Addresses<'a>,
    multiprocessors: u32,
}

impl Source<'_> {
    /// The launch of what `args` say.
    fn launch(&self, args: MatmulArgs) -> Option<Launch> {
        let scaled = || MatmulScaledArgs { matmul: args, scaling: self.scaling() };
        let given = match self.row {
            Row::MatmulSm90(form) => Args::MatmulSm90(Box::new(self.sm90(form, &args)?)),
            Row::MatmulSm90Fp8(form) => Args::MatmulSm90Fp8(Box::new(self.fp8(form, scaled())?)),
            Row::MatmulReference(_) | Row::MatmulSm80Bytes(_) => Args::plain(&scaled()),
            _ => Args::plain(&args),
        };
        let blocks = match given {
            Args::Plain(_) => args.tiles as u32,
            _ => self.walked(args.tiles),
        };
        Some(Launch { row: *self.row, args: given, blocks })
    }

    /// Blocks that deal out tiles, in whole clusters.
    fn walked(&self, tiles: u64) -> u32 {
        let cluster = self.row.cluster();
        cluster * walked(tiles, (self.multiprocessors / cluster).max(1))
    }

    fn sm90(&self, form: &MatmulSm90, args: &MatmulArgs) -> Option<MatmulSm90Args> {
        let ([a, b], [spread_a, spread_b]) = self.brought(args)?;
        let out = form.out(args);
        let stores_boxes = out.is_some().into();
        let (out, matmul, rest) = (out.unwrap_or_default(), *args, MatmulSm90Args::default());
        Some(MatmulSm90Args { a, b, out, matmul, spread_a, spread_b, stores_boxes, ..rest })
    }

    fn fp8(&self, form: &MatmulSm90Fp8, scaled: MatmulScaledArgs) -> Option<MatmulSm90Fp8Args> {
        let ([a, b], [spread_a, spread_b]) = self.brought(&scaled.matmul)?;
        let out = form.out(&scaled);
        let (stores_boxes, padding) = (out.is_some().into(), 0);
        let out = out.unwrap_or_default();
        Some(MatmulSm90Fp8Args { a, b, out, scaled, spread_a, spread_b, stores_boxes, padding })
    }

    /// What the copy engine is told of A and B, and along which axes of the batch they are not repeated: what indices name
    /// is an axis of its own.
    fn brought(&self, args: &MatmulArgs) -> Option<([BoxMap; 2], [u32; 2])> {
        let maps = self.product.maps(self.row, [args.a.at, args.b.at])?;
        let is_indexed = [self.matmul.index_a, self.matmul.index_b];
        let spread = |side: usize| match is_indexed[side] {
            true => 0,
            false => self.product.sides[side].spread(),
        };
        Some((maps, [spread(0), spread(1)]))
    }

    /// The launches of a product whose K is split.
    fn split(&self, splits: &Splits, span: Span) -> Option<Vec<Launch>> {
        let Row::MatmulSm90(form) = self.row else { return None };
        let launch = |(pass, tiles): (usize, std::ops::Range<u64>)| {
            let (first, tiles) = (tiles.start, tiles.end - tiles.start);
            let part = Span { first, tiles, from: 0, to: 1 };
            let state = self.at.state + first * splits.tile_bytes;
            let args = MatmulArgs { state, k_to: self.product.k as u32, ..self.args(part) };
            if pass == 1 {
                let eights = tiles * u64::from(form.rows * form.columns / 8);
                let row = Row::MatmulMerge(MatmulMerge);
                let blocks = eights.div_ceil(row.threads().into()).min(GRID) as u32;
                let args = Args::plain(&form.merge(&args, splits.count));
                return Some(Launch { row, args, blocks });
            }
            let all = self.sm90(form, &args)?;
            let all = MatmulSm90Args { splits: splits.count, split_k: Splits::LENGTH, ..all };
            let blocks = self.walked(tiles * u64::from(splits.count));
            Some(Launch { row: *self.row, args: Args::MatmulSm90(Box::new(all)), blocks })
        };
        plan::parts(&splits.passes, span).into_iter().map(launch).collect()
    }

    /// The launches of a product whose matrices indices name: each behind the one that makes the list of its entries.
    fn indexed(&self, span: Span) -> Option<Vec<Launch>> {
        let of_entry: u64 = self.product.tiles(self.matmul, self.row).iter().product();
        // A run may begin inside an entry, and end inside another.
        let listed = self.product.listed(self.matmul);
        let most = match u128::from(listed) == self.product.entries(self.matmul) {
            true => GRID,
            false => (listed - 1).saturating_mul(of_entry).clamp(1, GRID),
        };
        let launches = |part: Span| {
            let (first, end) =
                (part.first / of_entry, (part.first + part.tiles).div_ceil(of_entry));
            let groups = self.at.made.wrapping_sub(first * size_of::<MatrixPair>() as u64);
            let product = self.launch(MatmulArgs { groups, ..self.args(part) })?;
            Some([self.named(first, end - first)?, product])
        };
        let both: Option<Vec<[Launch; 2]>> = runs(span, most).map(launches).collect();
        Some(both?.into_iter().flatten().collect())
    }

    /// The launch that makes the list of the matrices that some entries name.
    fn named(&self, first: u64, count: u64) -> Option<Launch> {
        let row = Row::MatmulIndices(MatmulIndices);
        let args = MatmulIndicesArgs {
            a: self.indices("a", "a_index")?,
            b: self.indices("b", "b_index")?,
            pairs: self.at.made,
            fault: self.at.fault,
            batch: self.product.batch.map(|n| n as u32),
            first: first as u32,
            count: count as u32,
        };
        let blocks = count.div_ceil(row.threads().into()) as u32;
        Some(Launch { row, args: Args::plain(&args), blocks })
    }

    /// The indices of a side, if it has some.
    fn indices(&self, side: &str, index: &str) -> Option<Indices> {
        let Some((index, at)) = operand(self.op, self.at, index) else {
            return Some(Indices::default());
        };
        let side = self.op.spec(side)?;
        let [matrices, step] = plan::axis(side, 2);
        let is_mapped = matches!(self.row, Row::MatmulSm90(_) | Row::MatmulSm90Fp8(_));
        Some(Indices {
            at,
            batch: [3, 2, 1, 0].map(|from_end| plan::axis(index, from_end)[1] as i64),
            // Matrices that are all one are one in a map.
            step: if is_mapped { step.min(1) } else { step.wrapping_mul(side.dtype.size()) },
            matrices: matrices as u32,
            present: 1,
        })
    }

    /// The launch that makes the list of groups from sizes in device memory.
    fn counted(&self) -> Option<Launch> {
        let Lens::Device { max } = self.matmul.sizes else { return None };
        let (sizes, from) = operand(self.op, self.at, "sizes")?;
        let room = match self.matmul.group {
            Group::K => plan::axis(self.op.spec("a")?, 0)[0],
            _ => self.product.m,
        };
        let args = MatmulGroupsArgs {
            sizes: from,
            step: plan::axis(sizes, 0)[1] as i64,
            groups: self.at.made,
            fault: self.at.fault,
            count: self.product.groups as u32,
            most: max,
            room: room as u32,
            follow: u32::from(self.matmul.group != Group::Masked),
            tile_rows: plan::form(self.row)?.0[0],
            rest: u32::from(self.matmul.group == Group::Contiguous),
        };
        Some(Launch { row: Row::MatmulGroups(MatmulGroups), args: Args::plain(&args), blocks: 1 })
    }

    fn matrices(&self, name: &str) -> Matrices {
        let Some((spec, at)) = operand(self.op, self.at, name) else { return Matrices::default() };
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

    /// A side of the product: what indices name does not lie along the batch.
    fn side(&self, name: &str, is_indexed: bool) -> Matrices {
        let side = self.matrices(name);
        Matrices { batch: if is_indexed { [0; 4] } else { side.batch }, ..side }
    }

    fn args(&self, span: Span) -> MatmulArgs {
        let Self { matmul, product, row, class, at, .. } = self;
        let [tiles_m, tiles_n] = product.tiles(matmul, row).map(|n| n as u32);
        let link_k = plan::link_k(product, matmul, row, class);
        MatmulArgs {
            a: self.side("a", matmul.index_a),
            b: self.side("b", matmul.index_b),
            bias: self.matrices("bias"),
            c: self.matrices("c"),
            gate: self.matrices("gate"),
            residual: self.matrices("residual"),
            out: self.matrices("out"),
            preactivation: self.matrices("preactivation"),
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
            group: if matmul.is_indexed() { MatmulArgs::BY_INDEX } else { matmul.group as u32 },
            group_count: product.groups as u32,
            padding: 0,
            groups: at.made,
        }
    }

    /// Scales of a side: over all of k, or over each 128 of it.
    fn scales(&self, name: &str, scale: Scale) -> Scales {
        let Some((spec, at)) = operand(self.op, self.at, name) else { return Scales::default() };
        let step = |from_end| plan::axis(spec, from_end)[1] as i64;
        let all = Scales { at, ..Scales::default() };
        // The axis of the outer index, and that of k, from the end.
        let (outer, depth) = if name == "scale_a" { (1, 0) } else { (0, 1) };
        match scale {
            Scale::None => Scales::default(),
            Scale::Tensor => Scales { covers: 1, ..all },
            Scale::Row => {
                Scales { batch: [4, 3, 2, 1].map(step), outer: step(0), covers: 1, ..all }
            }
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

    fn scaling(&self) -> MatmulScaling {
        let (out, quantize) = match self.matmul.quantize {
            Scale::Tensor => {
                let one = operand(self.op, self.at, "scale_out").map_or(0, |(_, at)| at);
                (Matrices { at: one, present: 1, ..Matrices::default() }, 1)
            }
            Scale::Block1x128 => (self.matrices("out_scale"), 2),
            _ => (Matrices::default(), 0),
        };
        MatmulScaling {
            a: self.scales("scale_a", self.matmul.scales[0]),
            b: self.scales("scale_b", self.matmul.scales[1]),
            out,
            quantize,
            padding: 0,
        }
    }
}
