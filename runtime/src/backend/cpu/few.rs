//! Products of few rows, bounded by memory: B is read once, where it lies, and meets every row of A while it is hot.
//! A, which is small, is packed once a thread. `matmul` calls it where `geometry` finds such a product; AMX tiles of
//! bf16 are in `few_tiles`.

use super::dot::Tile;
use super::few_tiles;
use super::isa::Isa;
use super::memory::View;
use super::registers::{self, Code, Element, LANES, Lanes, OfBf16, OfF16, OfF32};
use crate::DType;
use std::ops::Range;

/// How B lies, and what sums it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Few {
    /// Its columns are dense: a dot product for each, in lanes.
    Columns,
    /// The same of bf16, sixteen columns at a time by AMX tiles.
    Tiles,
    /// Its rows are dense: they are added, each by its factor, in their order.
    Rows,
}

/// Rows of B that are added in one sweep of the sums.
const SWEEP: usize = 8;

/// The rows of A, packed chunk by chunk of K for a form.
#[derive(Default)]
pub(super) struct Factors {
    /// What is packed: see [`Factors::hold`].
    of: Option<[u64; 4]>,
    first: u64,
    rows: usize,
    /// Of each chunk for `Columns` lanes of step 0 of every row, then of step 1, ..; for `Rows` row after row.
    floats: Vec<f32>,
    tiles: Vec<Tile>,
    /// Floats or tiles of a chunk.
    stride: usize,
}

/// Where the rows of A lie.
pub(super) struct Left<'a> {
    pub(super) view: &'a View,
    /// First element, and the elements to the next row and along K.
    pub(super) start: u64,
    pub(super) steps: [u64; 2],
    pub(super) rows: usize,
    /// Elements along K in all, and of a chunk.
    pub(super) depth: u64,
    pub(super) chunk: u64,
}

impl Factors {
    /// Holds these chunks of A, packed for `form`. `of` names a launch of this process and what of its A they are: what
    /// a thread holds already is not packed again.
    pub(super) fn hold(
        &mut self,
        isa: Isa,
        form: Few,
        of: [u64; 4],
        a: &Left<'_>,
        chunks: Range<u64>,
    ) {
        if self.of.replace(of) == Some(of) {
            return;
        }
        (self.first, self.rows) = (chunks.start, a.rows);
        let chunk = a.chunk.min(a.depth) as usize;
        let count = (chunks.end - chunks.start) as usize;
        if form == Few::Tiles {
            self.stride = few_tiles::steps(chunk);
            self.tiles.clear();
            for chunk in chunks {
                let [from, to] = [chunk, chunk + 1].map(|c| (c * a.chunk).min(a.depth));
                let start = a.start + from * a.steps[1];
                let room = (chunk - self.first + 1) as usize * self.stride;
                few_tiles::pack(a, start, (to - from) as usize, &mut self.tiles, room);
            }
            return;
        }
        let padded = chunk.next_multiple_of(LANES);
        self.stride = a.rows * padded;
        self.floats.clear();
        self.floats.resize(count * self.stride, 0.0);
        let mut line = vec![0.0; padded];
        for (chunk, floats) in chunks.zip(self.floats.chunks_exact_mut(self.stride.max(1))) {
            let [from, to] = [chunk, chunk + 1].map(|c| (c * a.chunk).min(a.depth));
            let depth = (to - from) as usize;
            for row in 0..a.rows {
                line.fill(0.0);
                let start = a.start + row as u64 * a.steps[0] + from * a.steps[1];
                a.view.load(isa, start, a.steps[1], &mut line[..depth]);
                match form {
                    Few::Rows => floats[row * depth..][..depth].copy_from_slice(&line[..depth]),
                    _ => {
                        let to = floats.as_chunks_mut::<LANES>().0.iter_mut().skip(row);
                        let lanes = line.as_chunks::<LANES>().0;
                        to.step_by(a.rows).zip(lanes).for_each(|(to, lanes)| *to = *lanes);
                    }
                }
            }
        }
    }

