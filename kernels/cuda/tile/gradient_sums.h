// What a warp of the kernels of attention's gradients does with matrices: rows of a head on their way into shared memory, its
// own rows as fragments, the products along a head dim, and the sums that become a gradient. Both sides of
// `attention_backward` compute with these.
#pragma once

#include "cuda/tile/gradients.h"
#include "cuda/tile/lines.h"
#include "cuda/tile/warp_products.h"

namespace attention_backward {

using attention::by_pieces, attention::bring, attention::K_STEP, attention::PIECE, attention::ELEMENT;

// What both kernels count. D: the most columns of Q, K and V. CHUNK: rows of the other side that are met at once. OWN: a warp's
// or a pair's own rows, BLOCKS blocks of sixteen.
template <u32 D_, u32 CHUNK_, u32 BLOCKS_, u32 WARPS_, u32 DTYPE_>
struct Sizes {
    static constexpr u32 D = D_, CHUNK = CHUNK_, BLOCKS = BLOCKS_, WARPS = WARPS_, DTYPE = DTYPE_;
    static constexpr u32 THREADS = WARPS * LANES, PIECES = D / PIECE, STEPS = CHUNK / K_STEP;
    static constexpr u32 OWN = 16 * BLOCKS, SUMS = D / 2, SCORES = CHUNK / 2;
    static constexpr u32 CHUNK_BYTES = CHUNK * D * ELEMENT;
    // Of the state of a tile: every sum of every thread.
    static constexpr u32 STATE_BYTES = BLOCKS * SUMS * THREADS * 4;
    static_assert(D % 32 == 0 && D <= 256 && CHUNK % K_STEP == 0, "whole lines, or halves, and whole steps");
};

// Starts to bring COUNT rows of a head from `first` of all on, of which there are `count`: zeros past the last.
template <class S, u32 COUNT>
DEVICE void bring_rows(u32 to, const Heads& x, u64 batch, u64 head, u32 first, u32 count, u32 columns) {
    const u64 at = row_of(x, batch, head, first);
    if (!by_pieces(x)) {
#pragma unroll 1
        for (u32 i = thread_index(); i < COUNT * S::PIECES; i += S::THREADS) {
            const u32 r = i / S::PIECES, c = i % S::PIECES;
            const u64 row = at + (u64)((i64)r * x.row * ELEMENT);
            bring(to + swizzled<S::PIECES>(r, c), x, false, row, r < count, c * PIECE, columns);
        }
        return;
    }
    constexpr u32 ALL = COUNT * S::PIECES;
#pragma unroll 4
    for (u32 j = 0; j < ALL; j += S::THREADS) {
        const u32 i = j + anew(thread_index()), r = i / S::PIECES, c = i % S::PIECES;
        if (ALL % S::THREADS == 0 || i < ALL) {
            const u64 row = at + (u64)((i64)r * x.row * ELEMENT);
            bring(to + swizzled<S::PIECES>(r, c), x, true, row, r < count, c * PIECE, columns);
        }
    }
}

// A fragment of sixteen rows of a matrix, from a row on.
template <class S>
DEVICE void load_fragment(u32 (&to)[4], u32 matrix, u32 row, u32 step) {
    const u32 lane = anew(thread_index() % LANES);
    load_matrices(to, matrix + swizzled<S::PIECES>(row + lane % 16, 2 * step + lane / 16));
}

// A warp's own rows of a matrix, from `first` on: all fragments in registers, or each loaded where it is used.
template <class S, bool HELD>
struct Own {
    u32 held[S::BLOCKS][S::D / K_STEP][4];

    DEVICE_MEMBER Own(u32 matrix, u32 first) {
#pragma unroll
        for (u32 step = 0; step < S::D / K_STEP; step++) {
#pragma unroll
            for (u32 b = 0; b < S::BLOCKS; b++) {
                load_fragment<S>(held[b][step], matrix, first + 16 * b, step);
            }
        }
    }

    DEVICE_MEMBER void fragment(u32 (&to)[4], u32 b, u32 step) const {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            to[i] = held[b][step][i];
        }
    }
};

template <class S>
struct Own<S, false> {
    u32 matrix, first;

    DEVICE_MEMBER Own(u32 at, u32 row) : matrix(at), first(row) {}
    DEVICE_MEMBER void fragment(u32 (&to)[4], u32 b, u32 step) const { load_fragment<S>(to, matrix, first + 16 * b, step); }
};

