//! The measured peak of this machine's cores in f32 multiply-adds: the fraction that benchmarks print is of this,
//! not of a datasheet.

use std::hint::black_box;
use std::time::Instant;

const LANES: usize = 16;
const CHAINS: usize = 12;
const STEPS: usize = 5_000_000;

/// f32 operations a second of all `threads` together, a multiply-add counted as two; the best of five.
pub fn f32_flops(threads: usize) -> f64 {
    let once = || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| black_box(chains()));
            }
        });
        (threads * 2 * LANES * CHAINS * STEPS) as f64 / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| once()).fold(0.0, f64::max)
}

fn chains() -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was just detected.
            return unsafe { chains_v4() };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were just detected.
            return unsafe { chains_v3() };
        }
    }
    let mut acc = [[1f32; LANES]; CHAINS];
    for _ in 0..STEPS {
        acc.iter_mut().flatten().for_each(|x| *x = *x * 0.999_9 + 1e-4);
    }
    acc.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn chains_v4() -> f32 {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    let mut acc = [_mm512_set1_ps(1.0); CHAINS];
    // Unknown to the compiler, or it would fold the chains.
    let (a, b) = (_mm512_set1_ps(black_box(0.999_9)), _mm512_set1_ps(black_box(1e-4)));
    for _ in 0..STEPS {
        acc.iter_mut().for_each(|x| *x = _mm512_fmadd_ps(*x, a, b));
    }
    acc.into_iter().map(|x| _mm512_reduce_add_ps(x)).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains_v3() -> f32 {
    use std::arch::x86_64::{_mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
    // Two registers make the lanes that the count assumes.
    let mut acc = [_mm256_set1_ps(1.0); CHAINS];
    let (a, b) = (_mm256_set1_ps(black_box(0.999_9)), _mm256_set1_ps(black_box(1e-4)));
    for _ in 0..2 * STEPS {
        acc.iter_mut().for_each(|x| *x = _mm256_fmadd_ps(*x, a, b));
    }
    acc.into_iter().map(|x| _mm256_cvtss_f32(x)).sum()
}
