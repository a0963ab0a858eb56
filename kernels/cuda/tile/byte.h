// The 8-bit types as f32, and back: by bits, since not every architecture has the conversions. To nearest, ties to even;
// what is beyond the largest is the largest.
#pragma once

#include "cuda/tile/element.h"
#include "cuda/tile/functions.h"

DEVICE f32 f32_of_f8e4m3(u32 bits) {
    const u32 size = bits & 0x7f;
    const u32 wide = size == 0x7f ? 0x7fc00000u : size < 8 ? bits_of((f32)size * 0.001953125f) : (size << 20) + 0x3c000000u;
    return f32_of_bits((bits & 0x80) << 24 | wide);
}

DEVICE f32 f32_of_byte(u32 dtype, u32 bits) {
    switch (dtype) {
    case F8E4M3: return f32_of_f8e4m3(bits);
    case F8E5M2: return f32_of_f16((u16)(bits << 8));
    default: return (f32)((i32)(bits << 24) >> 24);
    }
}

// A float of 8 bits with DIGITS of mantissa: its smallest normal number is `least`, its unit below that `1 / units`.
template <u32 DIGITS>
DEVICE u32 f8_of(f32 x, u32 least, f32 units, u32 largest) {
    const u32 bits = bits_of(x), sign = bits >> 24 & 0x80, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) {
        return sign | 0x7f;
    }
    if (size < least) {
        return sign | (u32)round_even(f32_of_bits(size) * units);
    }
    constexpr u32 SHIFT = 23 - DIGITS;
    // The exponent's bias becomes that of 8 bits, whose first normal code is 1 << DIGITS.
    const u32 code = (size + (1u << (SHIFT - 1)) - 1 + (size >> SHIFT & 1) - least + (1u << 23)) >> SHIFT;
    return sign | (code > largest ? largest : code);
}

DEVICE u32 byte_of(u32 dtype, f32 x) {
    switch (dtype) {
    case F8E4M3: return f8_of<3>(x, 0x3c800000u, 512.0f, 0x7e);
    case F8E5M2: return f8_of<2>(x, 0x38800000u, 65536.0f, 0x7b);
    default: return x != x ? 0 : (u32)(i32)round_even(clamped(x, -128.0f, 127.0f)) & 0xff;
    }
}

DEVICE f32 largest_of(u32 dtype) { return dtype == F8E4M3 ? 448.0f : dtype == F8E5M2 ? 57344.0f : 127.0f; }
