// What a part of the keys makes of a row: its largest score, sum of weights and weighted values, and how two parts are merged.
// `attention_paged` leaves such parts for each split of the keys, `attention_combine` merges them from left to right.
#pragma once

#include "cuda/tile/softmax.h"

namespace attention {

// Rows of a tile whose keys are split.
constexpr u32 SPLIT_ROWS = 16;

// Of a row: the largest score in base 2, and the sum of weights.
struct Part {
    f32 top = LOWEST, sum = 0.0f;
};

// Factors of the left and the right sums once both are one part, which the left becomes.
struct Merge {
    f32 left, right;
};

DEVICE Merge merge(Part& left, const Part& right) {
    const f32 top = max_number(left.top, right.top);
    const Merge by = {exp2_of(left.top - top), exp2_of(right.top - top)};
    left = {top, fma(right.sum, by.right, left.sum * by.left)};
    return by;
}

// A tile's part in memory: values of rows, largest scores of rows, sums of rows.
struct Stored {
    u64 at;
    u32 columns;

    DEVICE_MEMBER Stored(const AttentionArgs& args, u64 list, u64 number)
        : at(list + number * SPLIT_ROWS * (args.dv + 2) * 4), columns(args.dv) {}

    DEVICE_MEMBER u64 value(u32 row, u32 column) const { return at + (row * columns + column) * 4; }
    DEVICE_MEMBER u64 top(u32 row) const { return value(SPLIT_ROWS, row); }
    DEVICE_MEMBER u64 sum(u32 row) const { return value(SPLIT_ROWS, SPLIT_ROWS + row); }
    DEVICE_MEMBER Part load(u32 row) const { return {load_global_f32(top(row)), load_global_f32(sum(row))}; }
    DEVICE_MEMBER void store(u32 row, const Part& part) const {
        store_global_f32(top(row), part.top);
        store_global_f32(sum(row), part.sum);
    }
};

// Splits of a launch's keys, and the numbers of the first and the end of those that a tile sees among them.
struct Splits {
    u32 count, from, to;
};

DEVICE Splits splits_of(const AttentionArgs& args, const Tile& tile) {
    const u32 first = args.key_from / args.split;
    const u32 low = tile.low > args.key_from ? tile.low : args.key_from;
    const u32 high = tile.high < args.key_to ? tile.high : args.key_to;
    const u32 end = low < high ? (high + args.split - 1) / args.split - first : 0;
    return {(args.key_to + args.split - 1) / args.split - first, low / args.split - first, end};
}

}  // namespace attention
