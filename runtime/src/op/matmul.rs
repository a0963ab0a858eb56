//! `matmul`: `out = cast(residual + gate * act(scale_a * scale_b * alpha * A B + beta * C + bias))`, all in f32.
//!
//! Shapes: A `[batch.., m, k]`, B `[batch.., k, n]`, every other operand `[batch.., m, n]`; transposes and
//! broadcasts are strides (a bias along N has stride 0 along the batch and M).

use super::OrderClass;
use super::operand::Role;

/// The function applied after bias, in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Activation {
    /// `x`
    #[default]
    None = 0,
    /// `max(x, 0)`
    Relu = 1,
    /// `x/2 (1 + erf(x / sqrt 2))`
    GeluErf = 2,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`
    GeluTanh = 3,
    /// `x / (1 + exp(-x))`
    Silu = 4,
}

impl Activation {
    /// Every activation, in wire order.
    pub const ALL: [Self; 5] = [Self::None, Self::Relu, Self::GeluErf, Self::GeluTanh, Self::Silu];
}

/// How f32 operands are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Precision {
    /// True f32 products and sums.
    #[default]
    Full = 0,
    /// Products may round operands to tf32. Not built yet.
    Tf32 = 1,
}

/// What multiplies the activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Gate {
    /// Nothing.
    #[default]
    None = 0,
    /// A tensor of the output's shape.
    Tensor = 1,
    /// Every second column of N. Not built yet.
    Interleaved = 2,
}

/// Granularity of fp8 and int8 scales. Not built yet beyond `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Scale {
    /// No scale.
    #[default]
    None = 0,
    /// One for the tensor.
    Tensor = 1,
    /// One a row (of A) or column (of B).
    Row = 2,
    /// One for each run of 128 along K.
    Block1x128 = 3,
    /// One for each 128 by 128 block.
    Block128x128 = 4,
}

/// How rows are grouped over several B. Not built yet beyond `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Group {
    /// One product per batch entry.
    #[default]
    None = 0,
    /// Rows of the groups lie one after another; sizes in an operand.
    Contiguous = 1,
    /// A fixed room of rows a group, the true counts in an operand.
    Masked = 2,
    /// Groups along K.
    K = 3,
}

/// Options of the product. Which optional operands follow is part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Matmul {
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of `c`; 0 never reads it. Not built yet beyond 0.
    pub beta: f32,
    /// Whether a `bias` operand is added.
    pub bias: bool,
    /// Activation after the bias.
    pub activation: Activation,
    /// Gate on the activation.
    pub gate: Gate,
    /// Whether a `residual` operand is added last.
    pub residual: bool,
    /// Whether the pre-activation is a second output. Not built yet.
    pub preactivation: bool,
    /// How f32 operands are multiplied.
    pub precision: Precision,
    /// Scales of A and of B.
    pub scales: [Scale; 2],
    /// Grouping.
    pub group: Group,
    /// Whether B is marked constant, so that `prepare` may pack it.
    pub constant_b: bool,
    /// Freedom of the order.
    pub order: OrderClass,
}

impl Default for Matmul {
    fn default() -> Self {
        Self {
            alpha: 1.0,
            beta: 0.0,
            bias: false,
            activation: Activation::None,
            gate: Gate::None,
            residual: false,
            preactivation: false,
            precision: Precision::Full,
            scales: [Scale::None; 2],
            group: Group::None,
            constant_b: false,
            order: OrderClass::Fixed,
        }
    }
}

impl Matmul {
    /// `a, b, [bias], [c], [gate], [residual], [scale_a], [scale_b], [sizes], out, [preactivation]`.
    pub fn roles(&self) -> Vec<Role> {
        let optional = [
            (self.bias, Role::read("bias")),
            (self.beta != 0.0, Role::element("c")),
            (self.gate == Gate::Tensor, Role::element("gate")),
            (self.residual, Role::element("residual")),
            (self.scales[0] != Scale::None, Role::read("scale_a")),
            (self.scales[1] != Scale::None, Role::read("scale_b")),
            (self.group != Group::None, Role::read("sizes")),
            (true, Role::write("out")),
            (self.preactivation, Role::write("preactivation")),
        ];
        let mut roles = vec![Role::read("a"), Role::read("b")];
        roles.extend(optional.into_iter().filter_map(|(present, role)| present.then_some(role)));
        roles
    }
}
