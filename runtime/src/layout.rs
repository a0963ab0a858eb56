//! Shapes and strides as values, with arithmetic that cannot overflow. `op` describes operands with them,
//! `tensor` makes views, backends read them. Nothing here knows bytes or memory.

use std::fmt;

/// The most dimensions that a tensor has.
pub const MAX_RANK: usize = 6;

/// Up to [`MAX_RANK`] sizes, kept in place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Dims {
    rank: u8,
    dims: [u64; MAX_RANK],
}

impl Dims {
    /// No dimension: the shape of a single value.
    pub const NONE: Self = Self { rank: 0, dims: [0; MAX_RANK] };

    /// The given sizes, or `None` above [`MAX_RANK`] of them.
    pub fn new(sizes: &[u64]) -> Option<Self> {
        let mut dims = [0; MAX_RANK];
        dims.get_mut(..sizes.len())?.copy_from_slice(sizes);
        Some(Self { rank: sizes.len() as u8, dims })
    }

    /// `f` of each axis in turn, for a rank up to [`MAX_RANK`] (larger ranks are cut to it).
    pub fn from_fn(rank: usize, f: impl FnMut(usize) -> u64) -> Self {
        let rank = rank.min(MAX_RANK);
        let mut dims = [0; MAX_RANK];
        dims.iter_mut().zip((0..rank).map(f)).for_each(|(d, v)| *d = v);
        Self { rank: rank as u8, dims }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        usize::from(self.rank)
    }

    /// Product of all sizes; 1 for rank 0.
    pub fn product(&self) -> u128 {
        // Six factors below 2^64 can overflow 128 bits; saturation still exceeds every limit that is checked.
        self.iter().fold(1u128, |n, &d| n.saturating_mul(u128::from(d)))
    }
}

impl std::ops::Deref for Dims {
    type Target = [u64];
    fn deref(&self) -> &[u64] {
        &self.dims[..self.rank()]
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &**self)
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &**self)
    }
}

/// Shape and strides, both in elements, of equal rank. Stride 0 repeats an element (broadcast).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    shape: Dims,
    strides: Dims,
}

impl Layout {
    /// A layout of the given shape and strides, or `None` when their ranks differ.
    pub fn new(shape: Dims, strides: Dims) -> Option<Self> {
        (shape.rank() == strides.rank()).then_some(Self { shape, strides })
    }

    /// Row-major without gaps.
    pub fn contiguous(shape: Dims) -> Self {
        let mut strides = shape;
        let mut step = 1u64;
        for axis in (0..shape.rank()).rev() {
            strides.dims[axis] = step;
            step = step.saturating_mul(shape[axis].max(1));
        }
        Self { shape, strides }
    }

    /// Sizes.
    pub fn shape(&self) -> &Dims {
        &self.shape
    }

    /// Distance in elements between neighbours along each axis.
    pub fn strides(&self) -> &Dims {
        &self.strides
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.rank()
    }

    /// Number of elements that the shape names (repeats counted).
    pub fn numel(&self) -> u128 {
        self.shape.product()
    }

    /// One past the highest element touched, counted from the view's first: 0 when empty.
    pub fn span(&self) -> u128 {
        if self.shape.contains(&0) {
            return 0;
        }
        let reach = |(&n, &s): (&u64, &u64)| u128::from(n - 1) * u128::from(s);
        self.shape.iter().zip(self.strides.iter()).map(reach).fold(1u128, u128::saturating_add)
    }

    /// Whether the elements lie in row-major order without gaps; none always do.
    pub fn is_contiguous(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut step = 1u128;
        for axis in (0..self.rank()).rev() {
            if self.shape[axis] != 1 && u128::from(self.strides[axis]) != step {
                return false;
            }
            step = step.saturating_mul(u128::from(self.shape[axis]));
        }
        true
    }

