// Before every kernel: element types, views, and elementary functions. Buffers are words of 32 bits; smaller
// elements are halves and quarters of words, so that no device feature is needed. Masks and infinities are judged by
// bits: WGSL lets a compiler assume that no float is NaN or infinite.

const F32: u32 = 0u;
const F16: u32 = 1u;
const BF16: u32 = 2u;
const F8E4M3: u32 = 3u;
const F8E5M2: u32 = 4u;
const I8: u32 = 5u;
const I32: u32 = 6u;

// Below every score, and finite: what a hidden key counts as.
const LOWEST: f32 = -3.0e38;
const NEGATIVE_INFINITY: u32 = 0xff800000u;

// Where an operand lies: its element type, the element that its first is, and its strides in elements.
struct View {
    kind: u32,
    base: u32,
    unused_a: u32,
    unused_b: u32,
    strides: array<vec4<u32>, 2>,
}

// Two to this power are the elements of a word: a table of two bits a kind.
fn fold_of(kind: u32) -> u32 {
    return (0x0a94u >> (2u * kind)) & 3u;
}

// The word that holds element `e`.
fn word_of(kind: u32, e: u32) -> u32 {
    return e >> fold_of(kind);
}

// Bits of an element.
fn width_of(kind: u32) -> u32 {
    return 32u >> fold_of(kind);
}

// Where element `e` begins in its word, in bits.
fn shift_of(kind: u32, e: u32) -> u32 {
    return (e * width_of(kind)) & 31u;
}

// Ones where an element lies that begins a word.
fn mask_of(kind: u32) -> u32 {
    return 0xffffffffu >> (32u - width_of(kind));
}

// The bits of element `e`, out of its word.
fn bits_of(kind: u32, word: u32, e: u32) -> u32 {
    return (word >> shift_of(kind, e)) & mask_of(kind);
}

fn f16_to_f32(bits: u32) -> f32 {
    let sign = (bits & 0x8000u) << 16u;
    let size = bits & 0x7fffu;
    var wide = (size << 13u) + 0x38000000u;
    if size < 0x400u {
        // Subnormal: built from an integer, since a device may flush subnormals of either type.
        wide = bitcast<u32>(f32(size) * 5.9604644775390625e-8);
    } else if size >= 0x7c00u {
        wide = (size << 13u) | 0x7f800000u;
    }
    return bitcast<f32>(sign | wide);
}

// Nearest, ties to even.
fn f32_to_f16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let size = bits & 0x7fffffffu;
    if size > 0x7f800000u {
        return sign | 0x7e00u;
    }
    if size >= 0x477ff000u {
        return sign | 0x7c00u;
    }
    if size < 0x38800000u {
        return sign | u32(round(bitcast<f32>(size) * 16777216.0));
    }
    return sign | ((size + 0x0fffu + ((size >> 13u) & 1u) - 0x38000000u) >> 13u);
}

// Nearest, ties to even.
fn f32_to_bf16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

fn f8e4m3_to_f32(bits: u32) -> f32 {
    let sign = (bits & 0x80u) << 24u;
    let size = bits & 0x7fu;
    var wide = (size << 20u) + 0x3c000000u;
    if size < 8u {
        wide = bitcast<u32>(f32(size) * 0.001953125);
    } else if size == 0x7fu {
        wide = 0x7fc00000u;
    }
    return bitcast<f32>(sign | wide);
}

// Nearest, ties to even; beyond the largest it is the largest.
fn f32_to_f8e4m3(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 24u) & 0x80u;
    let size = bits & 0x7fffffffu;
    if size > 0x7f800000u {
        return sign | 0x7fu;
    }
    if size < 0x3c800000u {
        return sign | u32(round(bitcast<f32>(size) * 512.0));
    }
    let code = (size + 0x7ffffu + ((size >> 20u) & 1u) - 0x3c000000u) >> 20u;
    return sign | select(code, 0x7eu, code > 0x7eu);
}

