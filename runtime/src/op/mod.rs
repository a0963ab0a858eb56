//! Ops as data: *what* is asked, printable and comparable, without tensors or devices. The tenant's builders
//! make them, the wire carries them, `check` judges them, backends plan them. One file an op.

mod arg_max;
mod attention;
mod attention_backward;
mod check;
mod checked;
mod copy;
mod cost;
mod gather;
mod lens;
mod map;
mod matmul;
mod norm;
mod norm_backward;
mod operand;
mod quantize;
mod reduce;
mod rope;
mod scatter;
mod scores;
mod softmax;
mod top_k;

pub use crate::error::Rule;
pub use arg_max::ArgMax;
pub use attention::{Attention, KeyValue};
pub use attention_backward::AttentionBackward;
pub use check::check;
pub use checked::{Binding, BoundOp, BufferId, CheckedOp};
pub use copy::Copy;
pub use gather::Gather;
pub use lens::Lens;
pub use map::{Map, MapFn};
pub use matmul::{Activation, Gate, Group, Matmul, Precision, Scale};
pub use norm::{Norm, NormKind};
pub use norm_backward::NormBackward;
pub use operand::{Access, Role, Spec};
pub use quantize::{Quantize, QuantizeFormat};
pub use reduce::{Reduce, ReduceFn};
pub use rope::Rope;
pub use scatter::{Scatter, ScatterFn};
pub use scores::{Mask, Scores};
pub use softmax::Softmax;
pub use top_k::TopK;

/// Which freedom the order has. See the Bits contract in ARCHITECTURE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum OrderClass {
    /// One order per shape and arch class: equal numerics id, equal bits.
    #[default]
    Fixed = 0,
    /// An order that ignores the number of rows and the batch.
    BatchInvariant = 1,
    /// Any order, vendor libraries included: no promise on bits. Plain products on a CUDA device of this process may then
    /// run on NVIDIA's cuBLASLt, where it is installed; a leased device has our kernels alone.
    Any = 2,
}

impl OrderClass {
    /// The class with this wire number.
    pub fn from_wire(code: u8) -> Option<Self> {
        [Self::Fixed, Self::BatchInvariant, Self::Any].get(usize::from(code)).copied()
    }
}

macro_rules! ops {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// One operation with its options.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op { $(#[doc = concat!("`", $text, "`")] $name($name),)* }

        impl Op {
            /// Names of every op, as they stand on every floor.
            pub const NAMES: &'static [&'static str] = &[$($text,)*];

            /// The op's name: of its source file, its shader, its parity test.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => $text,)* }
            }

            /// The op's wire number.
            pub const fn code(&self) -> u16 {
                match self { $(Self::$name(_) => $code,)* }
            }

            /// The operands that the descriptor asks for, in binding order: inputs, then outputs.
            pub fn roles(&self) -> Vec<Role> {
                match self { $(Self::$name(op) => op.roles(),)* }
            }
        }

        $(impl From<$name> for Op { fn from(op: $name) -> Self { Self::$name(op) } })*
    };
}

ops! {
    Matmul = 1, "matmul";
    Attention = 2, "attention";
    AttentionBackward = 3, "attention_backward";
    Norm = 4, "norm";
    Softmax = 5, "softmax";
    Map = 6, "map";
    Rope = 7, "rope";
    Gather = 8, "gather";
    Scatter = 9, "scatter";
    Reduce = 10, "reduce";
    ArgMax = 11, "arg_max";
    TopK = 12, "top_k";
    Quantize = 13, "quantize";
    Copy = 14, "copy";
    NormBackward = 15, "norm_backward";
}

impl Op {
    /// The counts that the descriptor itself holds, which travel beside its fixed-size options: query rows, then
    /// keys, of attention and its gradients; sizes of groups.
    pub fn host_lens(&self) -> [&[u32]; 2] {
        match self {
            Self::Attention(Attention { scores, .. })
            | Self::AttentionBackward(AttentionBackward { scores }) => {
                [scores.rows.host(), scores.lens.host()]
            }
            Self::Matmul(op) => [op.sizes.host(), &[]],
            _ => [&[], &[]],
        }
    }
}
