// The model's side of `cuda/ptx/convert.h`.
#pragma once

#include <cmath>
#include <cstring>

#include "cuda/types.h"

DEVICE f32 f32_of_bits(u32 x) {
    f32 out;
    memcpy(&out, &x, sizeof out);
    return out;
}

DEVICE u32 bits_of(f32 x) {
    u32 out;
    memcpy(&out, &x, sizeof out);
    return out;
}

DEVICE u16 bf16_of(f32 x) {
    const u32 bits = bits_of(x);
    if (x != x) {
        return 0x7fff;
    }
    return static_cast<u16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// By the compiler's own type, which rounds to nearest even.
DEVICE u16 f16_of(f32 x) {
    const _Float16 half = static_cast<_Float16>(x);
    u16 out;
    memcpy(&out, &half, sizeof out);
    return x != x ? static_cast<u16>(0x7fff) : out;
}

// PTX ISA 8.7, section 9.7.9.21 (cvt): `.rna` rounds halves away from zero, and what is no number becomes 0x7fffffff.
DEVICE u32 tf32_of(f32 x) {
    const u32 bits = bits_of(x);
    if (x != x) {
        return 0x7fffffff;
    }
    return (bits & 0x7fffffff) == 0x7f800000 ? bits : (bits + 0x1000) & ~0x1fffu;
}

DEVICE f32 f32_of_f16(u16 x) {
    _Float16 half;
    memcpy(&half, &x, sizeof half);
    return static_cast<f32>(half);
}

DEVICE f32 fma(f32 a, f32 b, f32 c) { return std::fmaf(a, b, c); }

DEVICE f32 round_even(f32 x) { return std::nearbyintf(x); }

// What the hardware does with the last bit is not calibrated yet.
DEVICE f32 reciprocal(f32 x) { return 1.0f / x; }

DEVICE f32 divided(f32 x, f32 d) { return x / d; }

DEVICE f32 root(f32 x) { return std::sqrt(x); }

DEVICE f32 max_number(f32 x, f32 y) {
    if (x != x || y != y) {
        return x == x ? x : y == y ? y : f32_of_bits(0x7fffffff);
    }
    return x > y || (x == y && !std::signbit(x)) ? x : y;
}

DEVICE f32 exp2_of(f32 x) { return x < -126.0f ? 0.0f : std::exp2f(x); }

// What is below the normal range counts as 0.
DEVICE f32 log2_of(f32 x) { return std::log2f(std::fabs(x) < 0x1p-126f ? 0.0f : x); }

DEVICE u32 bf16_pair(f32 low, f32 high) { return bf16_of(low) | static_cast<u32>(bf16_of(high)) << 16; }

DEVICE u32 f16_pair(f32 low, f32 high) { return f16_of(low) | static_cast<u32>(f16_of(high)) << 16; }

DEVICE u32 product_of_f16_pairs(u32 a, u32 b) {
    u32 out = 0;
    for (u32 shift = 0; shift < 32; shift += 16) {
        const f32 x = f32_of_f16(static_cast<u16>(a >> shift)), y = f32_of_f16(static_cast<u16>(b >> shift));
        out |= static_cast<u32>(f16_of(x * y)) << shift;
    }
    return out;
}

namespace model {

// The 8-bit floats of the Open Compute Project (OFP8, revision 1.0), by their definition.
inline f32 f32_of_e4m3(u16 bits) {
    const int exponent = bits >> 3 & 15, digits = bits & 7;
    const f32 size = (bits & 0x7f) == 0x7f ? NAN
                     : exponent == 0       ? std::ldexp(static_cast<f32>(digits), -9)
                                           : std::ldexp(static_cast<f32>(8 + digits), exponent - 10);
    return bits & 0x80 ? -size : size;
}

inline f32 f32_of_e5m2(u16 bits) {
    const int exponent = bits >> 2 & 31, digits = bits & 3;
    const f32 size = exponent == 31  ? (digits == 0 ? INFINITY : NAN)
                     : exponent == 0 ? std::ldexp(static_cast<f32>(digits), -16)
                                     : std::ldexp(static_cast<f32>(4 + digits), exponent - 17);
    return bits & 0x80 ? -size : size;
}

}  // namespace model
