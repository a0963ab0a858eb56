// A tile's way out: sums that lie in shared memory, by rows of `step` bytes, through the epilogue, eight neighbours of a row
// a thread. Rows of no group become zeros. Kernels whose tiles end in one piece call it.
#pragma once

#include "cuda/tile/epilogue.h"
#include "cuda/tile/place.h"

template <u32 ROWS, u32 COLUMNS, u32 THREADS>
DEVICE void finish(const MatmulArgs& args, const Part& part, u32 sums, u32 step) {
    constexpr u32 SIDE = 8;
    const Epilogue epilogue(args, part.entry);
#pragma unroll 1
    for (u32 i = thread_index(); i < ROWS * COLUMNS / SIDE; i += THREADS) {
        const u32 r = i / (COLUMNS / SIDE), c = i % (COLUMNS / SIDE) * SIDE;
        const u32 row = part.row + r, column = part.column + c;
        if (row >= part.end || column >= args.n) {
            continue;
        }
        const u32 left = args.n - column, n = left < SIDE ? left : SIDE;
        if (row >= part.owned) {
            epilogue.clear<SIDE>(row, column, n);
            continue;
        }
        const u32x4 low = load_shared_u32x4(sums + r * step + c * 4), high = load_shared_u32x4(sums + r * step + c * 4 + 16);
        const u32 bits[SIDE] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        f32 v[SIDE];
        unpack_32(v, bits);
        epilogue.write(row, column, n, v);
    }
}
