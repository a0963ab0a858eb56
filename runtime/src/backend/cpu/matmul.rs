//! The product kernel: bands of an output tile, each computed by one thread over fixed chunks of K into
//! an f32 accumulator (by multiply-adds, by dot products, or for few rows by `few`), then the epilogue while the band is hot. `compute` calls it.
//!
//! Chunks of 8-bit values are summed apart and promoted. Those of i8 are whole numbers below 2^24, so their f32 sums
//! are exact in any order and the accumulator counts them in i32, unless scales change along K.

use super::Fault;
use super::bf16;
use super::dot::{Line, TILE};
use super::dots::{Packed, Padded};
use super::epilogue::Epilogue;
use super::few::{self, Few, Left};
use super::few_tiles;
use super::geometry::{Product, Way};
use super::groups::{Block, Blocks, Indices};
use super::isa::{Isa, Kernel, fma};
use super::memory::View;
use super::plan::{BAND_ROWS, Span};
use super::pool::Pool;
use super::product::{Columns, Panel, Source, Target, multiply};
use super::scratch::{with_factors, with_rows, with_shared, with_tiles};
use super::shared::Shared;
use crate::DType;
use crate::op::{CheckedOp, Group, Matmul, Op, Scale};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Rows, columns and elements of K that share a scale.
const BLOCK: u64 = 128;

/// A product on its operands.
pub(super) struct Bands<'a> {
    isa: Isa,
    /// Of this process: tells what threads hold of A apart.
    launch: u64,
    op: &'a Matmul,
    product: Product,
    blocks: Blocks,
    indices: Indices<'a>,
    a: &'a View,
    b: &'a View,
    out: &'a View,
    /// Scales of A and B that change along K.
    scales: [Option<&'a View>; 2],
    sums: Sums,
    epilogue: Epilogue<'a>,
    state: Option<&'a View>,
}

/// How chunks are merged.
#[derive(Clone, Copy, PartialEq)]
enum Sums {
    /// In the accumulator itself.
    Direct,
    /// Summed apart, then added in f32, scaled.
    Promoted,
    /// Summed apart, then added in i32.
    Whole,
}

/// A band: some rows of a block and columns of a tile.
pub(super) struct Band {
    pub(super) block: Block,
    pub(super) col: u64,
    pub(super) cols: u64,
    /// First element of the band in the carried state of its tile.
    state_at: u64,
}

impl<'a> Bands<'a> {
    pub(super) fn new(
        isa: Isa,
        checked: &'a CheckedOp,
        views: &'a [View],
        state: Option<&'a View>,
        fault: &'a Fault,
    ) -> Option<Self> {
        let Op::Matmul(op) = checked.op() else { return None };
        let view = |name| checked.position(name).map(|i| &views[i]);
        let by_k = |name, scale| match scale {
            Scale::Block1x128 | Scale::Block128x128 => view(name),
            _ => None,
        };
        let product = Product::of(checked, op, isa);
        let (a, b, out) = (view("a")?, view("b")?, view("out")?);
        let scales = [by_k("scale_a", op.scales[0]), by_k("scale_b", op.scales[1])];
        let sums = match a.dtype {
            DType::I8 if scales.iter().all(Option::is_none) => Sums::Whole,
            dtype if dtype.size() == 1 => Sums::Promoted,
            _ => Sums::Direct,
        };
        static LAUNCHES: AtomicU64 = AtomicU64::new(0);
        Some(Self {
            isa,
            launch: LAUNCHES.fetch_add(1, Relaxed),
            op,
            blocks: Blocks::of(op, &product, view("sizes"), fault),
            indices: Indices::of(checked, views, fault),
            product,
            a,
            b,
            out,
            scales,
            sums,
            epilogue: Epilogue::new(isa, checked, op, views, sums == Sums::Whole)?,
            state,
        })
    }

