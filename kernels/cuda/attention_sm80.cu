// Attention forward on every NVIDIA GPU from compute capability 8.0: a ring of cp.async copies, ldmatrix, and mma.sync, for
// f16 and bf16. Four warps, each with sixteen packed rows or twice as many, walk the keys of a key head together; keys and
// values arrive while the chunk before is computed. Rows may lie anyhow, keys also in pages; head dims up to the row's
// bucket, zeros beyond. Unaligned shapes of Hopper come here too.
//
// Order of each output: keys in chunks of CHUNK from left to right; within one, mma after mma along the head dim for scores,
// and along the keys for values, 16 at a time, in f32; the softmax as in `cuda/tile/softmax.h`.
#pragma once

#include "cuda/tile/lines.h"
#include "cuda/tile/warp_products.h"

namespace attention_sm80 {

using attention::ELEMENT, attention::PIECE, attention::Tile;

constexpr u32 LANES = 32;

// Numbers of a warp's blocks of sixteen rows.
template <u32... B>
struct Blocks {};

// D: the most columns of Q, K and V.
template <u32 D_, u32 CHUNK_, u32 DTYPE_, u32... B>
struct Shape {
    static constexpr u32 D = D_, CHUNK = CHUNK_, DTYPE = DTYPE_, BLOCKS = sizeof...(B), STAGES = 2;
    using BlockNumbers = Blocks<B...>;
    static constexpr u32 WARPS = 4, THREADS = WARPS * LANES, WARP_ROWS = 16 * BLOCKS, ROWS = WARPS * WARP_ROWS;
    static constexpr u32 PIECES = D / PIECE, BRING_AT_ONCE = 4;
    static constexpr u32 Q_BYTES = ROWS * D * ELEMENT, K_BYTES = CHUNK * D * ELEMENT, STAGE_BYTES = 2 * K_BYTES;
    static constexpr u32 SHARED_BYTES = Q_BYTES + STAGES * STAGE_BYTES;
    static_assert(D % 32 == 0 && D <= 256, "rows of whole lines, or of halves");
};

template <class S>
struct Block {
    using Softmax = attention::Softmax<S::CHUNK, S::D, S::DTYPE, S::BLOCKS * S::THREADS>;

    const AttentionArgs& args;
    const Tile& tile;
    Softmax rows[S::BLOCKS];

    template <u32... B>
    DEVICE_MEMBER Block(const AttentionArgs& a, const Tile& t, Blocks<B...>)
        : args(a), tile(t), rows{Softmax(a, t, t.row + warp_row() + 16 * B)...} {}

    // The warp's first row in the tile.
    static DEVICE_MEMBER u32 warp_row() { return anew(thread_index()) / LANES * S::WARP_ROWS; }

    static DEVICE_MEMBER u32 keys_of(u32 stage) { return shared_base() + S::Q_BYTES + stage * S::STAGE_BYTES; }
    static DEVICE_MEMBER u32 values_of(u32 stage) { return keys_of(stage) + S::K_BYTES; }

    DEVICE_MEMBER void bring_queries() const {
        const bool pieces = attention::by_pieces(args.q);
#pragma unroll 4
        for (u32 i = thread_index(); i < S::ROWS * S::PIECES; i += S::THREADS) {
            const u32 r = i / S::PIECES, c = i % S::PIECES, row = tile.row + r;
            const bool is = row < tile.packed_rows;
            const u64 at = attention::address_of(args, tile, args.q, is ? row : 0, 0);
            attention::bring(shared_base() + swizzled<S::PIECES>(r, c), args.q, pieces, at, is, c * PIECE, args.d);
        }
    }

    // Starts to bring a chunk of keys and its values.
    DEVICE_MEMBER void bring_chunk(u32 stage, u32 key) const {
        const bool key_pieces = attention::by_pieces(args.k), value_pieces = attention::by_pieces(args.v);
#pragma unroll S::BRING_AT_ONCE
        for (u32 i = anew(thread_index()); i < S::CHUNK * S::PIECES; i += S::THREADS) {
            const u32 r = i / S::PIECES, c = i % S::PIECES, offset = swizzled<S::PIECES>(r, c);
            const attention::Line line = attention::line_of(args, tile, key + r);
            const u64 at[2] = {attention::address_of(tile, args.k, line), attention::address_of(tile, args.v, line)};
            attention::bring(keys_of(stage) + offset, args.k, key_pieces, at[0], line.is, c * PIECE, args.d);
            attention::bring(values_of(stage) + offset, args.v, value_pieces, at[1], line.is, c * PIECE, args.dv);
        }
    }

    // The chunks of the launch that any row of the tile sees. A stage is overwritten only after the barrier that follows its
    // last use.
    DEVICE_MEMBER void run() {
        const attention::Chunks chunks = attention::chunks_of<S::CHUNK>(args, tile);
        if (chunks.from >= chunks.to) {
            return;
        }
        bring_queries();
        bring_chunk(0, chunks.from);
        u32 stage = 0;
        for (u32 key = chunks.from; key < chunks.to; key += S::CHUNK) {
            commit_copies();
            wait_copies<0>();
            // Everybody's copies of this chunk, and at first of the queries, are here; everybody is done with the chunk before.
            sync_block();
            if (key + S::CHUNK < chunks.to) {
                bring_chunk(stage ^ 1, key + S::CHUNK);
            }
            attention::score<S::PIECES>(rows, shared_base(), warp_row(), keys_of(stage));
            u32 weights[S::BLOCKS][Softmax::STEPS][4];
#pragma unroll
            for (u32 b = 0; b < S::BLOCKS; b++) {
                rows[b].adjust(key);
                rows[b].weigh(weights[b]);
            }
            attention::add_values<S::PIECES>(rows, weights, values_of(stage));
            stage ^= 1;
        }
    }

    // Which carrier of a tile's state a block's thread is.
    static DEVICE_MEMBER u32 slot(u32 block) { return block * S::THREADS + thread_index(); }
};

template <class S>
DEVICE void run(const AttentionArgs& args) {
    const u32 number = block_index();
    const Tile tile = attention::tile_of<S::ROWS>(args, args.first_tile + number);
    Block<S> block(args, tile, typename S::BlockNumbers());
#pragma unroll
    for (u32 b = 0; b < S::BLOCKS; b++) {
        block.rows[b].begin(number, block.slot(b));
    }
    block.run();
#pragma unroll
    for (u32 b = 0; b < S::BLOCKS; b++) {
        if (args.last) {
            block.rows[b].finish();
        } else {
            block.rows[b].keep(number, block.slot(b));
        }
    }
}

}  // namespace attention_sm80