// Nearest, ties to even; beyond the largest it is the largest.
fn f32_to_f8e5m2(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 24u) & 0x80u;
    let size = bits & 0x7fffffffu;
    if size > 0x7f800000u {
        return sign | 0x7fu;
    }
    if size < 0x38800000u {
        return sign | u32(round(bitcast<f32>(size) * 65536.0));
    }
    let code = (size + 0xfffffu + ((size >> 21u) & 1u) - 0x38000000u) >> 21u;
    return sign | select(code, 0x7bu, code > 0x7bu);
}

fn i8_of(bits: u32) -> i32 {
    return i32(bits << 24u) >> 24u;
}

// Element `e` of a type of 16 or fewer bits, or of f32, as f32, out of its word.
fn widen(kind: u32, word: u32, e: u32) -> f32 {
    let bits = bits_of(kind, word, e);
    switch kind {
        case F32: { return bitcast<f32>(bits); }
        case BF16: { return bitcast<f32>(bits << 16u); }
        case F8E4M3: { return f8e4m3_to_f32(bits); }
        case F8E5M2: { return f16_to_f32(bits << 8u); }
        case I8: { return f32(i8_of(bits)); }
        default: { return f16_to_f32(bits); }
    }
}

// The bits of `x` in such a type.
fn narrow(kind: u32, x: f32) -> u32 {
    switch kind {
        case F32: { return bitcast<u32>(x); }
        case BF16: { return f32_to_bf16(x); }
        case F8E4M3: { return f32_to_f8e4m3(x); }
        case F8E5M2: { return f32_to_f8e5m2(x); }
        case I8: { return u32(i32(round(clamp(x, -128.0, 127.0)))) & 0xffu; }
        default: { return f32_to_f16(x); }
    }
}

// The place of nothing.
const NOWHERE: u32 = 0xffffffffu;

// An integer that orders as IEEE 754's total order orders the float with these bits.
fn total_key(kind: u32, bits: u32) -> u32 {
    let high = bits << (32u - width_of(kind));
    return high ^ select(0x80000000u, 0xffffffffu, (high >> 31u) == 1u);
}

fn bits_of_total(kind: u32, key: u32) -> u32 {
    let high = key ^ select(0xffffffffu, 0x80000000u, (key >> 31u) == 1u);
    return high >> (32u - width_of(kind));
}

// A value over its scale, 0 where that is 0, within the range of the values.
fn quotient(x: f32, scale: f32, largest: f32) -> f32 {
    return select(clamp(x / scale, -largest, largest), 0.0, scale == 0.0);
}

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn with_sign(size: f32, sign: f32) -> f32 {
    return bitcast<f32>((bitcast<u32>(size) & 0x7fffffffu) | (bitcast<u32>(sign) & 0x80000000u));
}

// The builtins are only as good as a driver makes them. These follow Cephes (expf, logf) and Eigen (erf).

// e^x, 2 ulp: range reduction by ln 2 in two parts, degree-5 polynomial of Cephes. The clamp changes no value: it
// keeps a compiler that may reassociate (Mesa does) from adding the two parts first.
fn exp_of(x: f32) -> f32 {
    let c = clamp(x, -104.0, 89.0);
    let n = round(c * 1.44269504);
    let r = fma(n, 2.12194440e-4, clamp(fma(n, -0.693359375, c), -1.0, 1.0));
    var q = 1.9875691500e-4;
    q = fma(q, r, 1.3981999507e-3);
    q = fma(q, r, 8.3334519073e-3);
    q = fma(q, r, 4.1665795894e-2);
    q = fma(q, r, 1.6666665459e-1);
    q = fma(q, r, 5.0000001201e-1);
    q = fma(q * r, r, r) + 1.0;
    // 2^n in two factors: n reaches -150 and 128.
    let i = i32(n);
    let half = i >> 1u;
    let low = bitcast<f32>(u32(half + 127) << 23u);
    let high = bitcast<f32>(u32(i - half + 127) << 23u);
    return select(q * low * high, x, is_nan(x));
}

fn exp_of4(x: vec4<f32>) -> vec4<f32> {
    return vec4(exp_of(x.x), exp_of(x.y), exp_of(x.z), exp_of(x.w));
}

