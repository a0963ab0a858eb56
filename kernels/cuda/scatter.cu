// `scatter`: entries of x to where indices, or pages and lengths, say. Each of these is read once a pass; one that is not
// below its bound forms no address: its entry is dropped, and a fault told.
//
// Entries that land on one place do so in their order. Where they set, the last claims it (`Shape`). Where they add, the
// threads of a column share out's entries among them, and each adds what lands on its own (`Adding`).
#pragma once

#include "cuda/index.h"
#include "cuda/tile/fault.h"
#include "cuda/tile/vector.h"
#include "cuda/tile/walk.h"

namespace scatter {

template <u32 WIDTH_>
struct Shape {
    static constexpr u32 WIDTH = WIDTH_, VECTOR = 16 / WIDTH;
    static constexpr u32 THREADS = BLOCK_THREADS, SHARED_BYTES = 0;
};

// Where an entry lands: number of the place, and its distance in out in elements.
struct Landing {
    u64 number;
    i64 offset;
};

DEVICE bool is_below(const ScatterArgs& args, u32 which) {
    if (which >= args.bound) {
        report_fault(args.fault, which, args.bound);
        return false;
    }
    return true;
}

DEVICE bool lands(const ScatterArgs& args, u64 index_at, Landing& landing) {
    const u32 which = load_global_u32(index_at);
    landing = {which, (i64)which * args.step};
    return is_below(args, which);
}

// Row i of a batch entry becomes its key `length - rows + i`: rows before key 0 are dropped.
DEVICE bool is_appended(const ScatterArgs& args, u64 entry, Landing& landing) {
    const View &pages = args.views[2], &lens = args.views[3];
    const u64 batch = whole_quotient(entry, args.rows);
    const u32 row = (u32)(entry - batch * args.rows);
    u32 length = load_global_u32(lens.at + (u64)((i64)batch * lens.outer[0] * 4));
    if (length > args.room) {
        report_fault(args.fault, length, args.room + 1);
        length = args.room;
    }
    const u64 end = (u64)length + row;
    if (end < args.rows) {
        return false;
    }
    const u32 key = (u32)(end - args.rows), inside = key % args.page;
    const u64 of_batch = pages.at + (u64)((i64)batch * pages.outer[0] * 4);
    const u32 which = load_global_u32(along(pages, of_batch, key / args.page));
    landing = {(u64)which * args.page + inside, (i64)which * args.step + (i64)inside * args.key_step};
    return is_below(args, which);
}

template <class S>
DEVICE void run(const ScatterArgs& args) {
    each_vector<S::VECTOR>(args.range, [&](u64 row, u64 column, u32 n) {
        const View &x = args.views[0], &out = args.views[1];
        u64 at[4];
        begin_row(at, args.views, args.range.outer, row);
        const u64 entry = whole_quotient(row, args.per_entry);
        Landing landing;
        if (!(args.views[3].present ? is_appended(args, entry, landing) : lands(args, at[2], landing))) {
            return;
        }
        const u64 claim = args.claims + landing.number * 4;
        const u32 own = (u32)(entry - args.first_entry) + 1;
        if (args.pass == 0) {
            store_global_u32(claim, 0);
        } else if (args.pass == 1) {
            max_global_u32(claim, own);
        } else if (load_global_u32(claim) == own) {
            u32 words[4];
            load_bits<S::WIDTH, S::VECTOR>(words, along(x, at[0], column), x.inner, n);
            const u64 to = at[1] + (u64)(landing.offset * (i64)S::WIDTH);
            store_bits<S::WIDTH, S::VECTOR>(along(out, to, column), out.inner, n, words);
        }
    });
}

// SHARES: threads of a vector of columns. AHEAD: entries whose loads are on their way at once.
struct Adding {
    static constexpr u32 VECTOR = 4, SHARES = 64, AHEAD = 8;
    static constexpr u32 THREADS = BLOCK_THREADS, SHARED_BYTES = 0;
};

template <class S>
DEVICE void add(const ScatterAddArgs& args) {
    const u64 own = (u64)block_index() * S::THREADS + thread_index();
    const u64 share = whole_quotient(own, args.range.count);
    if (share >= S::SHARES) {
        return;
    }
    const u64 vector = args.range.first + own - share * args.range.count;
    const u64 of_row = (args.range.inner + S::VECTOR - 1) / S::VECTOR;
    const u64 row = whole_quotient(vector, of_row);
    const u64 column = (vector - row * of_row) * S::VECTOR, left = args.range.inner - column;
    const u32 n = left < S::VECTOR ? (u32)left : S::VECTOR;
    const View &x = args.columns[0], &out = args.columns[1];
    u64 at[2];
    begin_row(at, args.columns, args.range.outer, row);
    const u64 x_at = along(x, at[0], column), out_at = along(out, at[1], column);
#pragma unroll 1
    for (u64 first = 0; first < args.entry_count; first += S::AHEAD) {
        u32 which[S::AHEAD];
        f32 v[S::AHEAD][S::VECTOR];
#pragma unroll
        for (u32 i = 0; i < S::AHEAD; i++) {
            which[i] = args.bound;
            if (first + i >= args.entry_count) {
                continue;
            }
            u64 entry[2];
            begin_row(entry, args.along, args.entries, args.first_entry + first + i);
            which[i] = load_global_u32(entry[1]);
            if (which[i] >= args.bound) {
                report_fault(args.fault, which[i], args.bound);
            } else if (which[i] % S::SHARES == share) {
                load_values(v[i], x.dtype, x_at + (entry[0] - args.along[0].at), x.inner, n);
            }
        }
#pragma unroll
        for (u32 i = 0; i < S::AHEAD; i++) {
            if (which[i] >= args.bound || which[i] % S::SHARES != share) {
                continue;
            }
            const u64 to = out_at + (u64)((i64)which[i] * args.step * 4);
            f32 sum[S::VECTOR];
            load_values(sum, F32, to, out.inner, n);
#pragma unroll
            for (u32 j = 0; j < S::VECTOR; j++) {
                sum[j] += v[i][j];
            }
            store_values(F32, to, out.inner, n, sum);
        }
    }
}

}  // namespace scatter
