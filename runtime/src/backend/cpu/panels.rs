//! B of a product of `wide`, packed: panels of a few vectors of columns, one after the other, each row of a panel dense.

use super::isa::Isa;
use super::lanes::Lanes;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

/// Rows of B between one that is packed and one that is fetched.
const AHEAD: usize = 8;

/// A matrix to pack, its strides of rows and columns.
#[derive(Clone, Copy)]
pub(super) struct Pack {
    pub(super) size: [usize; 2],
    pub(super) from: *const f32,
    pub(super) strides: [usize; 2],
}

/// Floats that the panels of `k` rows of `n` columns take, on any class.
pub(super) fn room(k: usize, n: usize) -> usize {
    n.next_multiple_of(16) * k
}

/// First vector and width of every panel: as wide as can be, but none of a single vector beside others, which would
/// leave the adders waiting for each other.
#[inline(always)]
pub(super) fn panels<V: Lanes>(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let (vectors, mut at) = (n.div_ceil(V::N), 0);
    std::iter::from_fn(move || {
        let left = vectors - at;
        let width = if left == V::PANEL + 1 { left.div_ceil(2) } else { left.min(V::PANEL) };
        at += width;
        (width > 0).then_some((at - width, width))
    })
}

impl Pack {
    /// # Safety
    /// Every element that the size and strides name can be read, and as many floats as `room` says at `to` are the
    /// caller's. The processor has the class.
    pub(super) unsafe fn run(&self, isa: Isa, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Amx | Isa::Bf16 | Isa::V4 => pack_v4(self, to),
                #[cfg(target_arch = "x86_64")]
                Isa::V3 => pack_v3(self, to),
                _ => self.on::<[f32; 4]>(to),
            }
        }
    }

    /// # Safety
    /// As for `run`, in code of the class.
    #[inline(always)]
    pub(super) unsafe fn on<V: Lanes>(&self, to: *mut f32) {
        let ([k, n], [row, col]) = (self.size, self.strides);
        if col == 1 {
            for k0 in 0..k {
                // SAFETY: the caller's promise.
                unsafe { self.row::<V>(k0, to) };
            }
            return;
        }
        for (at, width) in panels::<V>(n) {
            let ld = width * V::N;
            for j in 0..width {
                let first = (at + j) * V::N;
                let some = V::N.min(n - first);
                let mut k0 = 0;
                while k0 < k {
                    let deep = V::N.min(k - k0);
                    // SAFETY: the caller's promise; there is room for whole vectors.
                    unsafe {
                        let from = self.from.add(first * col + k0 * row);
                        let to = to.add(at * V::N * k + k0 * ld + j * V::N);
                        if row == 1 {
                            V::turn(from, col, [some, deep], to, ld);
                        } else {
                            spread::<V>(from, self.strides, [deep, some], to, ld);
                        }
                    }
                    k0 += V::N;
                }
            }
        }
    }

    /// One dense row for all panels, and a later one on its way to the cache: the processor foresees no rows this short.
    ///
    /// # Safety
    /// As for `run`, in code of the class.
    #[inline(always)]
    unsafe fn row<V: Lanes>(&self, k0: usize, to: *mut f32) {
        let ([k, n], row) = (self.size, self.strides[0]);
        // SAFETY: the caller's promise; there is room for whole vectors.
        unsafe {
            let from = self.from.add(k0 * row);
            for (at, width) in panels::<V>(n) {
                let to = to.add(at * V::N * k + k0 * width * V::N);
                for j in 0..width {
                    let first = (at + j) * V::N;
                    let (line, some) = (from.add(first), V::N.min(n - first));
                    if k0 + AHEAD < k {
                        V::prefetch(line.add(AHEAD * row));
                    }
                    let x = if some == V::N { V::load(line) } else { V::load_some(line, some) };
                    x.store(to.add(j * V::N));
                }
            }
        }
    }
}

/// Rows of one vector each, from elements that lie anyhow; zeros where columns are missing.
///
/// # Safety
/// The elements lie there, and `rows` vectors `ld` apart at `to` are the caller's.
#[inline(always)]
unsafe fn spread<V: Lanes>(
    from: *const f32,
    [row, col]: [usize; 2],
    [rows, cols]: [usize; 2],
    to: *mut f32,
    ld: usize,
) {
    for i in 0..rows {
        for j in 0..V::N {
            // SAFETY: the caller's promise.
            unsafe {
                let x = if j < cols { *from.add(i * row + j * col) } else { 0.0 };
                *to.add(i * ld + j) = x;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn pack_v4(pack: &Pack, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { pack.on::<__m512>(to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn pack_v3(pack: &Pack, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { pack.on::<__m256>(to) }
}
