//! The rules that `check` enforces, one variant each, so that a rejection names the rule it broke.
//! `check` is the only caller; the wire carries the number.

use super::Kind;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident: $class:ident, $text:literal;)*) => {
        /// A rule of `check`. Its number is the wire's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Rule { $(#[doc = $text] $name,)* }

        impl Rule {
            /// Every rule, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The rule as a sentence.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The kind of error that breaking it is.
            pub(crate) fn kind(self, asked: String, allowed: String) -> Kind {
                match self { $(Self::$name => Kind::$class { asked, allowed },)* }
            }
        }
    };
}

rules! {
    OperandCount: Shape, "an op has exactly the operands its descriptor names";
    Rank: Shape, "the operand has the op's rank";
    SameShape: Shape, "elementwise operands have the output's shape";
    Batch: Shape, "batch dimensions agree";
    InnerDim: Shape, "contracted dimensions agree";
    OutDims: Shape, "the output has the shape the op produces";
    HeadDim: Shape, "query and key have one head dim";
    HeadGroups: Shape, "key/value heads divide query heads";
    Length: Shape, "lengths are one per batch entry and within the sequence";
    Elements: Shape, "a tensor has fewer than 2^62 elements";
    Float: DType, "the operand is f32, f16 or bf16";
    SameDType: DType, "operands of one kind have one dtype";
    IndexDType: DType, "indices are i32 or u32";
    StatDType: DType, "statistics are f32";
    Arithmetic: DType, "the function is defined for the dtype";
    OutInjective: Layout, "no two indices of an output name one element";
    Aligned: Layout, "a view starts at a multiple of its element size";
    OffsetClass: Layout, "a binding's offset modulo 256 is the one defined";
    InBounds: Bounds, "a view stays inside its allocation";
    Overlap: Alias, "an output overlaps an operand only as the same elementwise view";
    Finite: Value, "scales are finite";
    Epsilon: Value, "epsilon is finite and not negative";
    Axis: Value, "the axis exists";
    Limit: Unsupported, "sizes stay within this device's limits";
    Count: Value, "counts and axes that are counted along are within their range";
    Scaled: DType, "scales belong to 8-bit values and 8-bit values to scales";
    ScaleDims: Shape, "scales have the shape of what each covers";
    Groups: Value, "groups have sizes and sizes belong to groups";
    Packed: Shape, "packed rows have one batch entry and no mask";
    Pages: Shape, "pages have the number of keys that the descriptor says";
    Base: Value, "the base of rotary frequencies is above 1";
}

impl Rule {
    /// The rule with this wire number.
    pub fn from_wire(code: u16) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}
