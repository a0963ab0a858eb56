//! `norm_backward`: gradient of [`super::Norm`] with respect to its input, from that input and the gradient of the
//! output, and the terms of the weight's gradient: their sum over the rows is it.
//!
//! Shapes: x, d_out, d_x and terms `[.., n]`, weight `[n]`. With `y` the normalised row, `r` its factor
//! (`1 / sqrt(var + eps)`) and `g = d_out * weight`: layer `d_x = r (g - mean(g) - y mean(g y))`, RMS
//! `d_x = r (g - y mean(g y))`; `terms = d_out * y`, f32. The bias's gradient is the sum of `d_out` over the rows.

use super::norm::NormKind;
use super::operand::Role;

/// Options of the gradient of a normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct NormBackward {
    /// Which statistics.
    pub kind: NormKind,
    /// Added under the root.
    pub epsilon: f32,
    /// Whether a `weight` operand multiplied.
    pub weight: bool,
}

impl NormBackward {
    /// `x, [weight], d_out, d_x, terms`.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = vec![Role::read("x")];
        roles.extend(self.weight.then_some(Role::read("weight")));
        roles.extend([Role::read("d_out"), Role::write("d_x"), Role::write("terms")]);
        roles
    }
}
