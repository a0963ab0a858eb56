//! `matmul`: `out = cast(residual + gate * act(scale_a * scale_b * alpha * A B + beta * C + bias))`, all in f32.
//!
//! Shapes: A `[batch.., m, k]`, B `[batch.., k, n]`, every other operand `[batch.., m, n]`; transposes and
//! broadcasts are strides (a bias along N has stride 0 along the batch and M). With an interleaved gate B, bias, C and
//! pre-activation are `[.., 2n]`: `out[j] = residual[j] + v[2j + 1] * act(v[2j])`, `v` being the pre-activation.
//!
//! Values of 8 bits: i8 with i8, summed in i32, or fp8 with fp8 (either kind), summed in f32 and promoted every 128
//! of K. Scales are f32, each multiplies what it covers. Of A: `[1]`, `[batch.., m]`, `[batch.., m, k/128]` or
//! `[batch.., m/128, k/128]`; of B: `[1]`, `[batch.., n]`, `[batch.., k/128, n]` or `[batch.., k/128, n/128]`, rounded up.
//!
//! Groups, sizes `[groups]`: `Contiguous` A `[rows, k]`, B `[groups, k, n]`, out `[rows, n]`; `Masked` A
//! `[groups, room, k]`, B `[groups, k, n]`, out `[groups, room, n]`; `K` A `[m, k]`, B `[k, n]`, out `[groups, m, n]`.
//! Rows that belong to no group give 0, whatever the epilogue.
//!
//! An indexed side (`index_a`, `index_b`) has one batch axis, its matrices: A `[matrices, m, k]`, of any stride, so that
//! a view whose matrices lie `s` elements apart takes offsets in units of `s`. Entry i of the output is of matrix
//! `a_index[i]`; indices are i32 or u32 of the output's batch axes. One that is no matrix gives a product of zeros, to
//! which the epilogue is applied, and a fault. No groups, and no scales of that side.
//!
//! A quantised output is fp8 or i8: by one scale that the caller gives (`scale_out`, `[1]`), or by one scale for each
//! 128 columns that the op finds (`out_scale`, `[batch.., m, n/128]`, largest magnitude over the type's largest).

use super::OrderClass;
use super::lens::Lens;
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
    /// Products may round operands to tf32.
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
    /// The odd columns of twice N gate the even ones.
    Interleaved = 2,
}

/// Granularity of scales of 8-bit values.
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

/// How rows are grouped over several B.
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
    /// Factor of `c`; 0 never reads it.
    pub beta: f32,
    /// Whether a `bias` operand is added.
    pub bias: bool,
    /// Activation after the bias.
    pub activation: Activation,
    /// Gate on the activation.
    pub gate: Gate,
    /// Whether a `residual` operand is added last.
    pub residual: bool,
    /// Whether the pre-activation is a second output.
    pub preactivation: bool,
    /// How f32 operands are multiplied.
    pub precision: Precision,
    /// Scales of A and of B.
    pub scales: [Scale; 2],
    /// Grouping.
    pub group: Group,
    /// Sizes of the groups: `Full` without groups. The device operand is `sizes`.
    pub sizes: Lens,
    /// Whether an `a_index` operand names each entry's matrix of A.
    pub index_a: bool,
    /// Whether a `b_index` operand names each entry's matrix of B.
    pub index_b: bool,
    /// How an 8-bit output is scaled: not, by `Tensor`, or by `Block1x128`.
    pub quantize: Scale,
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
            sizes: Lens::Full,
            index_a: false,
            index_b: false,
            quantize: Scale::None,
            constant_b: false,
            order: OrderClass::Fixed,
        }
    }
}

impl Matmul {
    /// `a, b, [bias], [c], [gate], [residual], [scale_a], [scale_b], [sizes], [a_index], [b_index], [scale_out], out,
    /// [preactivation], [out_scale]`.
    pub fn roles(&self) -> Vec<Role> {
        let optional = [
            (self.bias, Role::read("bias")),
            (self.beta != 0.0, Role::element("c")),
            (self.gate == Gate::Tensor, Role::element("gate")),
            (self.residual, Role::element("residual")),
            (self.scales[0] != Scale::None, Role::read("scale_a")),
            (self.scales[1] != Scale::None, Role::read("scale_b")),
            (self.sizes.on_device(), Role::read("sizes")),
            (self.index_a, Role::read("a_index")),
            (self.index_b, Role::read("b_index")),
            (self.quantize == Scale::Tensor, Role::read("scale_out")),
            (true, Role::write("out")),
            (self.preactivation, Role::write("preactivation")),
            (self.quantize == Scale::Block1x128, Role::write("out_scale")),
        ];
        let mut roles = vec![Role::read("a"), Role::read("b")];
        roles.extend(optional.into_iter().filter_map(|(present, role)| present.then_some(role)));
        roles
    }

    /// Whether indices name the matrices of a side.
    pub fn is_indexed(&self) -> bool {
        self.index_a || self.index_b
    }
}
