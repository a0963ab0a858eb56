// `arg_max`: index of the largest element of a row by IEEE 754's total order, the first of equal ones. Passes of a row in
// pieces: each piece's best; results, by one group a row.
#pragma once

#include "cuda/rows.h"
#include "cuda/tile/rows.h"

namespace arg_max {

// The better of two: keys in the high words, places counted down in the low ones.
DEVICE u64 better(u64 x, u64 y) { return x > y ? x : y; }

template <class S>
DEVICE void run(const ArgMaxArgs& args) {
    const Part<S> part(args.rows);
    if (!part.is()) {
        return;
    }
    u64 at[2];
    begin_row(at, args.views, args.rows.outer, part.row);
    const auto own = [&] {
        Held<S, u32> keys;
        keys.load(args.views[0], at[0], part);
        u64 best = 0;
        keys.each(part, [&](u32 key, u32 column) { best = better(best, (u64)key << 32 | ~((u32)part.first() + column)); });
        return best;
    };
    u64 best;
    if (part.fold(0, 0, 1, (u64)0, own, better, best) && part.lane == 0) {
        store_global_u32(at[1], ~(u32)best);
    }
}

}  // namespace arg_max
