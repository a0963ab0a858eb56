//! The rule of acceptance, after FlashAttention's tests: the largest error against f64 is at most twice that of
//! a plain formula in the output's type, plus the rounding floor: twice the spacing of that type at the largest
//! value. (Theirs, twice `|(x + 0.3 - 0.3) - x|`, comes to the same on large outputs and vanishes on lucky ones.)

use crate::dtype::DType;
use crate::reference::round_to;

/// Holds `got` against the exact values and those of the plain low-precision formula.
///
/// # Errors
/// The worst element and the tolerance it broke.
pub fn holds(dtype: DType, got: &[f64], exact: &[f64], low: &[f64]) -> Result<(), String> {
    if got.len() != exact.len() || got.len() != low.len() {
        return Err(format!("{} values for {}", got.len(), exact.len()));
    }
    let (mut worst, mut at, mut plain, mut largest) = (0.0, 0, 0f64, 0f64);
    let mut rounds = false;
    for (i, ((&y, &x), &l)) in got.iter().zip(exact).zip(low).enumerate() {
        let rounded = round_to(dtype, x);
        if x.is_nan() {
            return Err(format!("element {i}: the case itself gives NaN"));
        }
        if !rounded.is_finite() {
            if y != rounded {
                return Err(format!("element {i}: {y:e} for {rounded:e}"));
            }
            continue;
        }
        if !y.is_finite() {
            return Err(format!("element {i}: {y:e} for {x:e}"));
        }
        if (y - x).abs() > worst {
            (worst, at) = ((y - x).abs(), i);
        }
        // A plain formula that overflows excuses nothing.
        if l.is_finite() {
            plain = plain.max((l - x).abs());
        }
        largest = largest.max(x.abs());
        rounds |= rounded != x;
    }
    // Where every value is one of the type and the plain formula hits it, nothing is excused.
    let floor = if rounds || plain > 0.0 { spacing(dtype, largest) } else { 0.0 };
    let allowed = 2.0 * plain + 2.0 * floor;
    if worst > allowed {
        return Err(format!(
            "element {at}: {:e} for {:e}, error {worst:e}, allowed 2 x {plain:e} + 2 x {floor:e}",
            got[at], exact[at]
        ));
    }
    Ok(())
}

/// Distance between neighbours of a type at `x`.
fn spacing(dtype: DType, x: f64) -> f64 {
    let (digits, least) = match dtype {
        DType::F32 => (23, -126),
        DType::F16 => (10, -14),
        DType::BF16 => (7, -126),
        _ => return 0.0,
    };
    2f64.powi((x.log2().floor() as i32).max(least) - digits)
}

#[cfg(test)]
#[test]
fn nan_and_large_errors_never_pass() {
    let exact = [1.0, 2.0, f64::NEG_INFINITY];
    assert!(holds(DType::F32, &exact, &exact, &exact).is_ok());
    for wrong in [[f64::NAN, 2.0], [1.0, 2.1], [f64::INFINITY, 2.0]] {
        let got = [wrong[0], wrong[1], f64::NEG_INFINITY];
        assert!(holds(DType::F32, &got, &exact, &exact).is_err());
    }
    assert!(holds(DType::F32, &[1.0, 2.0, -3e38], &exact, &exact).is_err());
    assert!(holds(DType::I32, &[1.0], &[2.0], &[2.0]).is_err());
}
