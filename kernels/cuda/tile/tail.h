// Zeros over the part of a stage along k that is of nobody's tile: where groups follow each other along k, the last box of one
// holds the first k of the next, and no factor of 0 makes a number of what is none. `matmul_sm90.cu` calls it.
#pragma once

#include "cuda/ptx.h"
#include "cuda/tile/descriptor.h"

namespace tail {

// Elements of a swizzled row, and of 16 bytes of it: all of 16 bits.
constexpr u32 SPAN = descriptor::ROW / 2, PIECE = 8;

// The first n elements of 16 bytes, then zeros.
DEVICE u32x4 first(const u32x4& v, u32 n) {
    const auto word = [&](u32 word, u32 i) { return n > 2 * i + 1 ? word : n > 2 * i ? word & 0xffff : 0; };
    return {word(v.x, 0), word(v.y, 1), word(v.z, 2), word(v.w, 3)};
}

// Of ROWS rows, or columns, of a side, all elements from the k-th of the stage on; by THREADS threads, which meet before they
// multiply. Blocks of SPAN by SPAN, dense along k or along the OUTER axis: either way a stage is ROWS lines of 128 bytes.
template <u32 ROWS, u32 THREADS, bool OUTER>
DEVICE void clear(u32 stage, u32 k, u32 thread) {
    constexpr u32 PIECES = descriptor::ROW / 16;
#pragma unroll 1
    for (u32 i = thread; i < ROWS * PIECES; i += THREADS) {
        const u32 line = i / PIECES;
        // The swizzle changes places within a line.
        const u32 begins = OUTER ? line % SPAN : (i % PIECES ^ line % 8) * PIECE;
        const u32 left = begins < k ? k - begins : 0, keep = OUTER && left > 0 ? PIECE : left;
        if (keep < PIECE) {
            store_shared(stage + i * 16, first(load_shared_u32x4(stage + i * 16), keep));
        }
    }
    // wgmma reads them.
    fence_async();
}

}  // namespace tail
