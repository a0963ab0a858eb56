// `copy`: the bits of one view to another of the same shape, elements of one, two or four bytes, 16 bytes a thread at once
// where both lie dense. `Turned` is for views that are dense along different axes: tiles turn in shared memory.
#pragma once

#include "cuda/copy.h"
#include "cuda/tile/vector.h"
#include "cuda/tile/walk.h"

namespace copy {

template <u32 WIDTH_>
struct Shape {
    static constexpr u32 WIDTH = WIDTH_, VECTOR = 16 / WIDTH;
    static constexpr u32 THREADS = BLOCK_THREADS, SHARED_BYTES = 0;
};

template <class S>
DEVICE void run(const CopyArgs& args) {
    each_vector<S::VECTOR>(args.range, [&](u64 row, u64 column, u32 n) {
        const View &x = args.views[0], &out = args.views[1];
        u64 at[2];
        begin_row(at, args.views, args.range.outer, row);
        u32 words[4];
        load_bits<S::WIDTH, S::VECTOR>(words, along(x, at[0], column), x.inner, n);
        store_bits<S::WIDTH, S::VECTOR>(along(out, at[1], column), out.inner, n, words);
    });
}

template <u32 WIDTH_>
struct Turned {
    static constexpr u32 WIDTH = WIDTH_, VECTOR = 16 / WIDTH, TILE = 64;
    static constexpr u32 VECTORS = TILE / VECTOR, THREADS = BLOCK_THREADS;
    // Words of a column, one more than it has, so that neighbours along either axis fall on other banks.
    static constexpr u32 PITCH = TILE + 1;
    static constexpr u32 SHARED_BYTES = TILE * PITCH * 4;
};

template <class S>
DEVICE void turn(const TurnArgs& args) {
    constexpr u32 OF_WORD = 4 / S::WIDTH;
    const u64 tile = args.first + block_index();
    const u64 line = whole_quotient(tile, args.across), entry = whole_quotient(line, args.down);
    const u64 row = (line - entry * args.down) * S::TILE, column = (tile - line * args.across) * S::TILE;
    const View &x = args.views[0], &out = args.views[1];
    const i64 x_row = x.outer[args.outer.rank], out_row = out.outer[args.outer.rank];
    u64 at[2];
    begin_row(at, args.views, args.outer, entry);
    // Elements of a vector from `from` on before `end`.
    const auto rest = [](u64 end, u64 from) {
        return from >= end ? 0 : end - from < S::VECTOR ? (u32)(end - from) : S::VECTOR;
    };
#pragma unroll
    for (u32 i = thread_index(); i < S::TILE * S::VECTORS; i += S::THREADS) {
        const u32 r = i % S::VECTORS * S::VECTOR, c = i / S::VECTORS;
        const u32 n = column + c < args.columns ? rest(args.rows, row + r) : 0;
        u32 words[4];
        const u64 far = (u64)((i64)(row + r) * x_row * (i64)S::WIDTH);
        load_bits<S::WIDTH, S::VECTOR>(words, along(x, at[0], column + c) + far, x_row, n);
#pragma unroll
        for (u32 j = 0; j < S::VECTOR; j++) {
            store_shared_u32(shared_base() + (c * S::PITCH + r + j) * 4, words[j / OF_WORD] >> j % OF_WORD * 8 * S::WIDTH);
        }
    }
    // The tile is there.
    sync_block();
    constexpr u32 MASK = S::WIDTH == 4 ? 0xffffffffu : (1u << 8 * S::WIDTH % 32) - 1;
#pragma unroll
    for (u32 i = thread_index(); i < S::TILE * S::VECTORS; i += S::THREADS) {
        const u32 c = i % S::VECTORS * S::VECTOR, r = i / S::VECTORS;
        u32 words[4] = {};
#pragma unroll
        for (u32 j = 0; j < S::VECTOR; j++) {
            const u32 bits = load_shared_u32(shared_base() + ((c + j) * S::PITCH + r) * 4) & MASK;
            words[j / OF_WORD] |= bits << j % OF_WORD * 8 * S::WIDTH;
        }
        if (row + r < args.rows) {
            const u64 to = along(out, at[1], column + c) + (u64)((i64)(row + r) * out_row * (i64)S::WIDTH);
            store_bits<S::WIDTH, S::VECTOR>(to, out.inner, rest(args.columns, column + c), words);
        }
    }
}

}  // namespace copy
