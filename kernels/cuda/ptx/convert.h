// Conversions between f32 and 16 bits, to nearest even, and arithmetic that C++ has no operator for.
#pragma once

#include "cuda/types.h"

DEVICE u16 bf16_of(f32 x) {
    u16 out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(x));
    return out;
}

DEVICE u16 f16_of(f32 x) {
    u16 out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out) : "f"(x));
    return out;
}

// With ten digits behind the point, to nearest, halves away from zero: what `mma_tf32` is given. The bits below the
// ten are not said.
DEVICE u32 tf32_of(f32 x) {
    u32 out;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(x));
    return out;
}

DEVICE f32 f32_of_f16(u16 x) {
    f32 out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x));
    return out;
}

DEVICE f32 f32_of_bits(u32 x) {
    f32 out;
    asm("mov.b32 %0, %1;" : "=f"(out) : "r"(x));
    return out;
}

DEVICE u32 bits_of(f32 x) {
    u32 out;
    asm("mov.b32 %0, %1;" : "=r"(out) : "f"(x));
    return out;
}

// a b + c, rounded once.
DEVICE f32 fma(f32 a, f32 b, f32 c) {
    f32 out;
    asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(out) : "f"(a), "f"(b), "f"(c));
    return out;
}

// To the nearest whole number, halves to even.
DEVICE f32 round_even(f32 x) {
    f32 out;
    asm("cvt.rni.f32.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// 1/x, within one unit in the last place.
DEVICE f32 reciprocal(f32 x) {
    f32 out;
    asm("rcp.approx.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// x/d and the square root, rounded once: calls of some length, for what is done once a row or waits for memory anyway.
DEVICE f32 divided(f32 x, f32 d) {
    f32 out;
    asm("div.rn.f32 %0, %1, %2;" : "=f"(out) : "f"(x), "f"(d));
    return out;
}

DEVICE f32 root(f32 x) {
    f32 out;
    asm("sqrt.rn.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// The larger of two, 0 being above -0; where one is no number, the other.
DEVICE f32 max_number(f32 x, f32 y) {
    f32 out;
    asm("max.f32 %0, %1, %2;" : "=f"(out) : "f"(x), "f"(y));
    return out;
}

// 2^x, within two units in the last place; what is below the normal range is 0.
DEVICE f32 exp2_of(f32 x) {
    f32 out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// log2 x.
DEVICE f32 log2_of(f32 x) {
    f32 out;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// Two numbers in a register, the first in the low half.
DEVICE u32 bf16_pair(f32 low, f32 high) {
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

DEVICE u32 f16_pair(f32 low, f32 high) {
    u32 out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

// The products of two pairs.
DEVICE u32 product_of_f16_pairs(u32 a, u32 b) {
    u32 out;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
}
