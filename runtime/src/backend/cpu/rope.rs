//! The rotary embedding: rows of heads, each turned by the angles of its position. `compute` calls it.

use super::geometry::rows_per_tile;
use super::isa::{Isa, Kernel};
use super::math;
use super::memory::View;
use super::plan::Span;
use super::pool::Pool;
use super::scratch::with_rows;
use crate::DType;
use crate::op::Rope;

/// A head's row, and the fraction of a turn by which each pair turns, in 2^32.
struct Turn<'a> {
    interleaved: bool,
    angles: &'a [u32],
    line: &'a mut [f32],
}

impl Kernel for Turn<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        let Self { interleaved, angles, line } = self;
        let turn = |angle: u32, a: &mut f32, b: &mut f32| {
            let (sin, cos) = math::sin_cos::<F>(angle);
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        };
        let line = &mut line[..2 * angles.len()];
        if interleaved {
            for ([a, b], &angle) in line.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                turn(angle, a, b);
            }
        } else {
            let (first, second) = line.split_at_mut(angles.len());
            for ((a, b), &angle) in first.iter_mut().zip(second).zip(angles) {
                turn(angle, a, b);
            }
        }
    }
}

/// `rope` over a span; `views` are x, position, out.
pub(super) fn rope(isa: Isa, op: &Rope, views: &[View], span: Span, pool: &Pool, item_ns: u64) {
    let [x, position, out] = views else { return };
    let turns = op.turns();
    let &[batch, heads, rows, d] = &*x.shape else { return };
    let per_tile = rows_per_tile(d);
    pool.run(span.tiles, item_ns, |i| {
        let first = (span.first + i) * per_tile;
        let mut angles = vec![0; turns.len()];
        for index in first..(first + per_tile).min(batch * heads * rows) {
            let (entry, row) = (index / rows / heads, index % rows);
            let word = position.word(entry * position.strides[0] + row * position.strides[1]);
            let at = match position.dtype {
                DType::I32 => i64::from(word as i32) as u64,
                _ => word.into(),
            };
            for (angle, turn) in angles.iter_mut().zip(&turns) {
                // To the nearest 2^-32 of a turn.
                *angle = (at.wrapping_mul(*turn).wrapping_add(1 << 31) >> 32) as u32;
            }
            with_rows(|[line, _]| {
                line.resize(d as usize, 0.0);
                x.load(isa, x.outer_offset(index, 3), x.strides[3], line);
                isa.run(Turn { interleaved: op.interleaved, angles: &angles, line: &mut *line });
                out.store(isa, out.outer_offset(index, 3), out.strides[3], line);
            });
        }
    });
}