    /// Whether no two indices can name the same element: sorted by stride, each axis steps past all
    /// smaller ones. Sufficient, not necessary; outputs must have it.
    pub fn is_injective(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut axes: Vec<_> =
            self.strides.iter().zip(self.shape.iter()).filter(|&(_, &n)| n > 1).collect();
        axes.sort();
        let mut reach = 0u128;
        for (&stride, &n) in axes {
            if u128::from(stride) <= reach {
                return false;
            }
            reach = reach.saturating_add(u128::from(stride) * u128::from(n - 1));
        }
        true
    }

    /// The axes in a new order; `None` unless `order` is a permutation of them.
    pub fn permute(&self, order: &[usize]) -> Option<Self> {
        let mut seen = [false; MAX_RANK];
        for &axis in order {
            let slot = seen.get_mut(axis)?;
            if std::mem::replace(slot, true) {
                return None;
            }
        }
        if order.len() != self.rank() || order.iter().any(|&axis| axis >= self.rank()) {
            return None;
        }
        let pick = |dims: &Dims| Dims::from_fn(order.len(), |i| dims[order[i]]);
        Some(Self { shape: pick(&self.shape), strides: pick(&self.strides) })
    }

    /// `count` axes from `from` on moved, in their order, to stand from axis `to` on; unchanged where there are none.
    #[must_use]
    pub fn move_axes(&self, from: usize, count: usize, to: usize) -> Self {
        let moved = from..from.saturating_add(count);
        let mut order: Vec<usize> = (0..self.rank()).filter(|axis| !moved.contains(axis)).collect();
        let to = to.min(order.len());
        order.splice(to..to, moved);
        self.permute(&order).unwrap_or(*self)
    }

