// Merges what `attention_paged` left for the splits of the keys, from left to right: a block for each packed row, a thread for
// each column of its values. Carries on from the launch before where the keys are cut, and writes the output after the last.
// The same arguments as the launch whose splits it merges, and as many blocks for each tile as any of them has rows.
//
// A warp brings a batch of splits at once, one to each lane and of its columns all, and merges them once they are there.
// Which score is the largest so far rounds nothing, so all lanes find it together; sums and values then add split after split.
#pragma once

#include "cuda/tile/parts.h"

namespace attention_combine {

using attention::Part, attention::SPLIT_ROWS, attention::Splits, attention::Stored, attention::Tile;

constexpr u32 LANES = 32;

// D: the most columns of V.
template <u32 D>
struct Shape {
    static constexpr u32 THREADS = D, SHARED_BYTES = 0;
    static_assert(D % LANES == 0, "whole warps");
};

DEVICE f32 from_lane(f32 x, u32 lane) { return f32_of_bits(shuffle_from(bits_of(x), lane)); }

// What each lane's part is merged by with all before it, of their largest scores: the numbers that `attention::merge` has one
// by one. `before` becomes the largest of all; past the last part a lane has LOWEST.
struct Factors {
    f32 left, right;

    DEVICE_MEMBER Factors(f32& before, f32 own, u32 lane) {
        f32 top = own;
#pragma unroll
        for (u32 step = 1; step < LANES; step *= 2) {
            const f32 other = from_lane(top, (lane - step) % LANES);
            top = lane >= step ? max_number(other, top) : top;
        }
        top = max_number(before, top);
        const f32 other = from_lane(top, (lane - 1) % LANES);
        left = exp2_of((lane > 0 ? other : before) - top);
        right = exp2_of(own - top);
        before = from_lane(top, LANES - 1);
    }
};

// One column of a row, and the row's part, over the launch's splits.
DEVICE void merge_column(
    const AttentionArgs& args, u64 first, const Splits& splits, u32 r, u32 column, Part& part, f32& value) {
    const u32 lane = thread_index() % LANES;
    const bool is_column = column < args.dv;
    for (u32 from = splits.from; from < splits.to; from += LANES) {
        const u32 left = splits.to - from, count = left < LANES ? left : LANES;
        const Stored own(args, args.partials, first + from + (lane < count ? lane : 0));
        const Part loaded = own.load(r), mine = lane < count ? loaded : Part();
        f32 values[LANES];
#pragma unroll
        for (u32 i = 0; i < LANES; i++) {
            const Stored next(args, args.partials, first + from + i);
            values[i] = load_global_f32_if(is_column && i < count, next.value(r, column));
        }
        const Factors by(part.top, mine.top, lane);
#pragma unroll
        for (u32 i = 0; i < LANES; i++) {
            const f32 by_left = from_lane(by.left, i), by_right = from_lane(by.right, i), sum = from_lane(mine.sum, i);
            if (i < count) {
                part.sum = fma(sum, by_right, part.sum * by_left);
                value = fma(values[i], by_right, value * by_left);
            }
        }
    }
}

template <class S>
DEVICE void run(const AttentionArgs& args) {
    const u32 rows = block_count() / (u32)args.tiles, number = block_index() / rows, r = block_index() % rows;
    const Tile tile = attention::tile_of<SPLIT_ROWS>(args, args.first_tile + number);
    const u32 row = tile.row + r, column = thread_index();
    if (row >= tile.packed_rows) {
        return;
    }
    const Splits splits = attention::splits_of(args, tile);
    const Stored carried(args, args.state, number);
    const bool is_column = column < args.dv;
    Part part;
    f32 value = 0.0f;
    // Warps without a column merge nothing; the first has the row's part in any case.
    if (column < LANES || column / LANES * LANES < args.dv) {
        if (!args.first) {
            part = carried.load(r);
            value = load_global_f32_if(is_column, carried.value(r, column));
        }
        merge_column(args, (u64)number * splits.count, splits, r, column, part, value);
    }
    if (!args.last) {
        // Every warp has read what the launch before kept.
        sync_block();
        if (is_column) {
            store_global_f32(carried.value(r, column), value);
        }
        if (column == 0) {
            carried.store(r, part);
        }
        return;
    }
    const attention::Last last = attention::last_of(args, tile, row, part.top, part.sum);
    if (is_column) {
        const u64 at = attention::address_of(args, tile, args.out, row, 0);
        const i64 far = (i64)column * args.out.column * (i64)width_of(args.out.dtype);
        store_as(args.out.dtype, at + (u64)far, value * last.factor);
    }
    if (args.lse.present && column == 0) {
        store_as(args.lse.dtype, attention::address_of(args, tile, args.lse, row, 0), last.log_sum_exp);
    }
}

}  // namespace attention_combine