// ln x, 2 ulp: exponent apart, degree-8 polynomial of Cephes on [sqrt 1/2, sqrt 2].
fn ln_of(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    if bits == 0x7f800000u || is_nan(x) {
        return x;
    }
    if (bits & 0x7fffffffu) == 0u {
        return bitcast<f32>(bits | NEGATIVE_INFINITY);
    }
    if (bits >> 31u) == 1u {
        return bitcast<f32>(bits | 0x7fc00000u);
    }
    // Subnormals are scaled into the normal range first.
    let tiny = bits < 0x00800000u;
    let scaled = select(bits, bitcast<u32>(f32(bits) * 1.1754943508222875e-38), tiny);
    let shifted = i32(scaled - 0x3f3504f3u);
    let e = f32(shifted >> 23u) - select(0.0, 23.0, tiny);
    let m = bitcast<f32>((u32(shifted) & 0x007fffffu) + 0x3f3504f3u) - 1.0;
    var q = 7.0376836292e-2;
    q = fma(q, m, -1.1514610310e-1);
    q = fma(q, m, 1.1676998740e-1);
    q = fma(q, m, -1.2420140846e-1);
    q = fma(q, m, 1.4249322787e-1);
    q = fma(q, m, -1.6668057665e-1);
    q = fma(q, m, 2.0000714765e-1);
    q = fma(q, m, -2.4999993993e-1);
    q = fma(q, m, 3.3333331174e-1);
    let z = m * m;
    let y = fma(z, -0.5, clamp(fma(e, -2.12194440e-4, q * m * z), -1.0, 1.0));
    return fma(e, 0.693359375, m + y);
}

// tanh x as 1 - 2 / (e^2x + 1), odd; below 1/4, where that cancels, the odd series to x^9.
fn tanh_of(x: f32) -> f32 {
    let a = abs(x);
    let big = 1.0 - 2.0 / (exp_of(2.0 * clamp(a, 0.0, 44.0)) + 1.0);
    let z = x * x;
    var q = 2.186949e-2;
    q = fma(q, z, -5.3968254e-2);
    q = fma(q, z, 1.3333334e-1);
    q = fma(q, z, -3.3333334e-1);
    let small = fma(q * z, a, a);
    return with_sign(select(big, small, a < 0.25), x);
}

// erf x: Eigen's rational form of degrees 13 and 8 on [-4, 4], where erf(4) rounds to 1.
fn erf_of(x: f32) -> f32 {
    let c = clamp(x, -4.0, 4.0);
    let z = c * c;
    var q = -2.72614225801306e-10;
    q = fma(q, z, 2.77068142495902e-08);
    q = fma(q, z, -2.10102402082508e-06);
    q = fma(q, z, -5.69250639462346e-05);
    q = fma(q, z, -7.34990630326855e-04);
    q = fma(q, z, -2.95459980854025e-03);
    q = fma(q, z, -1.60960333262415e-02);
    var d = -1.45660718464996e-05;
    d = fma(d, z, -2.13374055278905e-04);
    d = fma(d, z, -1.68282697438203e-03);
    d = fma(d, z, -7.37332916720468e-03);
    d = fma(d, z, -1.42647390514189e-02);
    let y = select(c * q / d, with_sign(1.0, x), abs(x) >= 4.0);
    return clamp(y, -1.0, 1.0);
}

fn sigmoid_of(x: f32) -> f32 {
    return 1.0 / (1.0 + exp_of(-x));
}

fn relu_of(x: f32) -> f32 {
    return select(x, 0.0, x < 0.0);
}

fn gelu_erf_of(x: f32) -> f32 {
    let half = 0.5 * x;
    return fma(half, erf_of(x * 0.70710678), half);
}

fn gelu_tanh_of(x: f32) -> f32 {
    let half = 0.5 * x;
    return fma(half, tanh_of(0.7978845608 * fma(0.044715 * x * x, x, x)), half);
}

fn silu_of(x: f32) -> f32 {
    return x * sigmoid_of(x);
}
