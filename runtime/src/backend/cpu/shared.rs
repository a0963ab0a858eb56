//! B of a product whose rows all meet the same one, widened and packed once a launch by all threads: then a band packs
//! nothing, and may be as short as balance wants. `matmul` calls it.

use super::matmul::Bands;
use super::memory::Reused;
use super::plan::Span;
use super::pool::Pool;
use super::product::{Columns, pack, packed_lines};
use super::scratch::{Line, with_rows};
use std::ops::Range;
use std::sync::Mutex;

/// Packed pieces of B, each of a chunk of K and the columns of a tile.
pub(super) struct Shared<'a> {
    lines: &'a [Line],
    /// Lines of a piece.
    piece: usize,
    /// Chunks that are packed, first column tile, and how many of how many there are.
    chunks: Range<u64>,
    first: u64,
    columns: u64,
    of: u64,
}

impl Shared<'_> {
    /// A piece, of `size` rows and columns.
    pub(super) fn get(&self, chunk: u64, column: u64, size: [u64; 2]) -> Option<Columns<'_>> {
        let column = (column + self.of - self.first) % self.of;
        let chunk = chunk.checked_sub(self.chunks.start)?;
        let at = (chunk * self.columns + column) as usize * self.piece;
        Some(Columns::Packed(self.lines.get(at..at + self.piece)?, size.map(|n| n as usize)))
    }
}

impl Bands<'_> {
    /// Packs what a span meets of B into `lines`, where that pays.
    pub(super) fn share<'b>(
        &self,
        span: Span,
        pool: &Pool,
        lines: &'b mut Reused<Line>,
    ) -> Option<Shared<'b>> {
        let p = self.product();
        if !p.shares || span.tiles == 0 {
            return None;
        }
        let all = p.k.div_ceil(p.chunk);
        let chunks = (span.from * p.per_link).min(all)..(span.to * p.per_link).min(all);
        let columns = span.tiles.min(p.tiles_n);
        let piece = packed_lines(p.chunk.min(p.k) as usize, p.tile[1].min(p.n) as usize);
        let pieces = (chunks.end - chunks.start) * columns;
        let lines = lines.grown(pieces as usize * piece);
        let first = span.first % p.tiles_n;
        let parts: Vec<_> = lines.chunks_exact_mut(piece.max(1)).map(Mutex::new).collect();
        // A float a nanosecond.
        let item_ns = p.chunk.min(p.k) * p.tile[1].min(p.n);
        pool.run(pieces, item_ns, |i| {
            let (chunk, column) = (chunks.start + i / columns, (first + i % columns) % p.tiles_n);
            let Some(Ok(mut part)) = parts.get(i as usize).map(Mutex::lock) else { return };
            with_rows(|[buffer, _]| {
                let col = column * p.tile[1];
                let (k0, cols) = (chunk * p.chunk, p.tile[1].min(p.n - col));
                let panel = self.columns(0, [k0, col], [p.chunk.min(p.k - k0), cols], buffer);
                pack(self.isa(), panel, &mut part);
            });
        });
        drop(parts);
        Some(Shared { lines, piece, chunks, first, columns, of: p.tiles_n })
    }
}
