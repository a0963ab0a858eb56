// `gather`: entries of a table by index, elements of one, two or four bytes. An index is read once; one that is not below
// the table's entries forms no address: it gives zeros, and a fault.
#pragma once

#include "cuda/index.h"
#include "cuda/tile/fault.h"
#include "cuda/tile/vector.h"
#include "cuda/tile/walk.h"

namespace gather {

template <u32 WIDTH_>
struct Shape {
    static constexpr u32 WIDTH = WIDTH_, VECTOR = 16 / WIDTH;
    static constexpr u32 THREADS = BLOCK_THREADS, SHARED_BYTES = 0;
};

template <class S>
DEVICE void run(const GatherArgs& args) {
    constexpr u32 N = S::VECTOR, WIDTH = S::WIDTH;
    each_vector<N>(args.range, [&](u64 row, u64 column, u32 n) {
        const View &table = args.views[0], &index = args.views[1], &out = args.views[2];
        u64 at[3];
        begin_row(at, args.views, args.range.outer, row);
        // Where the selected entry has its row, or false.
        const auto select = [&](u64 index_at, u64& entry) {
            const u32 which = load_global_u32(index_at);
            if (which >= args.bound) {
                report_fault(args.fault, which, args.bound);
                return false;
            }
            entry = at[0] + (u64)((i64)which * args.step * (i64)WIDTH);
            return true;
        };
        u32 words[4] = {};
        u64 entry;
        if (index.inner == 0) {
            if (select(at[1], entry)) {
                load_bits<WIDTH, N>(words, along(table, entry, column), table.inner, n);
            }
        } else {
            // Every element has an index of its own.
            for (u32 i = 0; i < n; i++) {
                const bool is = select(along(index, at[1], column + i), entry);
                const u32 v = is ? load_one<WIDTH>(along(table, entry, column + i)) : 0;
                store_one<WIDTH>(along(out, at[2], column + i), v);
            }
            return;
        }
        store_bits<WIDTH, N>(along(out, at[2], column), out.inner, n, words);
    });
}

}  // namespace gather
