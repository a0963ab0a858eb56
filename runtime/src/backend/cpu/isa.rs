//! Instruction-set classes, and the one way to run code compiled for them. Kernels are written once as plain
//! loops over fixed lanes; each class compiles them with its own features, so the arch class names the bits.

use super::dot;
use std::sync::OnceLock;

/// An arch class of this backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    /// `Bf16` and AMX tiles of bf16.
    Amx,
    /// `V4` and AVX-512's dot product of bf16.
    Bf16,
    /// AVX-512 F, BW, DQ, VL and FMA.
    V4,
    /// AVX2 and FMA.
    V3,
    /// Whatever the target guarantees; multiplies and adds round apart.
    Generic,
}

/// Code that is compiled once for each class. Implementations mark `run` `#[inline(always)]`, and everything it
/// calls, so that the class's features reach the loops.
pub(super) trait Kernel {
    /// What it gives back.
    type Output;

    /// Runs it; `FMA` says whether [`fma`] fuses.
    fn run<const FMA: bool>(self) -> Self::Output;
}

impl Isa {
    /// The best class of this processor, probed once.
    pub(super) fn detect() -> Self {
        static ISA: OnceLock<Isa> = OnceLock::new();
        *ISA.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            {
                let v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                let v4 = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl");
                let bf16 = v4 && is_x86_feature_detected!("avx512bf16");
                match (v3, v4) {
                    (true, true) if bf16 && dot::has_tiles() => return Self::Amx,
                    (true, true) if bf16 => return Self::Bf16,
                    (true, true) => return Self::V4,
                    (true, false) => return Self::V3,
                    _ => {}
                }
            }
            Self::Generic
        })
    }

    /// The arch class's name, in orders and in the numerics id.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Amx => "x86-amx",
            Self::Bf16 => "x86-v4-bf16",
            Self::V4 => "x86-v4",
            Self::V3 => "x86-v3",
            Self::Generic => "generic",
        }
    }

    /// Runs `kernel` compiled for this class.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `detect`, the only maker of these, saw every feature that `v4` enables.
            Self::Amx | Self::Bf16 | Self::V4 => unsafe { v4(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `detect`, the only maker of `V3`, saw every feature that `v3` enables.
            Self::V3 => unsafe { v3(kernel) },
            _ => kernel.run::<false>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn v4<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn v3<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<true>()
}

/// `a b + c`, fused or not as the class says. Never a library call.
#[inline(always)]
pub(super) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
