// `top_k`: the k largest elements of a row by IEEE 754's total order, largest first, the first of equal ones first. A piece
// of a row is taken beside the k of those before it, which the launch before left. The k-th of them is found bit by bit,
// by counting; then each of the k counts those before it.
#pragma once

#include "cuda/rows.h"
#include "cuda/tile/rows.h"

namespace top_k {

constexpr u32 MOST = 256;

template <u32 LANES_>
struct Shape : RowShape<LANES_> {
    using Row = RowShape<LANES_>;
    static constexpr u32 LIST = MOST * 8;
    static constexpr u32 SHARED_BYTES = Row::SHARED_BYTES + Row::GROUPS * LIST;
    static_assert(LANES_ >= MOST || LANES_ == WARP, "a lane keeps one of the k where rows are in pieces");
};

// An element: its key in the high word, its place counted down in the low one. All of a row differ, and the larger goes
// first; none is 0, which stands for nothing.
DEVICE u64 element_of(u32 key, u32 place) { return (u64)key << 32 | ~place; }

template <class S>
DEVICE void sync_row() {
    if constexpr (S::WARPS > 1) {
        sync_block();
    } else {
        sync_warp();
    }
}

// What the lanes before this one have in all.
template <class S>
DEVICE u32 count_before(u32 own) {
    const u32 lane = thread_index() % WARP;
    u32 total = own, before = 0;
#pragma unroll
    for (u32 mask = 1; mask < WARP; mask *= 2) {
        const u32 other = shuffle_xor(total, mask);
        before += lane & mask ? other : 0;
        total += other;
    }
    if constexpr (S::WARPS > 1) {
        // Everybody has read what was folded before.
        sync_block();
        if (lane == 0) {
            store_shared_u32(shared_base() + thread_index() / WARP * 8, total);
        }
        // All warps' totals are there.
        sync_block();
        for (u32 warp = 0; warp < thread_index() / WARP; warp++) {
            before += load_shared_u32(shared_base() + warp * 8);
        }
    }
    return before;
}

template <class S>
struct Selection {
    const Part<S>& part;
    Held<S, u32> keys;
    // One of the k of the pieces before.
    u64 kept;

    // The elements of the part; the lane's others get the key that no bound is below.
    DEVICE_MEMBER void load(const View& x, u64 row_at) {
        keys.load(x, row_at, part);
#pragma unroll
        for (u32 i = 0; i < S::HELD; i++) {
            const u32 n = part.side(i);
#pragma unroll
            for (u32 j = 0; j < SIDE; j++) {
                keys.v[i][j] = j < n ? keys.v[i][j] : 0;
            }
        }
    }

    // Calls `f(key, place)` for the lane's elements from `bound`, which is not 0, upwards.
    template <class F>
    DEVICE_MEMBER void each_from(u64 bound, F f) {
        const u32 key = (u32)(bound >> 32), first = (u32)part.first() + part.column(0);
        // The last place of an equal key that is in, beside the lane's first: constants are compared with it, and no
        // element's place takes a register.
        const i64 beside = (i64)(u32)~bound - (i64)first, end = (i64)part.n - 1 - (i64)part.column(0);
        const i32 last = (i32)(beside < end ? beside < -1 ? -1 : beside : end);
#pragma unroll
        for (u32 i = 0; i < S::HELD; i++) {
#pragma unroll
            for (u32 j = 0; j < SIDE; j++) {
                const u32 own = keys.v[i][j], place = i * S::LANES * SIDE + j;
                if (own > key || (own == key && (i32)place <= last)) {
                    f(own, first + place);
                }
            }
        }
        if (kept >= bound) {
            f((u32)(kept >> 32), ~(u32)kept);
        }
    }

    DEVICE_MEMBER u32 count_from(u64 bound) {
        u32 own = 0;
        each_from(bound, [&](u32, u32) { own++; });
        return own;
    }

    // A bound that k elements of all lanes are not below.
    DEVICE_MEMBER u64 bound(u32 k) {
        u64 bound = 0;
#pragma unroll 1
        for (u32 bit = 64; bit > 0; bit--) {
            const u64 tried = bound | (u64)1 << (bit - 1);
            const u32 all = fold_lanes<S>(count_from(tried), [](u32 x, u32 y) { return x + y; });
            bound = all >= k ? tried : bound;
            if (all == k) {
                break;
            }
        }
        return bound;
    }

    // Those to the list, in an order that is always the same.
    DEVICE_MEMBER void gather(u64 bound, u32 list) {
        u32 at = list + count_before<S>(count_from(bound)) * 8;
        each_from(bound, [&](u32 key, u32 place) {
            put(at, element_of(key, place));
            at += 8;
        });
    }
};

DEVICE void write(const TopKArgs& args, const u64 (&at)[3], u32 rank, u64 element) {
    const View &x = args.views[0], &value = args.views[1], &index = args.views[2];
    const u32 key = (u32)(element >> 32), bits = key ^ (key >> 31 == 1 ? 0x80000000u : 0xffffffffu);
    const u64 to = along(value, at[1], rank);
    if (x.dtype == F32) {
        store_global_u32(to, bits);
    } else {
        store_global_u16(to, (u16)(bits >> 16));
    }
    store_global_u32(along(index, at[2], rank), ~(u32)element);
}

template <class S>
DEVICE void run(const TopKArgs& args) {
    const Rows& rows = args.rows;
    const Part<S> part(rows);
    if (!part.is()) {
        return;
    }
    u64 at[3];
    begin_row(at, args.views, rows.outer, part.row);
    const u32 list = shared_base() + S::Row::SHARED_BYTES + thread_index() / S::LANES * S::LIST;
    const u64 state = rows.state + (part.row - rows.first) * MOST * 8;
    Selection<S> selection{part, {}, 0};
    if (rows.first_piece > 0 && part.lane < args.k) {
        find(state + part.lane * 8, selection.kept);
    }
    selection.load(args.views[0], at[0]);
    selection.gather(selection.bound(args.k), list);
    // The list is there.
    sync_row<S>();
    if (rows.first_piece + 1 < rows.pieces) {
        if (part.lane < args.k) {
            take(list + part.lane * 8, selection.kept);
            leave(state + part.lane * 8, selection.kept);
        }
        return;
    }
    for (u32 i = part.lane; i < args.k; i += S::LANES) {
        u64 own, other;
        take(list + i * 8, own);
        u32 rank = 0;
        for (u32 j = 0; j < args.k; j++) {
            take(list + j * 8, other);
            rank += other > own;
        }
        write(args, at, rank, own);
    }
}

}  // namespace top_k
