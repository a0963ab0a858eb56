// Merges what `attention_paged` left for the splits of the keys, from left to right: a block for each tile, a warp for each of
// its packed rows, lanes along the head dim. Carries on from the launch before where the keys are cut, and writes the
// output after the last. The same arguments as the launch whose splits it merges.
#pragma once

#include "cuda/tile/parts.h"

namespace attention_combine {

using attention::Part, attention::SPLIT_ROWS, attention::Stored, attention::Tile;

constexpr u32 LANES = 32;

// D: the most columns of V.
template <u32 D>
struct Shape {
    static constexpr u32 THREADS = SPLIT_ROWS * LANES, SHARED_BYTES = 0, COLUMNS = D / LANES;
    static_assert(D % LANES == 0, "lanes along the head dim");
};

template <class S>
DEVICE void run(const AttentionArgs& args) {
    const u32 number = block_index(), lane = thread_index() % LANES, r = thread_index() / LANES;
    const Tile tile = attention::tile_of<SPLIT_ROWS>(args, args.first_tile + number);
    const u32 row = tile.row + r;
    if (row >= tile.packed_rows) {
        return;
    }
    const attention::Splits splits = attention::splits_of(args, tile);
    const Stored carried(args, args.state, number);
    Part part;
    f32 values[S::COLUMNS] = {};
    const auto each = [&](auto f) {
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            if (i * LANES + lane < args.dv) {
                f(i * LANES + lane, values[i]);
            }
        }
    };
    if (args.key_from > 0) {
        part = carried.load(r);
        each([&](u32 column, f32& v) { v = load_global_f32(carried.value(r, column)); });
    }
    for (u32 split = splits.from; split < splits.to; split++) {
        const Stored next(args, args.partials, (u64)number * splits.count + split);
        const attention::Merge by = attention::merge(part, next.load(r));
        each([&](u32 column, f32& v) { v = fma(load_global_f32(next.value(r, column)), by.right, v * by.left); });
    }
    if (!args.last) {
        // All lanes have read what the launch before kept.
        sync_warp();
        each([&](u32 column, f32& v) { store_global_f32(carried.value(r, column), v); });
        if (lane == 0) {
            carried.store(r, part);
        }
        return;
    }
    const attention::Last last = attention::last_of(args, tile, row, part.top, part.sum);
    const u64 at = attention::address_of(args, tile, args.out, row, 0);
    const i64 step = args.out.column * (i64)width_of(args.out.dtype);
    each([&](u32 column, f32& v) { store_as(args.out.dtype, at + (u64)((i64)column * step), v * last.factor); });
    if (args.lse.present && lane == 0) {
        store_as(args.lse.dtype, attention::address_of(args, tile, args.lse, row, 0), last.log_sum_exp);
    }
}

}  // namespace attention_combine