    fn floats(&self, chunk: u64) -> &[f32] {
        &self.floats[(chunk - self.first) as usize * self.stride..][..self.stride]
    }

    pub(super) fn tiles(&self, chunk: u64) -> &[Tile] {
        &self.tiles[(chunk - self.first) as usize * self.stride..][..self.stride]
    }
}

/// Adds the product of a chunk of A and a part of B to sums of `cols` a row.
pub(super) struct Add<'a> {
    pub(super) form: Few,
    pub(super) a: &'a Factors,
    pub(super) chunk: u64,
    pub(super) b: &'a View,
    /// First element of the part, and the distance of its dense lines.
    pub(super) start: u64,
    pub(super) step: u64,
    pub(super) depth: usize,
    pub(super) cols: usize,
    pub(super) sums: &'a mut [f32],
}

impl Add<'_> {
    pub(super) fn run(self, isa: Isa) {
        match self.form {
            _ if self.depth == 0 || self.cols == 0 || self.a.rows == 0 => {}
            Few::Tiles => few_tiles::add(isa, self),
            Few::Columns | Few::Rows => registers::run(isa, self),
        }
    }

    #[inline(always)]
    fn of<L: Lanes, E: Element>(mut self) {
        if self.form == Few::Rows {
            return self.rows::<L, E>();
        }
        let mut row = 0;
        while row < self.a.rows {
            row += match self.a.rows - row {
                8.. => self.columns::<L, E, 8, 3>(row),
                4..8 => self.columns::<L, E, 4, 4>(row),
                2..4 => self.columns::<L, E, 2, 4>(row),
                _ => self.columns::<L, E, 1, 4>(row),
            };
        }
    }

    /// Dot products of `R` rows from `row` on and every column, `C` at a time. Returns `R`.
    #[inline(always)]
    fn columns<L: Lanes, E: Element, const R: usize, const C: usize>(
        &mut self,
        row: usize,
    ) -> usize {
        let mut col = 0;
        while col + C <= self.cols {
            self.block::<L, E, R, C>(row, col);
            col += C;
        }
        while col < self.cols {
            self.block::<L, E, R, 1>(row, col);
            col += 1;
        }
        R
    }

    #[inline(always)]
    fn block<L: Lanes, E: Element, const R: usize, const C: usize>(
        &mut self,
        row: usize,
        col: usize,
    ) {
        let whole = self.depth / LANES;
        let mut b = [&[][..]; C];
        let mut near = [[bytemuck::Zeroable::zeroed(); LANES]; C];
        for j in 0..C {
            let line: &[E::Bits] =
                self.b.line(self.start + (col + j) as u64 * self.step, self.depth);
            let (lanes, rest) = line.as_chunks::<LANES>();
            near[j][..rest.len()].copy_from_slice(rest);
            b[j] = &lanes[..whole];
        }
        let a = self.a.floats(self.chunk).as_chunks::<LANES>().0;
        let mut steps = a.chunks_exact(self.a.rows);
        // The first rows bring B from memory: the next columns are asked for beside these.
        let ahead = if row == 0 { C * self.step as usize * size_of::<E::Bits>() } else { 0 };
        let mut sums = [[L::zero(); C]; R];
        for (k, a) in steps.by_ref().take(whole).enumerate() {
            let mut y = [L::zero(); C];
            for j in 0..C {
                if ahead > 0 && (k * LANES * size_of::<E::Bits>()).is_multiple_of(64) {
                    L::prefetch((&raw const b[j][k]).wrapping_byte_add(ahead));
                }
                y[j] = E::lanes(&b[j][k]);
            }
            add(&mut sums, &a[row..row + R], &y);
        }
        if let Some(a) = steps.next().filter(|_| !self.depth.is_multiple_of(LANES)) {
            let mut y = [L::zero(); C];
            for j in 0..C {
                y[j] = E::lanes(&near[j]);
            }
            add(&mut sums, &a[row..row + R], &y);
        }
        let lines = self.sums.chunks_exact_mut(self.cols).skip(row);
        for (line, sums) in lines.zip(sums) {
            line[col..].iter_mut().zip(sums).for_each(|(to, sum)| *to += sum.sum());
        }
    }

    #[inline(always)]
    fn rows<L: Lanes, E: Element>(&mut self) {
        let a = self.a.floats(self.chunk);
        let whole = self.depth / SWEEP * SWEEP;
        let line = |k: usize| {
            let line = self.b.line::<E::Bits>(self.start + k as u64 * self.step, self.cols);
            &line[..self.cols]
        };
        let ahead = SWEEP * self.step as usize * size_of::<E::Bits>();
        for k in (0..whole).step_by(SWEEP) {
            let mut lines = [line(k); SWEEP];
            for (place, k) in lines.iter_mut().zip(k..) {
                *place = line(k);
            }
            sweep::<L, E, SWEEP>(lines, self.sums, &a[k..], self.depth, ahead);
        }
        for k in whole..self.depth {
            sweep::<L, E, 1>([line(k)], self.sums, &a[k..], self.depth, 0);
        }
    }
}