    /// Runs a span of tiles on the pool; `constant` is all of B, packed before.
    pub(super) fn run(&mut self, span: Span, pool: &Pool, item_ns: u64, constant: Option<&[Line]>) {
        // A slice of few tiles is for all threads too; a row has its bits in a band of any height.
        if self.product.way == Way::Wide && span.tiles * self.bands() < 2 * pool.threads() as u64 {
            self.product.band_rows = self.product.band_rows.min(BAND_ROWS[2]);
        }
        let bands = self.bands();
        if self.product.way == Way::Dot && (self.product.shares || constant.is_some()) {
            let tiles = constant.map(|lines| lines.as_chunks().0);
            return self.run_packed(span, pool, item_ns / bands, tiles);
        }
        with_shared(|lines| {
            let shared = match constant {
                Some(lines) => Some(self.pieces(self.whole()).of(lines)),
                None => self.share(span, pool, lines),
            };
            pool.run(span.tiles * bands, item_ns / bands, |i| {
                let (tile, band) = (span.first + i / bands, i % bands);
                if let Some(band) = self.band(tile, band) {
                    self.links(&band, [span.from, span.to], shared.as_ref(), None);
                }
            });
        });
    }

    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    pub(super) fn product(&self) -> &Product {
        &self.product
    }

    pub(super) fn op(&self) -> &Matmul {
        self.op
    }

    /// All tiles, from end to end.
    pub(super) fn whole(&self) -> Span {
        Span { first: 0, tiles: self.product.tiles as u64, from: 0, to: self.product.links }
    }

    /// Bands of a tile.
    pub(super) fn bands(&self) -> u64 {
        self.product.tile[0].min(self.product.m).div_ceil(self.product.band_rows).max(1)
    }

    pub(super) fn band(&self, tile: u64, band: u64) -> Option<Band> {
        let p = &self.product;
        let mut block = self.indices.resolve(self.blocks.get(p, tile / p.tiles_n)?);
        let before = band * p.band_rows;
        block.row += before;
        block.rows = block.rows.checked_sub(before)?.min(p.band_rows);
        block.owned = block.owned.saturating_sub(before).min(block.rows);
        let col = tile % p.tiles_n * p.tile[1];
        let cols = p.tile[1].min(p.n - col);
        (block.rows > 0).then(|| Band { block, col, cols, state_at: before * p.tile[1] })
    }

    /// Links `from..to` of a band: its accumulator from the state or from zero, back to the state or through the
    /// epilogue. Without an epilogue it is summed where the output lies, however the chain is cut; the size of a
    /// group may change between two links, so there a chain must be whole.
    pub(super) fn links(
        &self,
        band: &Band,
        [from, to]: [u64; 2],
        shared: Option<&Shared<'_>>,
        packed: Option<&Packed<'_>>,
    ) {
        let p = &self.product;
        let chunks = (band.block.k.end - band.block.k.start).div_ceil(p.chunk).max(1);
        let [first, last] = [from, to].map(|link| (link * p.per_link).min(chunks));
        let ends = to == p.links;
        let whole = band.block.owned == band.block.rows;
        with_tiles(|[acc, a, b, part]| {
            let direct = p.way == Way::Wide && whole && self.sums == Sums::Direct;
            // A group's size may change between slices, and so may an index.
            let told = self.op.group != Group::None || self.op.is_indexed();
            let steady = from == 0 && ends || !told;
            if direct && steady && self.epilogue.is_plain() {
                let start = start(self.out, band.block.entry, [band.block.row, band.col]);
                let size = [band.block.rows, band.cols];
                if let Some(mut out) = Target::of(self.out, start, steps(self.out), size) {
                    return self.direct(band, first..last, shared, &mut out, [a, b]);
                }
            }
            let cols = band.cols as usize;
            let [rows, ld] = match p.way {
                Way::Dot => [band.block.rows, band.cols].map(bf16::padded),
                Way::Few(Few::Tiles) => [cols.next_multiple_of(TILE), TILE],
                _ => [band.block.rows as usize, cols],
            };
            acc.resize(rows * ld, 0.0);
            // A first run of dot products writes all, unless rows or K are without a group.
            let fresh = p.way == Way::Dot && whole && from == 0 && ends && !band.block.k.is_empty();
            match self.state {
                Some(state) if from > 0 => state.load(self.isa, band.state_at, 1, acc),
                // Direct sums begin where the first chunk writes.
                _ if direct || fresh => {}
                _ => acc.fill(0.0),
            }
            match p.way {
                Way::Few(form) => self.few(band, first..last, form, acc),
                Way::Dot => {
                    self.dots(band, first..last, packed, &mut Padded { acc, ld, add: !fresh })
                }
                Way::Wide if self.sums == Sums::Direct => {
                    let target = &mut Target::dense(acc, cols, cols);
                    self.direct(band, first..last, shared, target, [a, b]);
                }
                Way::Wide => self.promoted(band, first..last, shared, acc, [a, b, part]),
            }
            match self.state {
                Some(state) if !ends => state.store(self.isa, band.state_at, 1, acc),
                _ if p.way == Way::Few(Few::Tiles) => {
                    few_tiles::turn(acc, band.block.rows as usize, cols, part);
                    self.epilogue.write(band, part, cols);
                }
                _ => self.epilogue.write(band, acc, ld),
            }
        });
    }