    /// The last two axes exchanged; `None` below rank 2.
    pub fn transpose(&self) -> Option<Self> {
        let rank = self.rank();
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank.checked_sub(2)?, rank - 1);
        self.permute(&order)
    }

    /// `len` entries of `axis` from `start`, and the element offset of the first; `None` outside the shape.
    pub fn narrow(&self, axis: usize, start: u64, len: u64) -> Option<(Self, u64)> {
        let size = *self.shape.get(axis)?;
        if start.checked_add(len)? > size {
            return None;
        }
        let mut out = *self;
        out.shape.dims[axis] = len;
        let offset = if len == 0 { 0 } else { start.checked_mul(self.strides[axis])? };
        Some((out, offset))
    }

    /// The same elements repeated to `shape`, by NumPy's rule: axes align at the right, size 1 repeats.
    pub fn broadcast_to(&self, shape: &Dims) -> Option<Self> {
        let lead = shape.rank().checked_sub(self.rank())?;
        let mut strides = Dims::from_fn(shape.rank(), |_| 0);
        for axis in 0..self.rank() {
            match (self.shape[axis], shape[lead + axis]) {
                (have, want) if have == want => {
                    strides.dims[lead + axis] = self.strides[axis];
                }
                (1, _) => {}
                _ => return None,
            }
        }
        Some(Self { shape: *shape, strides })
    }

    /// The same elements under another shape without a copy; `None` when counts differ or strides forbid it.
    pub fn reshape(&self, shape: &Dims) -> Option<Self> {
        if shape.product() != self.numel() {
            return None;
        }
        if self.is_contiguous() {
            return Some(Self::contiguous(*shape));
        }
        self.regroup(shape)
    }

    /// Reshape of a strided layout: walks both shapes from the right, matching groups of equal product
    /// whose axes in `self` can be fused.
    fn regroup(&self, shape: &Dims) -> Option<Self> {
        let mut strides = Dims::from_fn(shape.rank(), |_| 0);
        let mut old = self.rank();
        let mut new = shape.rank();
        while new > 0 || old > 0 {
            let group_end = old;
            let (mut have, mut want, new_end) = (1u64, 1u64, new);
            loop {
                if have < want || (have == want && old == group_end && old > 0) {
                    old = old.checked_sub(1)?;
                    have = have.checked_mul(self.shape[old])?;
                } else if want < have {
                    new = new.checked_sub(1)?;
                    want = want.checked_mul(shape[new])?;
                } else {
                    break;
                }
            }
            if old == group_end && new == new_end {
                // Only axes of size 1 are left on the new side.
                new = new.checked_sub(1)?;
                if shape[new] != 1 {
                    return None;
                }
                continue;
            }
            let fused = self.fused_stride(old, group_end)?;
            let mut step = fused;
            for axis in (new..new_end).rev() {
                strides.dims[axis] = step;
                step = step.checked_mul(shape[axis])?;
            }
        }
        Some(Self { shape: *shape, strides })
    }

    /// The stride of axes `start..end` seen as one axis, if each steps exactly over the next.
    fn fused_stride(&self, start: usize, end: usize) -> Option<u64> {
        let mut inner: Option<(u64, u64)> = None;
        for axis in (start..end).rev().filter(|&axis| self.shape[axis] != 1) {
            match inner {
                None => inner = Some((self.strides[axis], self.shape[axis])),
                Some((stride, count)) => {
                    if self.strides[axis] != stride.checked_mul(count)? {
                        return None;
                    }
                    inner = Some((stride, count.checked_mul(self.shape[axis])?));
                }
            }
        }
        Some(inner.map_or(1, |(stride, _)| stride))
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.shape, self.strides)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(sizes: &[u64]) -> Dims {
        Dims::new(sizes).unwrap()
    }

    #[test]
    fn span_saturates_instead_of_overflowing() {
        let huge = Layout::new(dims(&[u64::MAX, u64::MAX]), dims(&[u64::MAX, u64::MAX])).unwrap();
        assert!(huge.span() > u128::from(u64::MAX));
        assert_eq!(Layout::contiguous(dims(&[0, 5])).span(), 0);
        assert_eq!(Layout::contiguous(dims(&[])).span(), 1);
    }

    #[test]
    fn no_elements_lie_in_any_order() {
        for shape in [[0, 4], [4, 0], [0, 0]] {
            let none = Layout::contiguous(dims(&shape));
            assert!(none.is_contiguous() && none.transpose().unwrap().is_contiguous());
            assert!(none.reshape(&dims(&[7, 0, 3])).is_some());
        }
    }

    #[test]
    fn broadcast_is_not_injective() {
        let row = Layout::contiguous(dims(&[4]));
        let wide = row.broadcast_to(&dims(&[3, 4])).unwrap();
        assert!(!wide.is_injective());
        assert!(row.transpose().is_none());
        assert!(Layout::contiguous(dims(&[3, 4])).transpose().unwrap().is_injective());
    }

    #[test]
    fn reshape_splits_and_fuses_strided_axes() {
        let base = Layout::contiguous(dims(&[2, 3, 4, 8]));
        let (head, _) = base.narrow(3, 0, 4).unwrap();
        let fused = head.reshape(&dims(&[6, 4, 4])).unwrap();
        assert_eq!(&**fused.strides(), &[32, 8, 1]);
        let split = head.reshape(&dims(&[2, 3, 2, 2, 1, 4])).unwrap();
        assert_eq!(&split.strides()[..4], &[96, 32, 16, 8]);
        assert!(head.reshape(&dims(&[2, 3, 16])).is_none());
        let t = Layout::contiguous(dims(&[3, 4])).transpose().unwrap();
        assert!(t.reshape(&dims(&[12])).is_none());
        assert!(t.reshape(&dims(&[4, 1, 3])).is_some());
    }

    #[test]
    fn moved_axes_keep_their_strides() {
        let layout = Layout::contiguous(Dims::new(&[2, 3, 4, 5]).unwrap());
        let shape = |layout: Layout| layout.shape().to_vec();
        assert_eq!(shape(layout.move_axes(1, 1, 3)), [2, 4, 5, 3]);
        assert_eq!(shape(layout.move_axes(2, 2, 0)), [4, 5, 2, 3]);
        assert_eq!(layout.move_axes(2, 2, 0).strides().to_vec(), [5, 1, 60, 20]);
        assert_eq!(layout.move_axes(3, 2, 0), layout);
    }
}
