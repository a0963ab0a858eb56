//! `map`: a function of each element or pair; integers wrap in their own type.

use super::functions::{activation, sigmoid};
use super::{Arithmetic, Inputs};
use crate::dtype::DType;
use crate::op::{Activation, Map, MapFn};

pub(super) fn map(
    a: impl Arithmetic,
    op: &Map,
    inputs: &Inputs,
    integer: Option<DType>,
) -> Vec<f64> {
    let (x, y) = (inputs.need("x"), inputs.get("y"));
    let pairs = x.data.iter().enumerate().map(|(i, &x)| (x, y.map_or(0.0, |y| y.data[i])));
    match integer {
        Some(dtype) => pairs.map(|(x, y)| whole(op.function, dtype, x, y)).collect(),
        None => pairs
            .map(|(x, y)| {
                let scaled = a.value(f64::from(op.scale) * a.value(float(a, op.function, x, y)));
                a.value(scaled + f64::from(op.shift))
            })
            .collect(),
    }
}

fn float(a: impl Arithmetic, function: MapFn, x: f64, y: f64) -> f64 {
    match function {
        MapFn::Identity => x,
        MapFn::Neg => -x,
        MapFn::Abs => x.abs(),
        MapFn::Exp => x.exp(),
        MapFn::Log => x.ln(),
        MapFn::Sqrt => x.sqrt(),
        MapFn::Rsqrt => 1.0 / x.sqrt(),
        MapFn::Recip => 1.0 / x,
        MapFn::Square => x * x,
        MapFn::Tanh => x.tanh(),
        MapFn::Sigmoid => sigmoid(a, x),
        MapFn::Relu => activation(a, Activation::Relu, x),
        MapFn::GeluErf => activation(a, Activation::GeluErf, x),
        MapFn::GeluTanh => activation(a, Activation::GeluTanh, x),
        MapFn::Silu => activation(a, Activation::Silu, x),
        MapFn::Add => x + y,
        MapFn::Sub => x - y,
        MapFn::Mul => x * y,
        MapFn::Div => x / y,
        MapFn::Max => x.max(y),
        MapFn::Min => x.min(y),
    }
}

fn whole(function: MapFn, dtype: DType, x: f64, y: f64) -> f64 {
    let (p, q) = (x as i64, y as i64);
    let z = match function {
        MapFn::Add => p + q,
        MapFn::Sub => p - q,
        // Up to 2^64: wraps to the same low 32 bits.
        MapFn::Mul => p.wrapping_mul(q),
        MapFn::Max => p.max(q),
        MapFn::Min => p.min(q),
        // `check` lets only the identity beside them reach integers.
        _ => p,
    };
    if dtype == DType::I32 { f64::from(z as i32) } else { f64::from(z as u32) }
}
