// Elements of the types that ops read and write, as f32.
#pragma once

#include "cuda/ptx.h"

// Element types, by their numbers in `DType`.
enum DType : u32 { F32 = 0, F16 = 1, BF16 = 2, F8E4M3 = 3, F8E5M2 = 4, I8 = 5, I32 = 6, U32 = 7 };

// Bytes of an element.
DEVICE u32 width_of(u32 dtype) { return dtype == F32 || dtype >= I32 ? 4 : dtype == F16 || dtype == BF16 ? 2 : 1; }

DEVICE f32 load_as(u32 dtype, u64 at) {
    switch (dtype) {
    case F16: return f32_of_f16(load_global_u16(at));
    case BF16: return f32_of_bits((u32)load_global_u16(at) << 16);
    default: return load_global_f32(at);
    }
}

DEVICE void store_as(u32 dtype, u64 at, f32 v) {
    switch (dtype) {
    case F16: return store_global_u16(at, f16_of(v));
    case BF16: return store_global_u16(at, bf16_of(v));
    default: return store_global_f32(at, v);
    }
}
