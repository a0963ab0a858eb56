//! Queries, keys and values as the lines and panels that `flash` multiplies: turned where that takes other neighbours than
//! memory has, padded with zeros to whole products.

use super::dot::{self, Line, TILE};
use super::flash::{Buffers, Flash, NONE};
use super::isa::{Isa, Kernel};
use super::memory::View;
use super::product::Panel;
use super::queries::{self, ROWS};

/// Elements of bf16 in a line.
const STEP: usize = 2 * TILE;

impl Flash<'_> {
    /// Turns the queries, their sign too where the scale is negative: scores are only ever scaled up.
    pub(super) fn pack_queries(&self, buffers: &mut Buffers) {
        let (of, rows) = (self.of, self.tile.rows as usize);
        let lines = self.query_lines();
        buffers.queries.resize(rows.div_ceil(self.block) * lines, NONE);
        let row = lines / self.width;
        buffers.rows.resize(TILE * row, 0.0);
        let sign = if self.pairs { 0x8000_8000 } else { 0x8000_0000 };
        let sign = if of.op.scores.scale < 0.0 { sign } else { 0 };
        for first in (0..rows.next_multiple_of(self.block)).step_by(TILE) {
            let starts = std::array::from_fn(|r| {
                let row = (first + r) as u64;
                (row < self.tile.rows).then(|| of.at(of.q, self.tile, row))
            });
            let block = &mut buffers.queries[first / self.block * lines..][..lines];
            let block = &mut block[first % self.block / TILE..];
            let (d, width) = (self.d, self.width);
            if self.pairs {
                of.isa.run(TurnPairs { isa: of.isa, view: of.q, starts, d, sign, width, block });
            } else {
                for (part, start) in buffers.rows.chunks_exact_mut(row).zip(starts) {
                    let Some(start) = start else {
                        part.fill(0.0);
                        continue;
                    };
                    let (queries, rest) = part.split_at_mut(d);
                    of.q.load(of.isa, start, of.q.row_stride(), queries);
                    rest.fill(0.0);
                }
                let rows = &buffers.rows[..TILE * row];
                of.isa.run(TurnFloats { isa: of.isa, rows, sign, width, block });
            }
        }
    }

    /// Lines from a packed row to the next: one more than it has, so that rows lie in different sets of the cache.
    fn row_lines(elements: usize) -> usize {
        elements.div_ceil(STEP) + 1
    }

    /// The keys of a chunk, a row each.
    pub(super) fn pack_keys<'b>(
        &self,
        part: [u64; 2],
        to: &'b mut Vec<Line>,
        starts: &mut Vec<Option<u64>>,
    ) -> Panel<'b> {
        let (view, d, row_lines) = (self.of.k, self.d, Self::row_lines(self.d));
        self.of.starts(view, self.tile, part, starts);
        starts.resize(starts.len().next_multiple_of(ROWS[1]), None);
        to.resize(starts.len() * row_lines, NONE);
        self.of.isa.run(PackKeys { view, starts, d, row_lines, to });
        let row = row_lines * TILE;
        Panel::dense(bytemuck::cast_slice(to), starts.len(), row).narrow(row - TILE)
    }

    /// The values of a chunk, turned: a row of keys for each of their columns.
    pub(super) fn pack_values<'b>(
        &self,
        part: [u64; 2],
        to: &'b mut Vec<Line>,
        starts: &mut Vec<Option<u64>>,
    ) -> Panel<'b> {
        let (isa, view, dv) = (self.of.isa, self.of.v, self.dv);
        self.of.starts(view, self.tile, part, starts);
        starts.resize(starts.len().next_multiple_of(STEP), None);
        let row_lines = Self::row_lines(starts.len());
        to.resize(self.padded * row_lines, NONE);
        isa.run(PackValues { isa, view, starts, dv, row_lines, to });
        let row = row_lines * TILE;
        Panel::dense(bytemuck::cast_slice(to), self.padded, row).narrow(row - TILE)
    }
}

/// Sixteen rows of floats, turned: a line for each of their columns, in the first of every `width` registers.
struct TurnFloats<'a> {
    isa: Isa,
    rows: &'a [f32],
    sign: u32,
    width: usize,
    block: &'a mut [Line],
}