    /// A and B of a chunk.
    fn panels<'b>(
        &'b self,
        band: &Band,
        chunk: u64,
        shared: Option<&'b Shared<'_>>,
        [pa, pb]: [&'b mut Vec<f32>; 2],
    ) -> (Panel<'b>, Columns<'b>) {
        let Block { of_a, group, row, owned, ref k, .. } = band.block;
        let k0 = k.start + chunk * self.product.chunk;
        let depth = self.product.chunk.min(k.end - k0.min(k.end));
        let a = self.panel(self.a, of_a, [row, k0], [owned, depth], pa);
        let size = [depth, band.cols];
        let packed = shared.and_then(|b| b.get(chunk, band.col / self.product.tile[1], size));
        let b = packed.unwrap_or_else(|| self.columns(group, [k0, band.col], size, pb).into());
        (a, b)
    }

    /// A part of B.
    pub(super) fn columns<'b>(
        &'b self,
        group: u64,
        at: [u64; 2],
        size: [u64; 2],
        buffer: &'b mut Vec<f32>,
    ) -> Panel<'b> {
        self.panel(self.b, group, at, size, buffer)
    }

    fn panel<'b>(
        &self,
        view: &'b View,
        entry: u64,
        at: [u64; 2],
        size: [u64; 2],
        buffer: &'b mut Vec<f32>,
    ) -> Panel<'b> {
        let axes = view.shape.rank() - 2;
        let strides = [view.strides[axes], view.strides[axes + 1]];
        Panel::of(self.isa, view, start(view, entry, at), strides, size, buffer)
    }

    /// Rows of A that a band owns, and columns of B, in a run of K: where they lie.
    pub(super) fn rows_of(&self, band: &Band, k: Range<u64>) -> Source<'_> {
        let [row_step, along] = steps(self.a);
        Source {
            view: self.a,
            start: start(self.a, band.block.of_a, [band.block.row, k.start]),
            outer_step: row_step,
            depth_step: along,
            outer: band.block.owned as usize,
            depth: (k.end - k.start) as usize,
        }
    }

    pub(super) fn columns_of(&self, group: u64, k: Range<u64>, cols: Range<u64>) -> Source<'_> {
        let [down, column_step] = steps(self.b);
        Source {
            view: self.b,
            start: start(self.b, group, [k.start, cols.start]),
            outer_step: column_step,
            depth_step: down,
            outer: (cols.end - cols.start) as usize,
            depth: (k.end - k.start) as usize,
        }
    }

    /// `target (+)= A[rows, chunks] B[chunks, cols]`, one chunk after the other. Nothing of rows without a group.
    fn direct(
        &self,
        band: &Band,
        chunks: Range<u64>,
        shared: Option<&Shared<'_>>,
        target: &mut Target<'_>,
        [pa, pb]: [&mut Vec<f32>; 2],
    ) {
        for chunk in chunks.filter(|_| band.block.owned > 0) {
            let (a, b) = self.panels(band, chunk, shared, [pa, pb]);
            multiply(self.isa, a, b, target, chunk > 0, 1.0);
        }
    }

    /// The same of few rows.
    fn few(&self, band: &Band, chunks: Range<u64>, form: Few, acc: &mut [f32]) {
        let Block { of_a, group, row, owned, ref k, .. } = band.block;
        // What is held of A has its depth.
        if k.is_empty() {
            return;
        }
        let (depth, chunk) = (k.end - k.start, self.product.chunk);
        let a = Left {
            view: self.a,
            start: start(self.a, of_a, [row, k.start]),
            steps: steps(self.a),
            rows: owned as usize,
            depth,
            chunk,
        };
        let [down, across] = steps(self.b);
        with_factors(|factors| {
            let of = [self.launch, of_a, chunks.start, chunks.end];
            factors.hold(self.isa, form, of, &a, chunks.clone());
            for chunk_of in chunks {
                let k0 = k.start + chunk_of * chunk;
                few::Add {
                    form,
                    a: factors,
                    chunk: chunk_of,
                    b: self.b,
                    start: start(self.b, group, [k0, band.col]),
                    step: if form == Few::Rows { down } else { across },
                    depth: chunk.min(k.end - k0.min(k.end)) as usize,
                    cols: band.cols as usize,
                    sums: acc,
                }
                .run(self.isa);
            }
        });
    }

    /// The same by way of a sum of each chunk.
    fn promoted(
        &self,
        band: &Band,
        chunks: Range<u64>,
        shared: Option<&Shared<'_>>,
        acc: &mut [f32],
        [pa, pb, part]: [&mut Vec<f32>; 3],
    ) {
        // Without K there is no scale to read either: an empty operand may claim to lie anywhere.
        if band.block.k.is_empty() {
            return;
        }
        let (rows, cols) = (band.block.owned as usize, band.cols as usize);
        part.resize(rows * cols, 0.0);
        let acc = &mut acc[..rows * cols];
        for chunk in chunks.filter(|_| rows > 0) {
            let (a, b) = self.panels(band, chunk, shared, [pa, pb]);
            multiply(self.isa, a, b, &mut Target::dense(part, cols, cols), false, 1.0);
            if self.sums == Sums::Whole {
                self.isa.run(Count { acc: bytemuck::cast_slice_mut(acc), part });
                continue;
            }
            with_rows(|[of_rows, of_cols]| {
                of_rows.resize(rows, 1.0);
                of_cols.resize(cols, 1.0);
                self.block_scales(0, band.block.of_a, [band.block.row, chunk], of_rows);
                self.block_scales(1, band.block.group, [band.col, chunk], of_cols);
                self.isa.run(Promote { acc: &mut *acc, part, of_rows, of_cols });
            });
        }
    }

    /// The factors of the rows of A, or the columns of B, from `first` on in a chunk of K.
    fn block_scales(
        &self,
        which: usize,
        entry: u64,
        [first, chunk]: [u64; 2],
        factors: &mut [f32],
    ) {
        let Some(view) = self.scales[which] else { return factors.fill(1.0) };
        let axes = view.shape.rank() - 2;
        let steps = [view.strides[axes], view.strides[axes + 1]];
        let (along, by_k) = if which == 0 { (steps[0], steps[1]) } else { (steps[1], steps[0]) };
        let start = view.outer_offset(entry, axes) + chunk * by_k;
        if self.op.scales[which] == Scale::Block1x128 {
            return view.load(self.isa, start + first * along, along, factors);
        }
        let mut at = first;
        let mut rest = factors;
        while !rest.is_empty() {
            let block = ((BLOCK - at % BLOCK) as usize).min(rest.len());
            let (same, behind) = std::mem::take(&mut rest).split_at_mut(block);
            view.load(self.isa, start + at / BLOCK * along, 1, &mut same[..1]);
            same.fill(same[0]);
            (at, rest) = (at + block as u64, behind);
        }
    }
}

