//! Sixteen floats at once, as registers of AVX-512 or as a plain array, and code that is compiled for either. For
//! kernels that must keep many sums in registers, which loops over arrays do not. `few` is written in it.

use super::convert::{BF16, F16};
use super::isa::{Isa, Kernel, fma};

/// Floats of a register.
pub(super) const LANES: usize = 16;

/// A register. Everything is `#[inline(always)]`, so that the class's features reach it.
pub(super) trait Lanes: Copy {
    fn zero() -> Self;
    fn splat(x: f32) -> Self;
    fn f32(x: &[f32; LANES]) -> Self;
    fn bf16(x: &[u16; LANES]) -> Self;
    fn f16(x: &[u16; LANES]) -> Self;
    /// `self + a b`, fused as the class says.
    fn fma(self, a: Self, b: Self) -> Self;
    /// All lanes, halved until one is left.
    fn sum(self) -> f32;
    fn store(self, to: &mut [f32; LANES]);
    /// Asks for the cache line there, which need not exist.
    fn prefetch<T>(at: *const T);
}

/// An element type that widens to lanes.
pub(super) trait Element {
    type Bits: bytemuck::Pod;
    fn lanes<L: Lanes>(x: &[Self::Bits; LANES]) -> L;
}

pub(super) struct OfF32;
pub(super) struct OfBf16;
pub(super) struct OfF16;

impl Element for OfF32 {
    type Bits = f32;
    #[inline(always)]
    fn lanes<L: Lanes>(x: &[f32; LANES]) -> L {
        L::f32(x)
    }
}

impl Element for OfBf16 {
    type Bits = u16;
    #[inline(always)]
    fn lanes<L: Lanes>(x: &[u16; LANES]) -> L {
        L::bf16(x)
    }
}

impl Element for OfF16 {
    type Bits = u16;
    #[inline(always)]
    fn lanes<L: Lanes>(x: &[u16; LANES]) -> L {
        L::f16(x)
    }
}

/// Code over lanes. Implementations mark `run` `#[inline(always)]`, and everything it calls.
pub(super) trait Code {
    fn run<L: Lanes>(self);
}

/// Runs `code` compiled for a class.
pub(super) fn run(isa: Isa, code: impl Code) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa::detect`, the only maker of these, saw AVX-512 F, BW, DQ, VL and FMA.
        Isa::Amx | Isa::Bf16 | Isa::V4 => unsafe { wide(code) },
        _ => isa.run(Plainly(code)),
    }
}

struct Plainly<C>(C);

impl<C: Code> Kernel for Plainly<C> {
    type Output = ();
    #[inline(always)]
    fn run<const F: bool>(self) {
        self.0.run::<Plain<F>>();
    }
}

/// An array, for the classes without AVX-512.
#[derive(Clone, Copy)]
struct Plain<const F: bool>([f32; LANES]);

impl<const F: bool> Lanes for Plain<F> {
    #[inline(always)]
    fn zero() -> Self {
        Self([0.0; LANES])
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn f32(x: &[f32; LANES]) -> Self {
        Self(*x)
    }

    #[inline(always)]
    fn bf16(x: &[u16; LANES]) -> Self {
        let mut lanes = [0.0; LANES];
        for i in 0..LANES {
            lanes[i] = BF16.one(x[i]);
        }
        Self(lanes)
    }

    #[inline(always)]
    fn f16(x: &[u16; LANES]) -> Self {
        let mut lanes = [0.0; LANES];
        for i in 0..LANES {
            lanes[i] = F16.one(x[i]);
        }
        Self(lanes)
    }

    #[inline(always)]
    fn fma(mut self, a: Self, b: Self) -> Self {
        for i in 0..LANES {
            self.0[i] = fma::<F>(a.0[i], b.0[i], self.0[i]);
        }
        self
    }

    #[inline(always)]
    fn sum(mut self) -> f32 {
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                self.0[i] += self.0[i + width];
            }
            width /= 2;
        }
        self.0[0]
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }

    #[inline(always)]
    fn prefetch<T>(_: *const T) {}
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn wide<C: Code>(code: C) {
    code.run::<x86::Wide>();
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Lanes};
    use std::arch::x86_64::{
        __m512, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm512_castsi512_ps,
        _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
        _mm512_storeu_ps,
    };

    /// A register of AVX-512. `super::wide` alone names it, so its instructions exist wherever one is made or used.
    #[derive(Clone, Copy)]
    pub(super) struct Wide(__m512);

    impl Lanes for Wide {
        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: see the type.
            Self(unsafe { _mm512_setzero_ps() })
        }

        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: see the type.
            Self(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        fn f32(x: &[f32; LANES]) -> Self {
            // SAFETY: see the type; all elements are there.
            Self(unsafe { _mm512_loadu_ps(x.as_ptr()) })
        }

        #[inline(always)]
        fn bf16(x: &[u16; LANES]) -> Self {
            // SAFETY: see the type; all elements are there.
            unsafe {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)))
            }
        }

        #[inline(always)]
        fn f16(x: &[u16; LANES]) -> Self {
            // SAFETY: see the type; all elements are there.
            Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) })
        }

        #[inline(always)]
        fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: see the type.
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }

        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: see the type.
            unsafe { _mm512_reduce_add_ps(self.0) }
        }

        #[inline(always)]
        fn store(self, to: &mut [f32; LANES]) {
            // SAFETY: see the type; there is room for all.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn prefetch<T>(at: *const T) {
            // SAFETY: a hint, which reads nothing and never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
    }
}
