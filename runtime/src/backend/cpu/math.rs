//! Elementary functions in f32 without the C library: branch-free, so that loops over them vectorise. Each says
//! where its coefficients come from; the test holds each against f64.

use super::isa::fma;

/// `2^23 * 1.5`: adding it leaves the nearest integer in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;

/// `e^x`. Range reduction by `ln 2` in two parts and the degree-5 polynomial of Cephes `expf`; 2 ulp.
#[inline(always)]
pub(super) fn exp<const F: bool>(x: f32) -> f32 {
    let clamped = x.clamp(-104.0, 89.0);
    let t = fma::<F>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = t - ROUND;
    let r = fma::<F>(n, -0.693_359_4, clamped);
    let r = fma::<F>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = fma::<F>(p, r, c);
    }
    let p = fma::<F>(p * r, r, r) + 1.0;
    // 2^n in two factors, since n reaches -150 (subnormal results) and 128.
    let i = (t.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = i >> 1;
    let scale = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
    let y = p * scale(half) * scale(i - half);
    if x.is_nan() { x } else { y }
}

/// `ln x`. Cephes `logf`: exponent apart, degree-8 polynomial on `[sqrt 1/2, sqrt 2]`; 2 ulp.
#[inline(always)]
pub(super) fn ln<const F: bool>(x: f32) -> f32 {
    // Subnormals are scaled into the normal range first.
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits();
    let shifted = bits.wrapping_sub(0x3f35_04f3); // sqrt(1/2)
    let e = ((shifted as i32) >> 23) as f32 - if tiny { 23.0 } else { 0.0 };
    let m = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(0x3f35_04f3)) - 1.0;
    let mut p = 7.037_683_6e-2;
    for c in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        0.333_333_3,
    ] {
        p = fma::<F>(p, m, c);
    }
    let z = m * m;
    let y = fma::<F>(e, -2.121_944_4e-4, p * m * z);
    let y = fma::<F>(z, -0.5, y);
    let y = fma::<F>(e, 0.693_359_4, m + y);
    if x == f32::INFINITY {
        x
    } else if x == 0.0 {
        f32::NEG_INFINITY
    } else if x > 0.0 {
        y
    } else {
        f32::NAN
    }
}

/// `tanh x` as `1 - 2 / (e^2x + 1)`, odd; absolute error below 2e-7.
#[inline(always)]
pub(super) fn tanh<const F: bool>(x: f32) -> f32 {
    let a = x.abs();
    let big = 1.0 - 2.0 / (exp::<F>(2.0 * a) + 1.0);
    // Below 1/4 the difference would cancel: the odd series to x^9.
    let z = x * x;
    let mut p = 2.186_949e-2;
    for c in [-5.396_825_4e-2, 1.333_333_4e-1, -3.333_333_4e-1] {
        p = fma::<F>(p, z, c);
    }
    let small = fma::<F>(p * z, a, a);
    let y = if a < 0.25 { small } else { big };
    y.copysign(x)
}

/// `erf x`: the rational minimax form of degrees 13 and 8 that Eigen uses on `[-4, 4]`; absolute error below 5e-7.
#[inline(always)]
pub(super) fn erf<const F: bool>(x: f32) -> f32 {
    let c = x.clamp(-4.0, 4.0);
    let z = c * c;
    let mut p = -2.726_142_3e-10;
    for k in [
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ] {
        p = fma::<F>(p, z, k);
    }
    let mut q = -1.456_607_2e-5;
    for k in [-2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2] {
        q = fma::<F>(q, z, k);
    }
    // From 4 on the result rounds to 1.
    let y = if x.abs() >= 4.0 { 1f32.copysign(x) } else { c * p / q };
    if x.is_nan() { x } else { y.clamp(-1.0, 1.0) }
}

/// Sine and cosine of `turn / 2^32` turns: the nearest quarter apart, Cephes `sinf` and `cosf` on the rest, within an
/// eighth of a turn; absolute error below 1e-7.
#[inline(always)]
pub(super) fn sin_cos<const F: bool>(turn: u32) -> (f32, f32) {
    let quarter = turn.wrapping_add(1 << 29) >> 30;
    let rest = turn.wrapping_sub(quarter << 30) as i32;
    let r = rest as f32 * (std::f32::consts::TAU / 4_294_967_296.0);
    let z = r * r;
    let mut s = -1.951_529_6e-4;
    for c in [8.332_161e-3, -1.666_665_5e-1] {
        s = fma::<F>(s, z, c);
    }
    let sin = fma::<F>(s * z, r, r);
    let mut c = 2.443_315_7e-5;
    for k in [-1.388_731_6e-3, 4.166_664_6e-2] {
        c = fma::<F>(c, z, k);
    }
    let cos = fma::<F>(c, z * z, fma::<F>(z, -0.5, 1.0));
    let (a, b) = if quarter & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let sign = |bit: u32| (bit & 2) << 30;
    (f32::from_bits(a.to_bits() ^ sign(quarter)), f32::from_bits(b.to_bits() ^ sign(quarter + 1)))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid<const F: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<F>(-x))
}

