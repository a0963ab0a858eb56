//! Few rows of bf16 by AMX tiles, where the columns of B are dense. Sixteen of them, as they lie, are a tile: B is the
//! left side of the product and A, packed, the right one, so that nothing of B is copied but its edges. The sums are
//! turned: a row of them for each column of B. `few` calls it.

use super::dot::{Dot, Line, TILE, Tile};
use super::few::{Add, Left};
use super::isa::Isa;

/// Elements along K of a tile.
const STEP: usize = 2 * TILE;

/// Tiles of so many elements along K.
pub(super) fn steps(depth: usize) -> usize {
    depth.div_ceil(STEP)
}

/// Packs `depth` elements of each row of A from `start` on: behind the tiles that are there, and zeros up to `room`.
pub(super) fn pack(a: &Left<'_>, start: u64, depth: usize, tiles: &mut Vec<Tile>, room: usize) {
    for k in (0..depth).step_by(STEP) {
        let mut tile = [Line([0; TILE]); TILE];
        for row in 0..a.rows.min(TILE) {
            let at = start + row as u64 * a.steps[0] + k as u64 * a.steps[1];
            let halves = a.view.halves::<STEP>(at, a.steps[1], depth - k);
            for (line, pair) in tile.iter_mut().zip(halves.as_chunks::<2>().0) {
                line.0[row] = u32::from(pair[0]) | u32::from(pair[1]) << 16;
            }
        }
        tiles.push(tile);
    }
    tiles.resize(room, [Line([0; TILE]); TILE]);
}

/// Adds to the turned sums, sixteen rows for each sixteen columns of B.
pub(super) fn add(isa: Isa, job: Add<'_>) {
    let Add { a, chunk, b, start, step, depth, cols, sums, .. } = job;
    let a = a.tiles(chunk);
    let Some(_ready) = Dot::of(isa).filter(|_| isa == Isa::Amx) else { return };
    let blocks = sums.as_chunks_mut::<TILE>().0.as_chunks_mut::<TILE>().0;
    for (first, sums) in (0..cols).step_by(TILE).zip(blocks) {
        let columns = TILE.min(cols - first);
        let at = |column: usize, k: usize| start + (first + column) as u64 * step + k as u64;
        let whole = if columns == TILE { depth / STEP } else { 0 };
        #[cfg(target_arch = "x86_64")]
        if let Some(lines) = b.half_ptr(at(0, 0)).filter(|_| whole > 0) {
            // SAFETY: the class has the tiles and `Dot` configured this thread; sixteen columns of `whole` steps are
            // inside B, `step` elements apart.
            unsafe { x86::add(lines, 2 * step as usize, &a[..whole], sums) };
        }
        for k in whole..steps(depth) {
            let mut edge = [Line([0; TILE]); TILE];
            for (column, line) in edge.iter_mut().enumerate().take(columns) {
                let k = k * STEP;
                *line = Line(bytemuck::cast(b.halves::<STEP>(at(column, k), 1, depth - k)));
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above; the lines of `edge` are the columns.
            unsafe {
                x86::add(edge.as_ptr().cast(), size_of::<Line>(), &a[k..k + 1], sums);
            }
        }
    }
}

/// Turned sums to `rows` of `cols` floats.
pub(super) fn turn(sums: &[f32], rows: usize, cols: usize, to: &mut Vec<f32>) {
    to.clear();
    for row in 0..rows {
        to.extend(sums.iter().skip(row).step_by(TILE).take(cols));
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{TILE, Tile};
    use std::arch::asm;

    /// `sums += columns a`, a step of 32 elements along K after the other.
    ///
    /// # Safety
    /// The processor has AMX and this thread a configuration of tiles of sixteen rows of 64 bytes. Sixteen lines that
    /// begin `apart` bytes after each other from `columns` on have 64 bytes for each tile of `a`, of which there are some.
    pub(super) unsafe fn add(
        columns: *const u16,
        apart: usize,
        a: &[Tile],
        sums: &mut [[f32; TILE]; TILE],
    ) {
        // SAFETY: the caller's promise; `sums` are sixteen lines of 64 bytes.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {line}]",
                "2:",
                "tileloadd tmm1, [{columns} + {apart}]",
                "tileloadd tmm2, [{a} + {line}]",
                "tdpbf16ps tmm0, tmm1, tmm2",
                "add {columns}, 64",
                "add {a}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}], tmm0",
                sums = in(reg) sums.as_mut_ptr(),
                line = in(reg) 64usize,
                columns = inout(reg) columns => _,
                apart = in(reg) apart,
                a = inout(reg) a.as_ptr() => _,
                steps = inout(reg) a.len() => _,
                out("tmm0") _,
                out("tmm1") _,
                out("tmm2") _,
                options(nostack),
            );
        }
    }
}
