// The simple product: one output a thread, its K one element after another in f32 (of i8 in i32), operands of any type and
// strides, the whole epilogue. What the fast kernels are held to, and the product of types and layouts that none of them
// takes. Tiles are 16 by 16; `cuda/tile/place.h` says where.
#pragma once

#include "cuda/tile/byte.h"
#include "cuda/tile/epilogue.h"
#include "cuda/tile/place.h"

namespace matmul_reference {

struct Shape {
    static constexpr u32 TILE = 16;
    static constexpr u32 THREADS = TILE * TILE, SHARED_BYTES = 0;
};

DEVICE f32 load_any(u32 dtype, u64 at) {
    return width_of(dtype) == 1 ? f32_of_byte(dtype, load_global_u8(at)) : load_as(dtype, at);
}

template <class S>
DEVICE void run(const MatmulArgs& args) {
    const Place place = place_of(args, args.first_tile + block_index());
    const u32 row = place.m * S::TILE + thread_index() / S::TILE, column = place.n * S::TILE + thread_index() % S::TILE;
    if (row >= args.m || column >= args.n) {
        return;
    }
    const Matrix of_a = matrix_of(args.a, args.batch, place.entry), of_b = matrix_of(args.b, args.batch, place.entry);
    const u64 state = args.state + ((u64)block_index() * S::THREADS + thread_index()) * 4;
    const bool whole = args.a.dtype == I8;
    f32 sum = 0.0f;
    i32 count = 0;
    if (args.k_from > 0) {
        sum = load_global_f32(state);
        count = (i32)bits_of(sum);
    }
#pragma unroll 4
    for (u32 k = args.k_from; k < args.k_to; k++) {
        const f32 a = load_any(args.a.dtype, address_of(of_a, row, k)), b = load_any(args.b.dtype, address_of(of_b, k, column));
        if (whole) {
            count += (i32)a * (i32)b;
        } else {
            sum = fma(a, b, sum);
        }
    }
    if (args.k_to < args.k) {
        return store_global_f32(state, whole ? f32_of_bits((u32)count) : sum);
    }
    Epilogue(args, place.entry).write(row, column, whole ? (f32)count : sum);
}

}  // namespace matmul_reference
