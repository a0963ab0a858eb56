// `reduce`: a row folded to one value in f32; an empty one to the neutral element. Passes of a row in pieces: each
// piece's value; results, by one group a row.
//
// `Row` is for rows whose elements lie side by side. `Across` is for rows that themselves lie side by side, and for rows
// of a few elements: a thread takes a row, or a piece of 128 elements of it, and adds them one after another, and so the
// pieces.
#pragma once

#include "cuda/rows.h"
#include "cuda/tile/functions.h"
#include "cuda/tile/rows.h"

namespace reduce {

// Functions by their numbers in `ReduceFn`.
enum Function : u32 { SUM, MEAN, MAX, MIN };

DEVICE f32 neutral(u32 function) { return function == MAX ? -infinity() : function == MIN ? infinity() : 0.0f; }

DEVICE f32 merged(u32 function, f32 x, f32 y) {
    return function == MAX ? larger(x, y) : function == MIN ? smaller(x, y) : x + y;
}

DEVICE void write(const ReduceArgs& args, u64 at, f32 all) {
    const u64 n = args.rows.n;
    store_as(args.views[1].dtype, at, args.function == MEAN && n > 0 ? divided(all, (f32)n) : all);
}

template <class S>
DEVICE void run(const ReduceArgs& args) {
    const Part<S> part(args.rows);
    if (!part.is()) {
        return;
    }
    u64 at[2];
    begin_row(at, args.views, args.rows.outer, part.row);
    const auto merge = [&](f32 x, f32 y) { return merged(args.function, x, y); };
    const auto own = [&] {
        Held<S> x;
        x.load(args.views[0], at[0], part);
        f32 all = neutral(args.function);
        x.each(part, [&](f32 v, u32) { all = merge(all, v); });
        return all;
    };
    f32 all;
    if (part.fold(0, 0, 1, neutral(args.function), own, merge, all) && part.lane == 0) {
        write(args, at[1], all);
    }
}

struct Across {
    static constexpr u32 THREADS = BLOCK_THREADS, SHARED_BYTES = 0, PIECE = 128;
};

// Blocks of rows, and inside each the launch's pieces.
template <class S>
DEVICE void run_across(const ReduceArgs& args) {
    const Rows& rows = args.rows;
    const u64 row_block = whole_quotient(block_index(), rows.piece_count);
    const u64 own = row_block * S::THREADS + thread_index();
    if (own >= rows.count) {
        return;
    }
    const u32 piece = rows.first_piece + (u32)(block_index() - row_block * rows.piece_count);
    u64 at[2];
    begin_row(at, args.views, rows.outer, rows.first + own);
    const u64 state = rows.state + own * rows.pieces * 8;
    f32 all = neutral(args.function);
    if (rows.pieces == 1 || rows.pass == 0) {
        const View& x = args.views[0];
        const u64 from = (u64)piece * S::PIECE;
        const u32 n = rows.n - from < S::PIECE ? (u32)(rows.n - from) : S::PIECE;
        const u64 first = along(x, at[0], from);
#pragma unroll 8
        for (u32 i = 0; i < n; i++) {
            all = merged(args.function, all, load_as(x.dtype, along(x, first, i)));
        }
        if (rows.pieces > 1) {
            return leave(state + (u64)piece * 8, all);
        }
    } else {
        for (u32 i = 0; i < rows.pieces; i++) {
            all = merged(args.function, all, load_global_f32(state + (u64)i * 8));
        }
    }
    write(args, at[1], all);
}

}  // namespace reduce
