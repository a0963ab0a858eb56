// A row, or a piece of a long one, in the registers of the lanes that work on it together, and the folds that reduce it.
//
// The order that fixes bits, by the length of the row alone: a row of up to 512 elements is a warp's, of up to 4096 that
// of 256 lanes, a longer one of 1024, in pieces of 16384 elements if it is longer still. Lane l of L has the vectors l and
// l + L of eight elements and adds them one after another; then lanes meet by a butterfly of their warp, distances 16 to
// 1, and so do the warps. Pieces meet as if 32 lanes had pieces l, l + 32, .. and then by the same butterfly.
#pragma once

#include "cuda/tile/vector.h"
#include "cuda/tile/walk.h"

constexpr u32 WARP = 32;
// Elements that a lane has side by side.
constexpr u32 SIDE = 8;

// LANES: those of a row: a warp, or a block.
template <u32 LANES_>
struct RowShape {
    static constexpr u32 LANES = LANES_, HELD = 2;
    static constexpr u32 PIECE = LANES * HELD * SIDE;
    static constexpr u32 THREADS = LANES == WARP ? BLOCK_THREADS : LANES;
    static constexpr u32 GROUPS = THREADS / LANES, WARPS = LANES / WARP;
    // A word pair of each warp, where several meet.
    static constexpr u32 SHARED_BYTES = WARPS == 1 ? 0 : WARPS * 8;
    static_assert(WARPS <= WARP && (WARPS & (WARPS - 1)) == 0, "warps meet by a butterfly");
};

DEVICE u32 exchanged(u32 v, u32 mask) { return shuffle_xor(v, mask); }
DEVICE f32 exchanged(f32 v, u32 mask) { return f32_of_bits(shuffle_xor(bits_of(v), mask)); }
DEVICE u64 exchanged(u64 v, u32 mask) { return (u64)shuffle_xor((u32)(v >> 32), mask) << 32 | shuffle_xor((u32)v, mask); }

DEVICE void put(u32 at, u32 v) { store_shared_u32(at, v); }
DEVICE void put(u32 at, f32 v) { store_shared_u32(at, bits_of(v)); }
DEVICE void put(u32 at, u64 v) { store_shared_u32(at, (u32)v), store_shared_u32(at + 4, (u32)(v >> 32)); }
DEVICE void take(u32 at, u32& v) { v = load_shared_u32(at); }
DEVICE void take(u32 at, f32& v) { v = f32_of_bits(load_shared_u32(at)); }
DEVICE void take(u32 at, u64& v) { v = (u64)load_shared_u32(at + 4) << 32 | load_shared_u32(at); }

DEVICE void leave(u64 at, u32 v) { store_global_u32(at, v); }
DEVICE void leave(u64 at, f32 v) { store_global_f32(at, v); }
DEVICE void leave(u64 at, u64 v) { store_global_u32x2(at, {(u32)v, (u32)(v >> 32)}); }
DEVICE void find(u64 at, u32& v) { v = load_global_u32(at); }
DEVICE void find(u64 at, f32& v) { v = load_global_f32(at); }
DEVICE void find(u64 at, u64& v) {
    const u32x2 words = load_global_u32x2(at);
    v = (u64)words.y << 32 | words.x;
}

// What N lanes side by side have, for each of them.
template <u32 N, class T, class Merge>
DEVICE T fold_warp(T own, Merge merge) {
#pragma unroll
    for (u32 mask = N / 2; mask > 0; mask /= 2) {
        own = merge(own, exchanged(own, mask));
    }
    return own;
}

// What the lanes of a row have, for each of them.
template <class S, class T, class Merge>
DEVICE T fold_lanes(T own, Merge merge) {
    own = fold_warp<WARP>(own, merge);
    if constexpr (S::WARPS > 1) {
        // Everybody has read what was folded before.
        sync_block();
        if (thread_index() % WARP == 0) {
            put(shared_base() + thread_index() / WARP * 8, own);
        }
        // All warps' parts are there.
        sync_block();
        take(shared_base() + thread_index() % S::WARPS * 8, own);
        own = fold_warp<S::WARPS>(own, merge);
    }
    return own;
}

// The row and the piece of it that a group of lanes works on.
template <class S>
struct Part {
    const Rows& rows;
    u64 row;
    u32 piece, lane, n;

    // Groups take the launch's pieces of its rows, row by row.
    DEVICE_MEMBER Part(const Rows& all) : rows(all) {
        const u64 group = (u64)block_index() * S::GROUPS + thread_index() / S::LANES;
        const u64 own = whole_quotient(group, rows.piece_count);
        row = rows.first + own;
        piece = rows.first_piece + (u32)(group - own * rows.piece_count);
        lane = thread_index() % S::LANES;
        const u64 from = first();
        n = rows.n <= from ? 0 : rows.n - from < S::PIECE ? (u32)(rows.n - from) : S::PIECE;
    }

    // Whether there is one for this group: lanes that meet agree.
    DEVICE_MEMBER bool is() const { return row - rows.first < rows.count; }

    // The piece's first element.
    DEVICE_MEMBER u64 first() const { return (u64)piece * S::PIECE; }

    // Where the lane's vector `i` begins in the row, and how many elements it has.
    DEVICE_MEMBER u32 column(u32 i) const { return (i * S::LANES + lane) * SIDE; }
    DEVICE_MEMBER u32 side(u32 i) const {
        const u32 from = column(i);
        return from >= n ? 0 : n - from < SIDE ? n - from : SIDE;
    }

