//! Both sides in one run: our products beside the `gemm` crate called directly, and a batch beside a loop over it.

use crate::measure::{Timing, interleaved, normal};
use leasehold::{Device, Matmul, Result};
use serde::Serialize;
use std::time::Duration;

/// Ours and a peer's, taking turns.
#[derive(Clone, Debug, Serialize)]
pub struct Versus {
    /// What was computed.
    pub what: String,
    /// Who the peer is.
    pub peer: &'static str,
    /// Our seconds.
    pub ours: Timing,
    /// The peer's seconds.
    pub theirs: Timing,
    /// Their median over ours: above 1 we are faster.
    pub ratio: f64,
}

impl Versus {
    fn of(what: String, peer: &'static str, timings: &[Timing]) -> Self {
        let (ours, theirs) = (timings[0], timings[1]);
        Self { what, peer, ours, theirs, ratio: theirs.median_s / ours.median_s }
    }
}

/// Row-major `c = a b` by the `gemm` crate.
fn gemm_f32([m, n, k]: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32], how: gemm::Parallelism) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n, "operands of the shape");
    let (n_stride, k_stride) = (n as isize, k as isize);
    // SAFETY: the lengths were just checked; strides are row-major.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n_stride,
            false,
            a.as_ptr(),
            1,
            k_stride,
            b.as_ptr(),
            1,
            n_stride,
            0.0,
            1.0,
            false,
            false,
            false,
            how,
        );
    }
}

/// One f32 product of `size` cubed beside `gemm` with all its threads.
///
/// # Errors
/// What the op fails with.
pub fn square(device: &Device, size: usize, budget: Duration) -> Result<Versus> {
    let (a, b) = (normal(1, size * size), normal(2, size * size));
    let mut c = vec![0f32; size * size];
    let (x, y) = (device.tensor([size, size], &a)?, device.tensor([size, size], &b)?);
    let out = Matmul::new(&x, &y).run()?;
    let mut ours = || {
        Matmul::new(&x, &y).into(&out).run()?;
        device.wait(None)
    };
    let mut theirs = || {
        gemm_f32([size; 3], &a, &b, &mut c, gemm::Parallelism::Rayon(0));
        Ok(())
    };
    let timings = interleaved(budget, &mut [&mut ours, &mut theirs])?;
    Ok(Versus::of(format!("matmul f32 {size}x{size}x{size}"), "gemm", &timings))
}

/// `batch` products of `size` cubed as one op, beside a serial loop of `gemm` over them.
///
/// # Errors
/// What the op fails with.
pub fn batch(device: &Device, batch: usize, size: usize, budget: Duration) -> Result<Versus> {
    let each = size * size;
    let (a, b) = (normal(1, batch * each), normal(2, batch * each));
    let mut c = vec![0f32; batch * each];
    let x = device.tensor([batch, size, size], &a)?;
    let y = device.tensor([batch, size, size], &b)?;
    let out = Matmul::new(&x, &y).run()?;
    let mut ours = || {
        Matmul::new(&x, &y).into(&out).run()?;
        device.wait(None)
    };
    let mut theirs = || {
        for (i, c) in c.chunks_exact_mut(each).enumerate() {
            let at = i * each..(i + 1) * each;
            gemm_f32([size; 3], &a[at.clone()], &b[at], c, gemm::Parallelism::None);
        }
        Ok(())
    };
    let timings = interleaved(budget, &mut [&mut ours, &mut theirs])?;
    Ok(Versus::of(
        format!("{batch} matmuls f32 {size}x{size}x{size}"),
        "gemm, serial loop",
        &timings,
    ))
}
