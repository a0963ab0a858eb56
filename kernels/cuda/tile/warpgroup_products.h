// The products of attention by wgmma, of a warpgroup's 64 rows: along a head dim, both sides in shared memory, and sums of a
// chunk's rows by factors in registers. Matrices lie in blocks of SPAN columns, one behind the other. `attention_sm90` and its
// gradients multiply here.
#pragma once

#include "cuda/tile/descriptor.h"
#include "cuda/tile/softmax.h"
#include "cuda/tile/warpgroups.h"

namespace attention {

// Columns of a block: rows of the swizzle, of 16-bit elements.
constexpr u32 SPAN = descriptor::ROW / 2;

// Starts the products of the rows at `own`, of blocks of OWN, and those of a chunk; D columns of both.
template <u32 D, u32 OWN, u32 CHUNK, u32 DTYPE>
DEVICE void start_products(f32 (&products)[CHUNK / 2], u32 own, u32 chunk) {
    wgmma_fence();
#pragma unroll
    for (u32 d = 0; d < D; d += K_STEP) {
        const u32 block = d / SPAN, inside = d % SPAN * 2;
        const u64 a = descriptor::of(own + block * OWN * descriptor::ROW + inside, 0);
        const u64 b = descriptor::of(chunk + block * CHUNK * descriptor::ROW + inside, 0);
        if constexpr (DTYPE == BF16) {
            wgmma_bf16<false, false>(products, a, b);
        } else {
            wgmma_f16<false, false>(products, a, b);
        }
    }
    wgmma_commit();
}

// Starts to add a chunk's rows by their factors.
template <u32 CHUNK, u32 DTYPE, u32 SUMS>
DEVICE void start_sums(f32 (&sums)[SUMS], const u32 (&factors)[CHUNK / K_STEP][4], u32 chunk) {
    wgmma_fence();
#pragma unroll
    for (u32 k = 0; k < CHUNK; k += K_STEP) {
        const u64 b = descriptor::of(chunk + k * descriptor::ROW, CHUNK * descriptor::ROW);
        if constexpr (DTYPE == BF16) {
            wgmma_bf16_from_registers<true>(sums, factors[k / K_STEP], b);
        } else {
            wgmma_f16_from_registers<true>(sums, factors[k / K_STEP], b);
        }
    }
    wgmma_commit();
}

// Zeros over the rows of a chunk from one on, of BLOCKS blocks, by THREADS threads, which meet before they multiply: no weight
// of 0 makes a number of what is none.
template <u32 CHUNK, u32 BLOCKS, u32 THREADS>
DEVICE void clear_rows(u32 chunk, u32 from, u32 thread) {
    constexpr u32 PIECES = descriptor::ROW / 16;
    for (u32 i = from * PIECES + thread; i < CHUNK * PIECES; i += THREADS) {
#pragma unroll
        for (u32 block = 0; block < BLOCKS; block++) {
            store_shared(chunk + block * CHUNK * descriptor::ROW + i * 16, u32x4{0, 0, 0, 0});
        }
    }
    // wgmma reads them.
    fence_async();
}

}  // namespace attention