impl Code for Add<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        match self.b.dtype {
            DType::BF16 => self.of::<L, OfBf16>(),
            DType::F16 => self.of::<L, OfF16>(),
            _ => self.of::<L, OfF32>(),
        }
    }
}

/// Adds a step of `R` rows and `C` columns.
#[inline(always)]
fn add<L: Lanes, const R: usize, const C: usize>(
    sums: &mut [[L; C]; R],
    a: &[[f32; LANES]],
    y: &[L; C],
) {
    for i in 0..R {
        let x = L::f32(&a[i]);
        for j in 0..C {
            sums[i][j] = sums[i][j].fma(x, y[j]);
        }
    }
}

/// Adds `S` rows of B, each by its factor, to the sums of every row. The factors for a row lie `depth` behind those for
/// the one before; the rows of B of the next sweep lie `ahead` bytes further.
#[inline(always)]
fn sweep<L: Lanes, E: Element, const S: usize>(
    lines: [&[E::Bits]; S],
    sums: &mut [f32],
    a: &[f32],
    depth: usize,
    ahead: usize,
) {
    let cols = lines[0].len();
    for col in (0..cols).step_by(LANES) {
        let width = LANES.min(cols - col);
        let mut y = [L::zero(); S];
        for i in 0..S {
            let line = &lines[i][col..];
            if ahead > 0 && col * size_of::<E::Bits>() % 64 == 0 {
                L::prefetch(line.as_ptr().wrapping_byte_add(ahead));
            }
            y[i] = match line.first_chunk() {
                Some(lanes) => E::lanes(lanes),
                None => {
                    let mut near = [bytemuck::Zeroable::zeroed(); LANES];
                    near[..width].copy_from_slice(line);
                    E::lanes(&near)
                }
            };
        }
        for (sums, a) in sums.chunks_exact_mut(cols).zip(a.chunks(depth)) {
            let sums = &mut sums[col..];
            match sums.first_chunk_mut() {
                Some(sums) => step(sums, &a[..S], &y),
                None => {
                    let mut near = [0.0; LANES];
                    near[..width].copy_from_slice(sums);
                    step(&mut near, &a[..S], &y);
                    sums.copy_from_slice(&near[..width]);
                }
            }
        }
    }
}

#[inline(always)]
fn step<L: Lanes, const S: usize>(sums: &mut [f32; LANES], a: &[f32], y: &[L; S]) {
    let mut sum = L::f32(sums);
    for i in 0..S {
        sum = sum.fma(L::splat(a[i]), y[i]);
    }
    sum.store(sums);
}
