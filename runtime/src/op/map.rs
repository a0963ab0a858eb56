//! `map`: a function of each element, or of each pair, computed in f32 (integers in their own type, wrapping).
//!
//! Shapes: x, y and out equal; broadcasts are strides. Inputs and output may have different float dtypes;
//! `Identity` is the cast.

use super::operand::Role;

macro_rules! map_fns {
    ($($name:ident = $code:literal, $arity:literal, $int:literal, $text:literal;)*) => {
        /// The function.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum MapFn { $(#[doc = $text] $name = $code,)* }

        impl MapFn {
            /// Every function, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Number of inputs: 1 or 2.
            pub const fn arity(self) -> usize {
                match self { $(Self::$name => $arity,)* }
            }

            /// Whether it is defined for i32 and u32.
            pub const fn for_integers(self) -> bool {
                match self { $(Self::$name => $int,)* }
            }
        }
    };
}

map_fns! {
    Identity = 0, 1, true, "`x`, cast to the output's dtype";
    Neg = 1, 1, false, "`-x`";
    Abs = 2, 1, false, "`|x|`";
    Exp = 3, 1, false, "`e^x`";
    Log = 4, 1, false, "natural logarithm";
    Sqrt = 5, 1, false, "`sqrt(x)`";
    Rsqrt = 6, 1, false, "`1 / sqrt(x)`";
    Recip = 7, 1, false, "`1 / x`";
    Square = 8, 1, false, "`x x`";
    Tanh = 9, 1, false, "hyperbolic tangent";
    Sigmoid = 10, 1, false, "`1 / (1 + e^-x)`";
    Relu = 11, 1, false, "`max(x, 0)`";
    GeluErf = 12, 1, false, "`x/2 (1 + erf(x / sqrt 2))`";
    GeluTanh = 13, 1, false, "the tanh form of GELU";
    Silu = 14, 1, false, "`x / (1 + e^-x)`";
    Add = 15, 2, true, "`x + y`";
    Sub = 16, 2, true, "`x - y`";
    Mul = 17, 2, true, "`x y`";
    Div = 18, 2, false, "`x / y`";
    Max = 19, 2, true, "the larger; NaN if either is";
    Min = 20, 2, true, "the smaller; NaN if either is";
}

/// Options of a map: `out = cast(scale * f(x, y) + shift)`; integers ask for scale 1 and shift 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// The function.
    pub function: MapFn,
    /// Factor of the result.
    pub scale: f32,
    /// Added to the result.
    pub shift: f32,
}

impl Map {
    /// `x, [y], out`.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = vec![Role::element("x")];
        roles.extend((self.function.arity() == 2).then_some(Role::element("y")));
        roles.push(Role::write("out"));
        roles
    }
}
