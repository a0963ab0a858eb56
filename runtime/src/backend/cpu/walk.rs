//! Row-major walks over views that share a shape, one segment of the last axis at a time. `flat` walks with it.

use crate::layout::Dims;
use std::ops::Range;

/// A shape and the strides of `N` views of it, with axes fused where every view allows: a walk over `[n, 1]` or
/// over a dense matrix is then one long segment.
pub(super) struct Walk<const N: usize> {
    shape: Dims,
    strides: [Dims; N],
}

impl<const N: usize> Walk<N> {
    /// A walk over views that all have `shape`.
    pub(super) fn new(shape: &[u64], strides: [&[u64]; N]) -> Self {
        // (size, strides) of the fused axes, innermost first.
        let mut axes: Vec<(u64, [u64; N])> = Vec::with_capacity(shape.len());
        for axis in (0..shape.len()).rev().filter(|&axis| shape[axis] != 1) {
            let steps = strides.map(|s| s[axis]);
            match axes.last_mut() {
                Some((size, inner))
                    if (0..N).all(|v| inner[v].checked_mul(*size) == Some(steps[v])) =>
                {
                    *size *= shape[axis];
                }
                _ => axes.push((shape[axis], steps)),
            }
        }
        axes.reverse();
        let shape = Dims::from_fn(axes.len(), |i| axes[i].0);
        let strides = std::array::from_fn(|v| Dims::from_fn(axes.len(), |i| axes[i].1[v]));
        Self { shape, strides }
    }

    /// Elements in all.
    pub(super) fn numel(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Distance between neighbours of a segment, in each view.
    pub(super) fn steps(&self) -> [u64; N] {
        std::array::from_fn(|v| self.strides[v].last().copied().unwrap_or(1))
    }

    /// Calls `f` with the offsets and length of every segment of `range`, elements counted row-major.
    pub(super) fn segments(&self, range: Range<u64>, mut f: impl FnMut([u64; N], u64)) {
        let outer = self.shape.rank().saturating_sub(1);
        let n = self.shape.last().copied().unwrap_or(1);
        let (mut at, end) = (range.start, range.end);
        if at >= end || n == 0 {
            return;
        }
        let mut index = [0; crate::layout::MAX_RANK];
        let mut offsets = [0; N];
        let (mut rest, mut col) = (at / n, at % n);
        for axis in (0..outer).rev() {
            index[axis] = rest % self.shape[axis];
            rest /= self.shape[axis];
            (0..N).for_each(|v| offsets[v] += index[axis] * self.strides[v][axis]);
        }
        let steps = self.steps();
        while at < end {
            let len = (n - col).min(end - at);
            f(std::array::from_fn(|v| offsets[v] + col * steps[v]), len);
            (at, col) = (at + len, 0);
            for axis in (0..outer).rev() {
                index[axis] += 1;
                (0..N).for_each(|v| offsets[v] += self.strides[v][axis]);
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
                (0..N).for_each(|v| offsets[v] -= self.shape[axis] * self.strides[v][axis]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Walk;

    #[test]
    fn a_walk_visits_every_element_in_order() {
        let shape = [3, 1, 2, 4];
        let strides: [&[u64]; 2] = [&[8, 8, 4, 1], &[0, 5, 40, 3]];
        let expected: Vec<[u64; 2]> = (0..24)
            .map(|i| {
                let index = [i / 8, 0, i / 4 % 2, i % 4];
                strides.map(|s| index.iter().zip(s).map(|(i, s)| i * s).sum())
            })
            .collect();
        let walk = Walk::new(&shape, strides);
        for (start, end) in (0..24).flat_map(|a| (a..=24).map(move |b| (a, b))) {
            let mut seen = Vec::new();
            walk.segments(start as u64..end as u64, |at, len| {
                seen.extend(
                    (0..len).map(|i| [at[0] + i * walk.steps()[0], at[1] + i * walk.steps()[1]]),
                );
            });
            assert_eq!(seen, expected[start..end]);
        }
        let fused = Walk::new(&shape, [&[8, 8, 4, 1]]);
        assert_eq!((fused.shape.rank(), fused.numel()), (1, 24));
        Walk::new(&[], [&[]]).segments(0..1, |at, len| assert_eq!((at, len), ([0], 1)));
    }
}
