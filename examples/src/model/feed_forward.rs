//! The part of a transformer that works on each row alone.

use super::Linear;
use leasehold::{Recorder, Result, Tensor};

/// Wide, GELU, and back.
pub struct Mlp {
    /// `[width, inner]`.
    pub up: Linear,
    /// `[inner, width]`.
    pub down: Linear,
}

impl Mlp {
    /// `residual` plus the MLP of `x` `[rows, width]`.
    ///
    /// # Errors
    /// What the device fails with.
    pub fn run(&self, x: &Tensor, residual: &Tensor, p: Option<&Recorder>) -> Result<Tensor> {
        let wide = self.up.on(x).gelu().run_in(p)?;
        self.down.on(&wide).residual(residual).run_in(p)
    }
}

/// Wide twice, the one times SiLU of the other, and back.
pub struct GatedMlp {
    /// `[width, inner]`, under SiLU.
    pub gate: Linear,
    /// `[width, inner]`.
    pub up: Linear,
    /// `[inner, width]`.
    pub down: Linear,
}

impl GatedMlp {
    /// `residual` plus the MLP of `x` `[rows, width]`.
    ///
    /// # Errors
    /// What the device fails with.
    pub fn run(&self, x: &Tensor, residual: &Tensor, p: Option<&Recorder>) -> Result<Tensor> {
        let up = self.up.on(x).run_in(p)?;
        let wide = self.gate.on(x).silu().gate(&up).run_in(p)?;
        self.down.on(&wide).residual(residual).run_in(p)
    }
}
