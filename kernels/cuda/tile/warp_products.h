// The products of attention by mma.sync, of a warp's blocks of sixteen packed rows: scores from Q and keys, and sums from
// weights and values, all in shared memory but the weights. `attention_sm80` and `attention_paged` multiply here.
#pragma once

#include "cuda/tile/softmax.h"
#include "cuda/tile/swizzle.h"

namespace attention {

template <u32 DTYPE>
DEVICE void mma(f32* sums, const u32 (&a)[4], u32 b0, u32 b1) {
    f32(&four)[4] = *reinterpret_cast<f32(*)[4]>(sums);
    const u32 b[2] = {b0, b1};
    if constexpr (DTYPE == BF16) {
        mma_bf16(four, a, b);
    } else {
        mma_f16(four, a, b);
    }
}

// Scores of a chunk of keys; rows of PIECES pieces of 16 bytes. The warp's first row of Q is `row`.
template <u32 PIECES, class Softmax, u32 BLOCKS>
DEVICE void score(Softmax (&rows)[BLOCKS], u32 queries, u32 row, u32 keys) {
    const u32 lane = anew(thread_index() % 32);
#pragma unroll
    for (u32 b = 0; b < BLOCKS; b++) {
        zero(rows[b].scores);
    }
#pragma unroll
    for (u32 d = 0; d < PIECES; d += 2) {
        u32 q[BLOCKS][4];
#pragma unroll
        for (u32 b = 0; b < BLOCKS; b++) {
            load_matrices(q[b], queries + swizzled<PIECES>(row + 16 * b + lane % 16, d + lane / 16));
        }
#pragma unroll
        for (u32 n = 0; n < Softmax::CHUNK; n += 16) {
            u32 k[4];
            load_matrices(k, keys + swizzled<PIECES>(n + lane % 8 + lane / 16 * 8, d + lane / 8 % 2));
#pragma unroll
            for (u32 b = 0; b < BLOCKS; b++) {
                mma<Softmax::DTYPE>(&rows[b].scores[n / 2], q[b], k[0], k[1]);
                mma<Softmax::DTYPE>(&rows[b].scores[n / 2 + 4], q[b], k[2], k[3]);
            }
        }
    }
}

// Adds the chunk's values by their weights.
template <u32 PIECES, class Softmax, u32 BLOCKS>
DEVICE void add_values(Softmax (&rows)[BLOCKS], const u32 (&weights)[BLOCKS][Softmax::STEPS][4], u32 values) {
    const u32 lane = anew(thread_index() % 32);
#pragma unroll
    for (u32 k = 0; k < Softmax::STEPS; k++) {
#pragma unroll
        for (u32 c = 0; c < PIECES; c += 2) {
            u32 v[4];
            load_matrices_transposed(v, values + swizzled<PIECES>(k * K_STEP + lane % 16, c + lane / 16));
#pragma unroll
            for (u32 b = 0; b < BLOCKS; b++) {
                mma<Softmax::DTYPE>(&rows[b].sums[c * 4], weights[b][k], v[0], v[1]);
                mma<Softmax::DTYPE>(&rows[b].sums[c * 4 + 4], weights[b][k], v[2], v[3]);
            }
        }
    }
}

}  // namespace attention
