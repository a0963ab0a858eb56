//! `norm`: each row of the last axis normalised, in f32: layer `(x - mean) / sqrt(var + eps) * weight + bias`,
//! RMS `x / sqrt(mean(x^2) + eps) * weight + bias`.
//!
//! Shapes: x and out `[.., n]`, weight and bias `[n]`. Statistics are two-pass: the mean first, then squares.

use super::operand::Role;

/// Which statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NormKind {
    /// Mean and variance.
    Layer = 0,
    /// Root mean square.
    Rms = 1,
}

/// Options of a normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// Which statistics.
    pub kind: NormKind,
    /// Added under the root.
    pub epsilon: f32,
    /// Whether a `weight` operand multiplies.
    pub weight: bool,
    /// Whether a `bias` operand is added.
    pub bias: bool,
}

impl Norm {
    /// `x, [weight], [bias], out`.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = vec![Role::element("x")];
        roles.extend(self.weight.then_some(Role::read("weight")));
        roles.extend(self.bias.then_some(Role::read("bias")));
        roles.push(Role::write("out"));
        roles
    }
}