    // Calls `f(i)` for the vectors that any lane has.
    template <class F>
    DEVICE_MEMBER void each(F f) const {
#pragma unroll
        for (u32 i = 0; i < S::HELD; i++) {
            if (i * S::LANES * SIDE < n) {
                f(i);
            }
        }
    }

    // Where a word pair of a piece of the row lies.
    DEVICE_MEMBER u64 state(u32 of, u32 pair, u32 pairs) const {
        return rows.state + (((row - rows.first) * rows.pieces + of) * pairs + pair) * 8;
    }

    template <class T>
    DEVICE_MEMBER void leave_own(u32 pair, u32 pairs, T v) const {
        if (lane == 0) {
            leave(state(piece, pair, pairs), v);
        }
    }

    // What `of(piece)` of all pieces come to.
    template <class T, class Of, class Merge>
    DEVICE_MEMBER T meet(T neutral, Of of, Merge merge) const {
        T all = neutral;
        for (u32 i = lane % WARP; i < rows.pieces; i += WARP) {
            all = merge(all, of(i));
        }
        return fold_warp<WARP>(all, merge);
    }

    // What `own()` of all lanes comes to over the row: known where the row is one piece and after pass `pass`; in that
    // pass each piece only leaves its part, as the word pair `pair` of so many, and the answer is false.
    template <class T, class Own, class Merge>
    DEVICE_MEMBER bool fold(u32 pass, u32 pair, u32 pairs, T neutral, Own own, Merge merge, T& all) const {
        if (rows.pieces == 1 || rows.pass == pass) {
            all = fold_lanes<S>(own(), merge);
            if (rows.pieces > 1) {
                leave_own(pair, pairs, all);
            }
            return rows.pieces == 1;
        }
        const auto of = [&](u32 i) {
            T v;
            find(state(i, pair, pairs), v);
            return v;
        };
        all = meet(neutral, of, merge);
        return true;
    }
};

// Elements of a part in the lane's registers: as f32, or as keys.
template <class S, class T = f32>
struct Held {
    T v[S::HELD][SIDE];

    // Where the row allows the widest loads all come first, so that many are on their way at once.
    DEVICE_MEMBER void load(const View& view, u64 row_at, const Part<S>& part) {
        const u64 at = along(view, row_at, part.first());
        if (view.inner != 1 || part.n % SIDE != 0 || at % 16 != 0) {
            part.each([&](u32 i) {
                load_values(v[i], view.dtype, along(view, at, part.column(i)), view.inner, part.side(i));
            });
        } else if (view.dtype == F32) {
            u32 words[S::HELD][SIDE];
            part.each([&](u32 i) { load_present(words[i], at + part.column(i) * 4, part.side(i)); });
            part.each([&](u32 i) { unpack_32(v[i], words[i]); });
        } else {
            u32 words[S::HELD][SIDE / 2];
            part.each([&](u32 i) { load_present(words[i], at + part.column(i) * 2, part.side(i)); });
            part.each([&](u32 i) { unpack_16(v[i], view.dtype, words[i]); });
        }
    }

    // Calls `f(element, column)` for the lane's elements in order.
    template <class F>
    DEVICE_MEMBER void each(const Part<S>& part, F f) {
        part.each([&](u32 i) {
            const u32 n = part.side(i);
#pragma unroll
            for (u32 j = 0; j < SIDE; j++) {
                if (j < n) {
                    f(v[i][j], part.column(i) + j);
                }
            }
        });
    }

  private:
    template <u32 WORDS>
    static DEVICE_MEMBER void load_present(u32 (&words)[WORDS], u64 at, u32 n) {
        if (n > 0) {
            load_wide(words, at);
        } else {
#pragma unroll
            for (u32 i = 0; i < WORDS; i++) {
                words[i] = 0;
            }
        }
    }
};

DEVICE f32 sum_of(f32 x, f32 y) { return x + y; }

// The sum of `f` of the lane's elements, one after another.
template <class S, class F>
DEVICE f32 sum_held(Held<S>& held, const Part<S>& part, F f) {
    f32 sum = 0.0f;
    held.each(part, [&](f32 v, u32) { sum += f(v); });
    return sum;
}

// Eight elements of a vector that all rows share, beside a lane's vector `i`; zeros where the op has none.
template <class S>
DEVICE void load_beside(f32 (&v)[SIDE], const View& view, const Part<S>& part, u32 i) {
    const u32 n = view.present ? part.side(i) : 0;
    load_values(v, view.dtype, along(view, view.at, part.first() + part.column(i)), view.inner, n);
}

// What a row is normalised by: in pass 0 the sums of layer, in pass 1 the squares.
struct Moments {
    f32 mean = 0.0f, factor = 0.0f;

    // False in a pass that only leaves what it finds.
    template <class S>
    DEVICE_MEMBER bool find_in(Held<S>& x, const Part<S>& part, bool layer, f32 epsilon, u32 pairs) {
        const f32 n = (f32)part.rows.n;
        if (layer) {
            const auto own = [&] { return sum_held(x, part, [](f32 v) { return v; }); };
            if (!part.fold(0, 0, pairs, 0.0f, own, sum_of, mean)) {
                return false;
            }
            mean = divided(mean, n);
        }
        f32 squares;
        const auto own = [&] { return sum_held(x, part, [&](f32 v) { return (v - mean) * (v - mean); }); };
        if (!part.fold(1, 1, pairs, 0.0f, own, sum_of, squares)) {
            return false;
        }
        factor = divided(1.0f, root(divided(squares, n) + epsilon));
        return true;
    }
};
