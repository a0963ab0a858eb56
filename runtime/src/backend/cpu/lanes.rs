//! Vectors of f32, as wide as a class has them: what the kernel of `wide` is written over.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A vector. Its functions are inlined into code of the class that has it, and nowhere else.
pub(super) trait Lanes: Copy {
    /// Floats of one.
    const N: usize;

    /// Most vectors of a panel: six rows of as many sums fit the class's registers, beside a row of B and a factor.
    const PANEL: usize;

    /// `x` in every lane.
    ///
    /// # Safety
    /// The processor has the class of this vector: so for every function here.
    unsafe fn splat(x: f32) -> Self;

    /// # Safety
    /// `N` floats lie at `from`.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// `N` floats at `to` are the caller's.
    unsafe fn store(self, to: *mut f32);

    /// `self b + c`, fused where the class fuses.
    ///
    /// # Safety
    /// As for `splat`.
    unsafe fn fma(self, b: Self, c: Self) -> Self;

    /// Has the cache line at `from` fetched, which may be anywhere.
    ///
    /// # Safety
    /// As for `splat`.
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}

    /// The first `n` floats at `from`, then zeros.
    ///
    /// # Safety
    /// `n` floats lie at `from`, at most `N`.
    #[inline(always)]
    unsafe fn load_some(from: *const f32, n: usize) -> Self {
        let mut near = [0.0; 16];
        // SAFETY: the caller's promise; no class has more than 16 lanes.
        unsafe {
            near.as_mut_ptr().copy_from_nonoverlapping(from, n);
            Self::load(near.as_ptr())
        }
    }

    /// Stores the first `n` lanes.
    ///
    /// # Safety
    /// `n` floats at `to` are the caller's, at most `N`.
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, n: usize) {
        let mut near = [0.0; 16];
        // SAFETY: as in `load_some`.
        unsafe {
            self.store(near.as_mut_ptr());
            to.copy_from_nonoverlapping(near.as_ptr(), n);
        }
    }

    /// Turns a square: `lines` lines of `depth` floats, `step` apart, become the columns of `depth` vectors `ld` apart.
    /// Lines that are missing are zeros.
    ///
    /// # Safety
    /// The lines lie at `from`, `lines` and `depth` are at most `N`, and `depth` vectors at `to` are the caller's.
    #[inline(always)]
    unsafe fn turn(
        from: *const f32,
        step: usize,
        [lines, depth]: [usize; 2],
        to: *mut f32,
        ld: usize,
    ) {
        for d in 0..depth {
            for line in 0..Self::N {
                // SAFETY: the caller's promise.
                unsafe {
                    let x = if line < lines { *from.add(line * step + d) } else { 0.0 };
                    *to.add(d * ld + line) = x;
                }
            }
        }
    }
}

/// Four lanes in every class: multiplies and adds round apart.
impl Lanes for [f32; 4] {
    const N: usize = 4;
    const PANEL: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        let mut sum = c;
        for ((sum, a), b) in sum.iter_mut().zip(self).zip(b) {
            *sum += a * b;
        }
        sum
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for __m256 {
    const N: usize = 8;
    const PANEL: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller's promise, here and below.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(self, b, c) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for __m512 {
    const N: usize = 16;
    const PANEL: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller's promise, here and below.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(self, b, c) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_some(from: *const f32, n: usize) -> Self {
        // SAFETY: as above; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(mask(n), from) }
    }

    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, n: usize) {
        // SAFETY: as above; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(to, mask(n), self) }
    }

    #[inline(always)]
    unsafe fn turn(
        from: *const f32,
        step: usize,
        [lines, depth]: [usize; 2],
        to: *mut f32,
        ld: usize,
    ) {
        // SAFETY: as above; lines and columns that are missing are neither read nor written.
        unsafe {
            let mut x = [_mm512_setzero_ps(); 16];
            for (i, x) in x.iter_mut().enumerate() {
                if i < lines {
                    *x = Self::load_some(from.add(i * step), depth);
                }
            }
            for (d, x) in turned(x).iter().enumerate() {
                if d < depth {
                    x.store(to.add(d * ld));
                }
            }
        }
    }
}

/// The first `n` lanes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn mask(n: usize) -> u16 {
    ((1u32 << n) - 1) as u16
}

/// Rows and columns change places.
///
/// # Safety
/// The processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn turned(mut x: [__m512; 16]) -> [__m512; 16] {
    let mut y = x;
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..8 {
            y[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
            y[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
        }
        // Quarter q of x[4 g + c] becomes column 4 q + c of rows 4 g to 4 g + 3.
        for g in [0, 4, 8, 12] {
            x[g] = _mm512_shuffle_ps::<0x44>(y[g], y[g + 2]);
            x[g + 1] = _mm512_shuffle_ps::<0xee>(y[g], y[g + 2]);
            x[g + 2] = _mm512_shuffle_ps::<0x44>(y[g + 1], y[g + 3]);
            x[g + 3] = _mm512_shuffle_ps::<0xee>(y[g + 1], y[g + 3]);
        }
        for c in 0..4 {
            let upper_even = _mm512_shuffle_f32x4::<0x88>(x[c], x[c + 4]);
            let upper_odd = _mm512_shuffle_f32x4::<0xdd>(x[c], x[c + 4]);
            let lower_even = _mm512_shuffle_f32x4::<0x88>(x[c + 8], x[c + 12]);
            let lower_odd = _mm512_shuffle_f32x4::<0xdd>(x[c + 8], x[c + 12]);
            y[c] = _mm512_shuffle_f32x4::<0x88>(upper_even, lower_even);
            y[c + 4] = _mm512_shuffle_f32x4::<0x88>(upper_odd, lower_odd);
            y[c + 8] = _mm512_shuffle_f32x4::<0xdd>(upper_even, lower_even);
            y[c + 12] = _mm512_shuffle_f32x4::<0xdd>(upper_odd, lower_odd);
        }
    }
    y
}