/// Elements from a row, and from a column, to the next.
fn steps(view: &View) -> [u64; 2] {
    let axes = view.shape.rank() - 2;
    [view.strides[axes], view.strides[axes + 1]]
}

/// The element of a row and column of a batch entry, where the view has any.
fn start(view: &View, entry: u64, [row, col]: [u64; 2]) -> u64 {
    let axes = view.shape.rank() - 2;
    view.outer_offset(entry, axes) + row * view.strides[axes] + col * view.strides[axes + 1]
}

/// Adds the sums of a chunk, each by the factors of its row and column.
struct Promote<'a> {
    acc: &'a mut [f32],
    part: &'a [f32],
    of_rows: &'a [f32],
    of_cols: &'a [f32],
}

impl Kernel for Promote<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { acc, part, of_rows, of_cols } = self;
        let lines = acc.chunks_exact_mut(of_cols.len()).zip(part.chunks_exact(of_cols.len()));
        for ((acc, part), row) in lines.zip(of_rows) {
            for ((acc, x), col) in acc.iter_mut().zip(part).zip(of_cols) {
                *acc = fma::<F>(*x, row * col, *acc);
            }
        }
    }
}

/// Adds the sums of a chunk, which are whole numbers.
struct Count<'a> {
    acc: &'a mut [i32],
    part: &'a [f32],
}

impl Kernel for Count<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        self.acc.iter_mut().zip(self.part).for_each(|(acc, x)| *acc = acc.wrapping_add(*x as i32));
    }
}
