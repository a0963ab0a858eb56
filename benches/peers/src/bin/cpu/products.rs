//! Products: squares, few rows by a weight, a batch of small ones. f32 beside `gemm` and `rten-gemm`; no crate has a
//! bf16 product on this kind of CPU, so that ours is timed alone, for the scripts.

use leasehold::{DType, Device, Matmul};
use leasehold_bench::measure::{Timing, normal};
use leasehold_bench::ops::random;
use leasehold_peers::{Peer, Result, Row, beside};
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;
use std::time::Duration;

/// A batch of m x k by k x n.
#[derive(Clone, Copy)]
pub struct Case {
    dtype: DType,
    shape: [usize; 4],
}

impl Case {
    /// As the table calls it.
    pub fn name(&self) -> String {
        let ([batch, m, n, k], dtype) = (self.shape, self.dtype);
        let times = if batch == 1 { String::new() } else { format!("{batch} x ") };
        format!("matmul {dtype} {times}{m}x{n}x{k}")
    }

    /// B lies as [n, k], as weights do.
    fn transposed(&self) -> bool {
        self.shape[1] < self.shape[3]
    }
}

const SHAPES: [[usize; 4]; 10] = [
    [1, 256, 256, 256],
    [1, 512, 512, 512],
    [1, 768, 768, 768],
    [1, 1024, 1024, 1024],
    [1, 1536, 1536, 1536],
    [1, 2048, 2048, 2048],
    [1, 1, 4096, 4096],
    [1, 4, 4096, 4096],
    [1, 16, 4096, 4096],
    [256, 64, 64, 64],
];

/// Every shape in f32 and in bf16: those of `matmul_torch.py`.
pub const CASES: [Case; 2 * SHAPES.len()] = {
    let mut cases = [Case { dtype: DType::F32, shape: [0; 4] }; 2 * SHAPES.len()];
    let mut i = 0;
    while i < SHAPES.len() {
        cases[i].shape = SHAPES[i];
        cases[SHAPES.len() + i] = Case { dtype: DType::BF16, shape: SHAPES[i] };
        i += 1;
    }
    cases
};

/// Our timing, and rows beside the peers that run this type.
///
/// # Errors
/// What a side fails with.
pub fn measure(device: &Device, case: &Case, budget: Duration) -> Result<(Timing, Vec<Row>)> {
    let [batch, m, n, k] = case.shape;
    let x = random(device, case.dtype, &[batch, m, k], 1)?;
    let y = match case.transposed() {
        true => random(device, case.dtype, &[batch, n, k], 2)?.t(),
        false => random(device, case.dtype, &[batch, k, n], 2)?,
    };
    let out = Matmul::new(&x, &y).run()?;
    let mut ours = || {
        Matmul::new(&x, &y).into(&out).run()?;
        Ok(device.wait(None)?)
    };
    let mut peers: Vec<Box<dyn Peer>> = Vec::new();
    let mut expected = Vec::new();
    if case.dtype == DType::F32 {
        expected = out.read::<f32>()?.wait(None)?;
        let rten = Rten { operands: Operands::of(case), gemm: GemmExecutor::new() };
        peers = vec![Box::new(Gemm(Operands::of(case))), Box::new(rten)];
    }
    beside(&case.name(), case.dtype, budget, &mut ours, &expected, &mut peers)
}

/// The numbers that [`random`] put on the device, and a place for the product.
struct Operands {
    shape: [usize; 4],
    /// Elements from one row of B to the next, and from one column.
    b_strides: [usize; 2],
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
}

impl Operands {
    fn of(case: &Case) -> Self {
        let [batch, m, n, k] = case.shape;
        Self {
            shape: case.shape,
            b_strides: if case.transposed() { [1, k] } else { [n, 1] },
            a: normal(1, batch * m * k),
            b: normal(2, batch * k * n),
            c: vec![0.0; batch * m * n],
        }
    }
}

/// The `gemm` crate: one product on all its threads; a batch is a loop, whose items are too small for two threads.
struct Gemm(Operands);

impl Peer for Gemm {
    fn package(&self) -> &'static str {
        "gemm"
    }

    fn how(&self) -> &'static str {
        if self.0.shape[0] == 1 { "" } else { "in a serial loop" }
    }

    fn run(&mut self) -> Result<()> {
        let Operands { shape: [batch, m, n, k], b_strides, a, b, c } = &mut self.0;
        let (m, n, k) = (*m, *n, *k);
        let threads =
            if *batch == 1 { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
        let [b_row, b_column] = b_strides.map(|stride| stride as isize);
        let items = a.chunks_exact(m * k).zip(b.chunks_exact(k * n)).zip(c.chunks_exact_mut(m * n));
        for ((a, b), c) in items {
            let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
            // SAFETY: the chunks hold m x n, m x k and k x n elements, which these strides address.
            unsafe {
                gemm::gemm(
                    m, n, k, c, 1, n as isize, false, a, 1, k as isize, b, b_column, b_row, 0.0,
                    1.0, false, false, false, threads,
                );
            }
        }
        Ok(())
    }

    fn output(&self) -> Result<Vec<f32>> {
        Ok(self.0.c.clone())
    }
}

/// `rten-gemm`: the items of a batch side by side, as its `batched_gemm_uninit` runs them.
struct Rten {
    operands: Operands,
    gemm: GemmExecutor,
}

impl Peer for Rten {
    fn package(&self) -> &'static str {
        "rten-gemm"
    }

    fn run(&mut self) -> Result<()> {
        let Operands { shape: [_, m, n, k], b_strides, a, b, c } = &mut self.operands;
        let (m, n, k) = (*m, *n, *k);
        let product = |((a, b), c): ((&[f32], &[f32]), &mut [f32])| {
            let a = NdTensorView::from_data([m, k], a);
            let b = match b_strides {
                [_, 1] => NdTensorView::from_data([k, n], b),
                _ => NdTensorView::from_data([n, k], b).transposed(),
            };
            let (a, b) = (GemmInputA::Unpacked(a), GemmInputB::Unpacked(b));
            self.gemm.gemm(c, a, b, GemmOptions::default())
        };
        let items = a.par_chunks_exact(m * k).zip(b.par_chunks_exact(k * n));
        Ok(items.zip(c.par_chunks_exact_mut(m * n)).try_for_each(product)?)
    }

    fn output(&self) -> Result<Vec<f32>> {
        Ok(self.operands.c.clone())
    }
}
