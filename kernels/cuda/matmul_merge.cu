// What ends a product whose K was split: adds the sums that `matmul_sm90.cu` left of each split, from left to right, and goes
// through the epilogue. A thread takes eight neighbours of a row.
//
// Order of each output: its splits' sums, of fixed length, one after the other, in f32.
#pragma once

#include "cuda/tile/epilogue.h"
#include "cuda/tile/place.h"

struct MatmulMergeArgs {
    // Of the launch that left the sums; its state is read.
    MatmulArgs matmul;
    u32 splits;
    // Rows and columns of a tile, and distances of its sums, in elements.
    u32 rows, columns;
    u32 row_step, column_step;
    u32 padding;
};

static_assert(sizeof(MatmulMergeArgs) == 640, "as in kernels/src/matmul_sm90.rs");

namespace matmul_merge {

constexpr u32 EIGHT = 8;

struct Shape {
    static constexpr u32 THREADS = 256, SHARED_BYTES = 0;
};

// The sum of the first n of eight places in a tile's splits.
DEVICE void add_splits(f32 (&v)[EIGHT], const MatmulMergeArgs& all, u64 at, u32 n) {
    const u64 step = (u64)all.rows * all.columns * 4;
    load_values(v, F32, at, all.column_step, n);
#pragma unroll 1
    for (u32 split = 1; split < all.splits; split++) {
        f32 x[EIGHT];
        load_values(x, F32, at + split * step, all.column_step, n);
#pragma unroll
        for (u32 i = 0; i < EIGHT; i++) {
            v[i] += x[i];
        }
    }
}

template <class S>
DEVICE void run(const MatmulMergeArgs& all) {
    const MatmulArgs& args = all.matmul;
    const u32 across = all.columns / EIGHT, per_tile = all.rows * across;
    const u64 count = args.tiles * per_tile;
    for (u64 i = (u64)block_index() * S::THREADS + thread_index(); i < count; i += (u64)block_count() * S::THREADS) {
        const u64 tile = i / per_tile;
        const u32 inside = (u32)(i % per_tile), r = inside / across, c = inside % across * EIGHT;
        const Place place = place_of(args, args.first_tile + tile);
        const u32 row = place.m * all.rows + r, column = place.n * all.columns + c;
        if (row >= args.m || column >= args.n) {
            continue;
        }
        const u64 sums = args.state + tile * all.splits * all.rows * all.columns * 4;
        const u32 left = args.n - column, n = left < EIGHT ? left : EIGHT;
        f32 v[EIGHT];
        add_splits(v, all, sums + (u64)(r * all.row_step + c * all.column_step) * 4, n);
        Epilogue(args, place.entry).write(row, column, n, v);
    }
}

}  // namespace matmul_merge