impl Kernel for TurnFloats<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { isa, rows, sign, width, block } = self;
        let row = rows.len() / TILE;
        for (step, block) in block.chunks_mut(TILE * width).enumerate() {
            let mut tile = [NONE; TILE];
            for (line, row) in tile.iter_mut().zip(rows.chunks_exact(row)) {
                let part = &row[step * TILE..][..TILE];
                line.0.iter_mut().zip(part).for_each(|(bits, x)| *bits = x.to_bits() ^ sign);
            }
            dot::transpose(isa, &mut tile);
            for (to, line) in block.iter_mut().step_by(width).zip(&tile) {
                *to = *line;
            }
        }
    }
}

/// The same of sixteen rows of `d` bf16, a line for each pair of their columns.
struct TurnPairs<'a> {
    isa: Isa,
    view: &'a View,
    starts: [Option<u64>; TILE],
    d: usize,
    sign: u32,
    width: usize,
    block: &'a mut [Line],
}

impl Kernel for TurnPairs<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { isa, view, starts, d, sign, width, block } = self;
        for (x, block) in (0..d).step_by(STEP).zip(block.chunks_mut(TILE * width)) {
            let mut tile = [NONE; TILE];
            for (line, start) in tile.iter_mut().zip(starts) {
                *line = pairs(view, start, x, d - x);
                for i in 0..TILE {
                    line.0[i] ^= sign;
                }
            }
            dot::transpose(isa, &mut tile);
            for (to, line) in block.iter_mut().step_by(width).zip(&tile) {
                *to = *line;
            }
        }
    }
}

/// Elements of a row of bf16 from its element `x`, of which there are `n`, then zeros. Zeros where there is no row.
#[inline(always)]
fn pairs(view: &View, row: Option<u64>, x: usize, n: usize) -> Line {
    let at = row.unwrap_or(0) + x as u64 * view.row_stride();
    let n = if row.is_some() { n } else { 0 };
    Line(bytemuck::cast(view.halves::<STEP>(at, view.row_stride(), n)))
}

struct PackKeys<'a> {
    view: &'a View,
    starts: &'a [Option<u64>],
    d: usize,
    row_lines: usize,
    to: &'a mut [Line],
}

impl Kernel for PackKeys<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { view, starts, d, row_lines, to } = self;
        for (row, start) in to.chunks_exact_mut(row_lines).zip(starts) {
            let (whole, rest) = whole(view, *start, d);
            for (line, part) in row.iter_mut().zip(whole) {
                *line = Line(bytemuck::cast(*part));
            }
            for x in (rest..d).step_by(STEP) {
                row[x / STEP] = pairs(view, *start, x, d - x);
            }
        }
    }
}

/// The dense whole lines of a row of `d` bf16, and where what follows them begins.
#[inline(always)]
fn whole(view: &View, row: Option<u64>, d: usize) -> (&[[u16; STEP]], usize) {
    let dense = row.filter(|_| view.row_stride() == 1);
    let lines = dense.map_or(&[][..], |row| view.line::<u16>(row, d).as_chunks().0);
    (lines, STEP * lines.len())
}

struct PackValues<'a> {
    isa: Isa,
    view: &'a View,
    starts: &'a [Option<u64>],
    dv: usize,
    row_lines: usize,
    to: &'a mut [Line],
}

impl Kernel for PackValues<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { isa, view, starts, dv, row_lines, to } = self;
        for (step, starts) in starts.as_chunks::<STEP>().0.iter().enumerate() {
            for (x, rows) in (0..).step_by(STEP).zip(to.chunks_exact_mut(STEP * row_lines)) {
                let mut near = [[0; STEP]; STEP];
                let n = dv.saturating_sub(x);
                let lines = if n >= STEP && view.row_stride() == 1 {
                    let mut parts = [&near[0]; STEP];
                    for (part, start) in parts.iter_mut().zip(starts) {
                        if let Some(start) = *start {
                            let dense = view.line::<u16>(start + x as u64, STEP).first_chunk();
                            *part = dense.unwrap_or(&near[0]);
                        }
                    }
                    queries::turn(isa, &parts)
                } else {
                    for (near, start) in near.iter_mut().zip(starts) {
                        *near = bytemuck::cast(pairs(view, *start, x, n));
                    }
                    let mut parts = [&near[0]; STEP];
                    parts.iter_mut().zip(&near).for_each(|(part, near)| *part = near);
                    queries::turn(isa, &parts)
                };
                let places = rows.iter_mut().skip(step).step_by(row_lines);
                for (place, line) in places.zip(&lines) {
                    *place = *line;
                }
            }
        }
    }
}
