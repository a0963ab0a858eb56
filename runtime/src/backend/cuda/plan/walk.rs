//! The axes that an op walks, with the stride of each operand along each. Their sequence is free where nothing is added:
//! the planners sort them by how an output lies, and make one of neighbours that lie alike in every operand.

/// Operands that are walked together, at most.
pub(in super::super) const OPERANDS: usize = 4;

/// An axis: its elements, and the stride of each operand in elements; 0 where one repeats, or is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Axis {
    pub(in super::super) size: u64,
    pub(in super::super) steps: [u64; OPERANDS],
}

impl Axis {
    /// What an op without axes walks.
    pub(super) const ONE: Self = Self { size: 1, steps: [0; OPERANDS] };
}

/// Axes, the outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Walk(pub(in super::super) Vec<Axis>);

impl Walk {
    /// Axes of these sizes. An operand without strides repeats along all of them.
    pub(super) fn new(sizes: &[u64], strides: [&[u64]; OPERANDS]) -> Self {
        let steps = |axis: usize| strides.map(|s| s.get(axis).copied().unwrap_or(0));
        Self(sizes.iter().enumerate().map(|(i, &size)| Axis { size, steps: steps(i) }).collect())
    }

    /// These axes and others inside them.
    pub(in super::super) fn then(mut self, inner: Self) -> Self {
        self.0.extend(inner.0);
        self
    }

    /// In the sequence in which an operand lies, the longest stride outermost.
    pub(super) fn sorted(mut self, operand: usize) -> Self {
        self.0.sort_by_key(|axis| std::cmp::Reverse(axis.steps[operand]));
        self
    }

    /// Without axes of one element, and with one axis for neighbours that every operand steps through as through one.
    pub(super) fn merged(self) -> Self {
        let mut merged: Vec<Axis> = Vec::new();
        for inner in self.0.into_iter().filter(|axis| axis.size != 1) {
            let one = merged.last().and_then(|outer| {
                let fits =
                    |(outer, step): (&u64, &u64)| step.checked_mul(inner.size) == Some(*outer);
                let alike = outer.steps.iter().zip(&inner.steps).all(fits);
                let size = outer.size.checked_mul(inner.size).filter(|_| alike)?;
                Some(Axis { size, ..inner })
            });
            if one.is_some() {
                merged.pop();
            }
            merged.push(one.unwrap_or(inner));
        }
        Self(merged)
    }

    /// The last axis apart from those outside it.
    pub(super) fn split(mut self) -> (Self, Axis) {
        let inner = self.0.pop().unwrap_or(Axis::ONE);
        (self, inner)
    }

    /// With an axis where it is innermost.
    pub(super) fn with_last(mut self, at: usize) -> Self {
        let axis = self.0.remove(at);
        self.0.push(axis);
        self
    }

    /// Elements in all; a checked output has fewer than 2^62.
    pub(in super::super) fn elements(&self) -> u64 {
        self.0.iter().fold(1u64, |n, axis| n.saturating_mul(axis.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_lie_alike_are_one_axis() {
        let walk = |sizes: &[u64], x: &[u64], y: &[u64]| Walk::new(sizes, [x, y, &[], &[]]);
        let merged = walk(&[2, 1, 3, 4], &[12, 77, 4, 1], &[24, 5, 8, 2]).merged();
        assert_eq!(merged, Walk(vec![Axis { size: 24, steps: [1, 2, 0, 0] }]));
        // One of the two has a gap behind each row.
        let apart = walk(&[3, 4], &[4, 1], &[5, 1]);
        assert_eq!(apart.clone().merged(), apart);
        // One repeats along both, which is one axis too.
        assert_eq!(walk(&[3, 4], &[4, 1], &[0, 0]).merged().0.len(), 1);
        let turned = walk(&[3, 4], &[1, 3], &[4, 1]);
        assert_eq!(turned.clone().sorted(0), turned.with_last(0));
        assert_eq!(Walk(vec![]).split().1, Axis::ONE);
    }
}