/// GELU by the error function.
#[inline(always)]
pub(super) fn gelu_erf<const F: bool>(x: f32) -> f32 {
    let half = 0.5 * x;
    fma::<F>(half, erf::<F>(x * std::f32::consts::FRAC_1_SQRT_2), half)
}

/// GELU by tanh.
#[inline(always)]
pub(super) fn gelu_tanh<const F: bool>(x: f32) -> f32 {
    let inner = 0.797_884_6 * fma::<F>(0.044_715 * x * x, x, x);
    let half = 0.5 * x;
    fma::<F>(half, tanh::<F>(inner), half)
}

/// `max(x, 0)`; NaN stays NaN.
#[inline(always)]
pub(super) fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// The larger; NaN if either is.
#[inline(always)]
pub(super) fn max(x: f32, y: f32) -> f32 {
    if x.is_nan() || x > y { x } else { y }
}

/// The smaller; NaN if either is.
#[inline(always)]
pub(super) fn min(x: f32, y: f32) -> f32 {
    if x.is_nan() || x < y { x } else { y }
}

#[cfg(test)]
mod tests {
    /// Worst `|f - exact|`, in units of `scale(exact)`, over a sweep of `lo..hi`.
    fn worst(
        f: fn(f32) -> f32,
        exact: fn(f64) -> f64,
        lo: f32,
        hi: f32,
        scale: fn(f64) -> f64,
    ) -> f64 {
        let steps = 200_000;
        (0..=steps)
            .map(|i| {
                let x = lo + (hi - lo) * i as f32 / steps as f32;
                let y = exact(f64::from(x));
                let error = (f64::from(f(x)) - y).abs() / scale(y);
                assert!(!error.is_nan(), "f({x}) = {} for {y}", f(x));
                error
            })
            .fold(0.0, f64::max)
    }

    const EPS: f64 = f32::EPSILON as f64;

    fn erf_f64(x: f64) -> f64 {
        // Taylor series, enough terms for |x| <= 5 in f64 with cancellation well below f32.
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn functions_agree_with_f64() {
        let relative: fn(f64) -> f64 = |y| y.abs().max(1e-37) * EPS;
        let absolute: fn(f64) -> f64 = |_| EPS;
        assert!(worst(super::exp::<true>, f64::exp, -87.0, 88.0, relative) < 2.0);
        assert!(worst(super::exp::<false>, f64::exp, -87.0, 88.0, relative) < 2.5);
        assert!(worst(super::ln::<true>, f64::ln, 1e-30, 10.0, |y| y.abs().max(1.0) * EPS) < 2.0);
        assert!(worst(super::ln::<false>, f64::ln, 10.0, 1e30, relative) < 2.0);
        assert!(worst(super::tanh::<true>, f64::tanh, -9.0, 9.0, absolute) < 1.7);
        assert!(worst(super::erf::<true>, erf_f64, -4.1, 4.1, absolute) < 4.2);
        assert!(worst(super::erf::<false>, erf_f64, -4.1, 4.1, absolute) < 4.2);
    }

    #[test]
    fn edges_are_exact() {
        assert_eq!(super::exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(super::exp::<true>(f32::INFINITY), f32::INFINITY);
        assert_eq!(super::exp::<true>(0.0), 1.0);
        assert!(super::exp::<true>(-100.0) > 0.0);
        assert!(super::exp::<true>(f32::NAN).is_nan());
        assert_eq!(super::ln::<true>(0.0), f32::NEG_INFINITY);
        assert_eq!(super::ln::<true>(1.0), 0.0);
        assert!(super::ln::<true>(-1.0).is_nan() && super::ln::<true>(f32::NAN).is_nan());
        assert_eq!(super::tanh::<true>(f32::INFINITY), 1.0);
        assert_eq!(super::erf::<true>(f32::NEG_INFINITY), -1.0);
        assert!(super::max(f32::NAN, 1.0).is_nan() && super::min(1.0, f32::NAN).is_nan());
    }
}