// Products of a warp's own rows and those of a chunk, along the head dim.
template <class S, bool HELD>
DEVICE void multiply(f32 (&products)[S::BLOCKS][S::SCORES], const Own<S, HELD>& own, u32 chunk) {
    const u32 lane = anew(thread_index() % LANES);
#pragma unroll
    for (u32 b = 0; b < S::BLOCKS; b++) {
        attention::zero(products[b]);
    }
#pragma unroll
    for (u32 step = 0; step < S::D / K_STEP; step++) {
        u32 a[S::BLOCKS][4];
#pragma unroll
        for (u32 b = 0; b < S::BLOCKS; b++) {
            own.fragment(a[b], b, step);
        }
#pragma unroll
        for (u32 n = 0; n < S::CHUNK; n += 16) {
            u32 t[4];
            load_matrices(t, chunk + swizzled<S::PIECES>(n + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
#pragma unroll
            for (u32 b = 0; b < S::BLOCKS; b++) {
                attention::mma<S::DTYPE>(&products[b][n / 2], a[b], t[0], t[1]);
                attention::mma<S::DTYPE>(&products[b][n / 2 + 4], a[b], t[2], t[3]);
            }
        }
    }
}

// The sums of a warp: of each of its rows, a row of a gradient.
template <class S>
struct Sums {
    f32 v[S::BLOCKS][S::SUMS];

    // Adds the chunk's rows by their factors, in the operands' type.
    DEVICE_MEMBER void add(const f32 (&factors)[S::BLOCKS][S::SCORES], u32 chunk) {
        const u32 lane = anew(thread_index() % LANES);
#pragma unroll
        for (u32 k = 0; k < S::STEPS; k++) {
            u32 a[S::BLOCKS][4];
#pragma unroll
            for (u32 b = 0; b < S::BLOCKS; b++) {
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const f32 low = factors[b][k * 8 + 2 * i], high = factors[b][k * 8 + 2 * i + 1];
                    a[b][i] = S::DTYPE == BF16 ? bf16_pair(low, high) : f16_pair(low, high);
                }
            }
#pragma unroll
            for (u32 c = 0; c < S::PIECES; c += 2) {
                u32 t[4];
                load_matrices_transposed(t, chunk + swizzled<S::PIECES>(k * K_STEP + lane % 16, c + lane / 16));
#pragma unroll
                for (u32 b = 0; b < S::BLOCKS; b++) {
                    attention::mma<S::DTYPE>(&v[b][c * 4], a[b], t[0], t[1]);
                    attention::mma<S::DTYPE>(&v[b][c * 4 + 4], a[b], t[2], t[3]);
                }
            }
        }
    }

    // Where a cut tile's sums lie: the same register of all threads together.
    static DEVICE_MEMBER u64 carried(const AttentionBackwardArgs& args, u32 i) {
        return args.state + ((u64)block_index() * S::STATE_BYTES + anew(thread_index()) * 4) + i * S::THREADS * 4;
    }

    // What the launch before kept, where one was.
    DEVICE_MEMBER void begin(const AttentionBackwardArgs& args) {
#pragma unroll
        for (u32 i = 0; i < S::BLOCKS * S::SUMS; i++) {
            v[i / S::SUMS][i % S::SUMS] = load_global_f32_if(args.from > 0, carried(args, i));
        }
    }

    DEVICE_MEMBER void keep(const AttentionBackwardArgs& args) const {
#pragma unroll
        for (u32 i = 0; i < S::BLOCKS * S::SUMS; i++) {
            store_global_f32(carried(args, i), v[i / S::SUMS][i % S::SUMS]);
        }
    }

    // Zeros from a row on: of keys that there are not.
    DEVICE_MEMBER void clear_from(u32 row) {
#pragma unroll
        for (u32 i = 0; i < S::BLOCKS * S::SUMS; i++) {
            const u32 b = i / S::SUMS, s = i % S::SUMS;
            v[b][s] = fragment::sum_row(thread_index() % LANES, s % 4) + 16 * b < row ? v[b][s] : 0.0f;
        }
    }

    // Writes rows of a head from `first` of all on, of which there are `rows`.
    DEVICE_MEMBER void finish(const Heads& x, u64 batch, u64 head, u32 first, u32 rows, u32 columns, f32 scale) {
        const u64 at = row_of(x, batch, head, first);
        switch (x.dtype) {
        case F16: return write<F16>(x, at, rows, columns, scale);
        case BF16: return write<BF16>(x, at, rows, columns, scale);
        default: write<F32>(x, at, rows, columns, scale);
        }
    }

    template <u32 OUT>
    DEVICE_MEMBER void write(const Heads& x, u64 at, u32 rows, u32 columns, f32 scale) const {
        const u32 lane = thread_index() % LANES;
#pragma unroll
        for (u32 half = 0; half < 2 * S::BLOCKS; half++) {
            const u32 row = fragment::sum_row(lane, half % 2 * 2) + half / 2 * 16;
            if (row >= rows) {
                continue;
            }
            const u64 to = at + (u64)((i64)row * x.row * (i64)width_of(OUT));
#pragma unroll
            for (u32 i = half % 2 * 2; i < S::SUMS; i += i % 2 == 0 ? 1 : 3) {
                const u32 column = i / 4 * 8 + fragment::sum_column(lane, i % 4);
                if (column < columns) {
                    store_as(OUT, to + (u64)((i64)column * x.column * (i64)width_of(OUT)), scale * v[half / 2][i]);
                }
            }
        }
    }
};

// Which of two rows of a block a score of this thread is of, and its column.
DEVICE u32 row_of_score(u32 i) { return fragment::sum_row(thread_index() % LANES, i % 4); }
DEVICE u32 column_of_score(u32 i) { return i / 4 * 8 + fragment::sum_column(thread_index() % LANES, i % 4); }

}  // namespace attention_backward
