// Activations and the exponential behind them, without a library: the same polynomials as on the CPU and in WGSL, so that
// bits depend on this source alone. In f32, each within a few units in the last place.
#pragma once

#include "cuda/matmul.h"
#include "cuda/ptx.h"

DEVICE f32 clamped(f32 x, f32 low, f32 high) { return x < low ? low : x > high ? high : x; }

// e^x: 2^n e^r with r in [-ln2/2, ln2/2], degree-6 polynomial of Cephes. NaN stays NaN.
DEVICE f32 exp_of(f32 x) {
    if (x != x) {
        return x;
    }
    const f32 c = clamped(x, -104.0f, 89.0f);
    const f32 n = round_even(c * 1.44269504f);
    const f32 r = fma(n, 2.12194440e-4f, fma(n, -0.693359375f, c));
    f32 q = 1.9875691500e-4f;
    q = fma(q, r, 1.3981999507e-3f);
    q = fma(q, r, 8.3334519073e-3f);
    q = fma(q, r, 4.1665795894e-2f);
    q = fma(q, r, 1.6666665459e-1f);
    q = fma(q, r, 5.0000001201e-1f);
    q = fma(q * r, r, r) + 1.0f;
    // 2^n in two factors: n reaches -150 and 128.
    const i32 i = (i32)n;
    const i32 half = i >> 1;
    return q * f32_of_bits((u32)(half + 127) << 23) * f32_of_bits((u32)(i - half + 127) << 23);
}

// ln x: exponent apart, degree-8 polynomial of Cephes on [sqrt 1/2, sqrt 2].
DEVICE f32 ln_of(f32 x) {
    const u32 bits = bits_of(x);
    if (bits == 0x7f800000u || x != x) {
        return x;
    }
    if ((bits & 0x7fffffffu) == 0) {
        return f32_of_bits(0xff800000u);
    }
    if (bits >> 31 == 1) {
        return f32_of_bits(0x7fc00000u);
    }
    // Subnormals are scaled into the normal range first.
    const bool tiny = bits < 0x00800000u;
    const u32 shifted = (tiny ? bits_of(x * 8388608.0f) : bits) - 0x3f3504f3u;
    const f32 e = (f32)((i32)shifted >> 23) - (tiny ? 23.0f : 0.0f);
    const f32 m = f32_of_bits((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    f32 q = 7.0376836292e-2f;
    q = fma(q, m, -1.1514610310e-1f);
    q = fma(q, m, 1.1676998740e-1f);
    q = fma(q, m, -1.2420140846e-1f);
    q = fma(q, m, 1.4249322787e-1f);
    q = fma(q, m, -1.6668057665e-1f);
    q = fma(q, m, 2.0000714765e-1f);
    q = fma(q, m, -2.4999993993e-1f);
    q = fma(q, m, 3.3333331174e-1f);
    const f32 z = m * m;
    const f32 y = fma(z, -0.5f, fma(e, -2.12194440e-4f, q * m * z));
    return fma(e, 0.693359375f, m + y);
}

DEVICE f32 infinity() { return f32_of_bits(0x7f800000u); }

// The larger and the smaller; NaN if either is.
DEVICE f32 larger(f32 x, f32 y) { return x != x || x > y ? x : y; }
DEVICE f32 smaller(f32 x, f32 y) { return x != x || x < y ? x : y; }

// x/d for d of at most 2^125, rounded twice: an exact division is a call, around which a thread's sums would be spilled.
DEVICE f32 quotient(f32 x, f32 d) {
    const f32 r = reciprocal(d);
    return x * fma(r, fma(-d, r, 1.0f), r);
}

DEVICE f32 with_sign(f32 magnitude, f32 of) {
    return f32_of_bits((bits_of(magnitude) & 0x7fffffffu) | (bits_of(of) & 0x80000000u));
}

DEVICE f32 tanh_of(f32 x) {
    const f32 a = f32_of_bits(bits_of(x) & 0x7fffffffu);
    if (a < 0.25f) {
        const f32 z = x * x;
        f32 q = 2.186949e-2f;
        q = fma(q, z, -5.3968254e-2f);
        q = fma(q, z, 1.3333334e-1f);
        q = fma(q, z, -3.3333334e-1f);
        return with_sign(fma(q * z, a, a), x);
    }
    return with_sign(1.0f - quotient(2.0f, exp_of(2.0f * (a < 40.0f ? a : 40.0f)) + 1.0f), x);
}

// Eigen's rational form of degrees 13 and 8 on [-4, 4], where erf(4) rounds to 1.
DEVICE f32 erf_of(f32 x) {
    if (x != x) {
        return x;
    }
    const f32 c = clamped(x, -4.0f, 4.0f);
    const f32 z = c * c;
    f32 q = -2.72614225801306e-10f;
    q = fma(q, z, 2.77068142495902e-08f);
    q = fma(q, z, -2.10102402082508e-06f);
    q = fma(q, z, -5.69250639462346e-05f);
    q = fma(q, z, -7.34990630326855e-04f);
    q = fma(q, z, -2.95459980854025e-03f);
    q = fma(q, z, -1.60960333262415e-02f);
    f32 d = -1.45660718464996e-05f;
    d = fma(d, z, -2.13374055278905e-04f);
    d = fma(d, z, -1.68282697438203e-03f);
    d = fma(d, z, -7.37332916720468e-03f);
    d = fma(d, z, -1.42647390514189e-02f);
    return quotient(c * q, d);
}

DEVICE f32 activated(u32 activation, f32 x) {
    switch (activation) {
    case RELU: return x < 0.0f ? 0.0f : x;
    case GELU_ERF: return 0.5f * x * (1.0f + erf_of(0.70710678f * x));
    case GELU_TANH: return 0.5f * x * (1.0f + tanh_of(0.79788456f * fma(0.044715f * x * x, x, x)));
    case SILU: return quotient(x, 1.0f + exp_of(x < -85.0f ? 85.0f : -x));
    default: return x;
    }
}
