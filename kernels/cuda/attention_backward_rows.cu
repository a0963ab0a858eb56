// What both sides of attention's gradients need of each query row: its log-sum-exp in base 2, and the mean of the gradients of
// its weights, which is the sum of d_out times out. Runs before the kernels of the sides, over all rows of all heads; a row
// that sees nothing, and the rows that fill the last tile of a head, get what makes every weight 0.
//
// Order of a mean: eight lanes have vectors of eight columns, lane l the vectors l, l + 8, ..; each adds from left to right,
// then they meet by halves.
#pragma once

#include "cuda/tile/gradients.h"
#include "cuda/tile/vector.h"

namespace attention_backward_rows {

using namespace attention_backward;

// Columns of a vector, and lanes of a row.
constexpr u32 SIDE = 8, ROW_LANES = 8;

struct Shape {
    static constexpr u32 THREADS = 256, SHARED_BYTES = 0, ROWS = NUMBERS;
};

// Of a row of all entries' that is.
DEVICE f32 mean_of(const AttentionBackwardArgs& args, const Tile& tile, u32 row, u32 lane) {
    const u64 out = row_of(args.out, tile.batch, tile.head, row), d_out = row_of(args.d_out, tile.batch, tile.head, row);
    f32 sum = 0.0f;
#pragma unroll 1
    for (u32 c = lane * SIDE; c < args.dv; c += ROW_LANES * SIDE) {
        const u32 n = args.dv - c < SIDE ? args.dv - c : SIDE;
        const auto at = [&](const Heads& x, u64 first) { return first + (u64)((i64)c * x.column * (i64)width_of(x.dtype)); };
        f32 y[SIDE], gradient[SIDE];
        load_values(y, args.out.dtype, at(args.out, out), args.out.column, n);
        load_values(gradient, args.d_out.dtype, at(args.d_out, d_out), args.d_out.column, n);
#pragma unroll
        for (u32 i = 0; i < SIDE; i++) {
            sum = fma(gradient[i], y[i], sum);
        }
    }
    return sum;
}

template <class S>
DEVICE void run(const AttentionBackwardArgs& args) {
    const Tile tile = tile_of<S::ROWS, false>(args, args.first_tile + block_index());
    const u32 lane = thread_index() % ROW_LANES;
#pragma unroll 1
    for (u32 r = thread_index() / ROW_LANES; r < S::ROWS; r += S::THREADS / ROW_LANES) {
        const u32 row = tile.first + r, of_all = tile.first_row + row;
        const bool is = row < tile.rows;
        f32 mean = is ? mean_of(args, tile, of_all, lane) : 0.0f;
#pragma unroll
        for (u32 far = ROW_LANES / 2; far > 0; far /= 2) {
            mean += f32_of_bits(shuffle_xor(bits_of(mean), far));
        }
        if (lane == 0) {
            const f32 natural = is ? load_global_f32(row_of(args.lse, tile.batch, tile.head, of_all)) : 0.0f;
            const bool any = is && !sees_nothing(natural);
            store_global_f32(statistics_of(args, tile, tile.head, false, row), any ? natural * LOG2_E : NOBODY);
            store_global_f32(statistics_of(args, tile, tile.head, true, row), any ? mean : 0.0f);
        }
    }
}

}  // namespace attention_backward_rows
