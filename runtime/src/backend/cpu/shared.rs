//! B of a product whose rows all meet the same one, widened and packed once by all threads: then a band packs nothing,
//! and may be as short as balance wants. Packed once a launch by `matmul`, or once for many by `constants`.

use super::dot::Line;
use super::matmul::Bands;
use super::plan::Span;
use super::pool::Pool;
use super::product::{Columns, pack, packed_lines};
use super::regions::Reused;
use super::scratch::with_rows;
use std::ops::Range;
use std::sync::Mutex;

/// Packed pieces of B, each of a chunk of K and the columns of a tile.
pub(super) struct Shared<'a> {
    lines: &'a [Line],
    pieces: Pieces,
}

/// Which pieces they are.
#[derive(Clone)]
pub(super) struct Pieces {
    /// Lines of a piece.
    piece: usize,
    chunks: Range<u64>,
    /// First column tile, and how many of how many there are.
    first: u64,
    columns: u64,
    of: u64,
}

impl Pieces {
    fn count(&self) -> u64 {
        (self.chunks.end - self.chunks.start) * self.columns
    }

    /// Lines of all.
    pub(super) fn lines(&self) -> usize {
        self.count() as usize * self.piece
    }

    /// The pieces in lines that were packed so.
    pub(super) fn of<'a>(&self, lines: &'a [Line]) -> Shared<'a> {
        Shared { lines, pieces: self.clone() }
    }
}

impl Shared<'_> {
    /// A piece, of `size` rows and columns.
    pub(super) fn get(&self, chunk: u64, column: u64, size: [u64; 2]) -> Option<Columns<'_>> {
        let p = &self.pieces;
        let column = (column + p.of - p.first) % p.of;
        let chunk = chunk.checked_sub(p.chunks.start)?;
        let at = (chunk * p.columns + column) as usize * p.piece;
        Some(Columns::Packed(self.lines.get(at..at + p.piece)?, size.map(|n| n as usize)))
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
        if !self.product().shares || span.tiles == 0 {
            return None;
        }
        let pieces = self.pieces(span);
        let lines = lines.grown(pieces.lines());
        self.pack_pieces(&pieces, pool, lines);
        Some(pieces.of(lines))
    }

    /// What a span meets of B.
    pub(super) fn pieces(&self, span: Span) -> Pieces {
        let p = self.product();
        let all = p.k.div_ceil(p.chunk);
        Pieces {
            piece: packed_lines(p.chunk.min(p.k) as usize, p.tile[1].min(p.n) as usize),
            chunks: (span.from * p.per_link).min(all)..(span.to * p.per_link).min(all),
            first: span.first % p.tiles_n,
            columns: span.tiles.min(p.tiles_n),
            of: p.tiles_n,
        }
    }

    /// Packs pieces of B into as many lines as they have.
    pub(super) fn pack_pieces(&self, pieces: &Pieces, pool: &Pool, lines: &mut [Line]) {
        let p = self.product();
        let Pieces { piece, ref chunks, first, columns, .. } = *pieces;
        let parts: Vec<_> = lines.chunks_exact_mut(piece.max(1)).map(Mutex::new).collect();
        // A float a nanosecond.
        let item_ns = p.chunk.min(p.k) * p.tile[1].min(p.n);
        pool.run(pieces.count(), item_ns, |i| {
            let (chunk, column) = (chunks.start + i / columns, (first + i % columns) % p.tiles_n);
            let Some(Ok(mut part)) = parts.get(i as usize).map(Mutex::lock) else { return };
            with_rows(|[buffer, _]| {
                let col = column * p.tile[1];
                let (k0, cols) = (chunk * p.chunk, p.tile[1].min(p.n - col));
                let panel = self.columns(0, [k0, col], [p.chunk.min(p.k - k0), cols], buffer);
                pack(self.isa(), panel, &mut part);
            });
        });
    }
}
