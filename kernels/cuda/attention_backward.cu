// The gradients of attention on every NVIDIA GPU from compute capability 8.0: cp.async copies, ldmatrix, and mma.sync, for f16
// and bf16 in any strides; head dims up to the row's bucket, zeros beyond. Two kernels, neither of which adds across blocks:
//
// - `run_keys`: a block has a tile of keys, whose K and V stay in registers, and walks the query rows of its group. Two warps
//   share sixteen or thirty-two keys: one makes the weights P^T = exp(K Q^T - lse) and sums d_v += P^T d_out, the other
//   d_out's products V d_out^T and, from them and the weights that it is given, d_k += dS^T Q.
// - `run_queries`: a block has a tile of query rows and walks the keys; each warp makes P and dS of its own rows, and sums
//   d_q += dS K.
//
// Order of each sum: the other side from left to right, sixteen at a time by an mma, in f32, for keys head after head of the
// group; products along a head dim likewise. P and dS are rounded to the operands' type before they are multiplied.
//
// All of this is for finite operands. A key that a row does not see is multiplied by the weight 0 like any other, so an Inf or
// NaN in its K or V, or in the row's Q or d_out, makes NaN of sums that a gradient by definition does not have it in.
#pragma once

#include "cuda/tile/gradient_scores.h"

namespace attention_backward {

constexpr u32 STAGES = 2;

template <u32 D, u32 CHUNK, u32 BLOCKS, u32 DTYPE>
struct KeysShape : Sizes<D, CHUNK, BLOCKS, 8, DTYPE> {
    using S = Sizes<D, CHUNK, BLOCKS, 8, DTYPE>;
    static constexpr u32 PAIRS = S::WARPS / 2, ROWS = PAIRS * S::OWN, OWN_BYTES = ROWS * D * ELEMENT;
    // Query rows, their d_out, and two numbers of each.
    static constexpr u32 STAGE_BYTES = 2 * S::CHUNK_BYTES + 2 * CHUNK * 4;
    // The tile is last.
    static constexpr u32 TILE_AT = 2 * OWN_BYTES + STAGES * STAGE_BYTES, SHARED_BYTES = TILE_AT + 48;
    static_assert(CHUNK * 4 <= D * ELEMENT, "weights lie where a pair's keys lay");
};

template <u32 D, u32 CHUNK, u32 BLOCKS, u32 WARPS, u32 DTYPE>
struct QueriesShape : Sizes<D, CHUNK, BLOCKS, WARPS, DTYPE> {
    using S = Sizes<D, CHUNK, BLOCKS, WARPS, DTYPE>;
    static constexpr u32 ROWS = WARPS * S::OWN, OWN_BYTES = ROWS * D * ELEMENT;
    static constexpr u32 STAGE_BYTES = 2 * S::CHUNK_BYTES, SHARED_BYTES = 2 * OWN_BYTES + STAGES * STAGE_BYTES;
};

// A block of `run_keys`.
template <class S>
struct KeysBlock {
    const AttentionBackwardArgs& args;
    // The pair of warps, and whether this one makes the weights.
    u32 pair = thread_index() / LANES % S::PAIRS;
    bool weighs = thread_index() / LANES < S::PAIRS;
    Sums<S> sums;

    DEVICE_MEMBER explicit KeysBlock(const AttentionBackwardArgs& a) : args(a) {}

    // The tile waits in shared memory: beside sums, own rows and scores there are no registers for it.
    static DEVICE_MEMBER void leave(const Tile& t) {
        if (thread_index() == 0) {
            const u32 at = shared_base() + S::TILE_AT;
            store_shared(at, u32x4{t.batch, t.head, t.first_row, t.rows});
            store_shared(at + 16, u32x4{t.first_key, t.keys, t.numbers, t.first});
            store_shared_u32(at + 32, t.end);
        }
        // The tile is there.
        sync_block();
    }
    static DEVICE_MEMBER Tile tile() {
        const u32 at = shared_base() + S::TILE_AT;
        const u32x4 a = load_shared_u32x4(at), b = load_shared_u32x4(at + 16);
        return {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w, load_shared_u32(at + 32)};
    }

    static DEVICE_MEMBER u32 rows_of(u32 stage) { return shared_base() + 2 * S::OWN_BYTES + stage * S::STAGE_BYTES; }
    static DEVICE_MEMBER u32 d_out_of(u32 stage) { return rows_of(stage) + S::CHUNK_BYTES; }
    static DEVICE_MEMBER u32 sums_of(u32 stage) { return d_out_of(stage) + S::CHUNK_BYTES; }
    static DEVICE_MEMBER u32 means_of(u32 stage) { return sums_of(stage) + S::CHUNK * 4; }

    // Starts to bring a chunk of query rows.
    DEVICE_MEMBER void bring_chunk(u32 stage, const RowWalk<S::ROWS, S::CHUNK>& walk) const {
        const Tile tile = KeysBlock::tile();
        const u32 head = tile.head * args.group + walk.head;
        const u32 row = walk.row();
        const u32 of_all = tile.first_row + row, count = tile.rows - row;
        bring_rows<S, S::CHUNK>(rows_of(stage), args.q, tile.batch, head, of_all, count, args.d);
        bring_rows<S, S::CHUNK>(d_out_of(stage), args.d_out, tile.batch, head, of_all, count, args.dv);
        const u32 i = thread_index(), of = i % (S::CHUNK / 4) * 4;
        if (i < S::CHUNK / 2) {
            const bool means = i >= S::CHUNK / 4;
            copy_async16((means ? means_of(stage) : sums_of(stage)) + of * 4,
                         statistics_of(args, tile, head, means, row + of), 16);
        }
    }

    // The pair's keys in the tile, and where its weights lie once they are in registers.
    DEVICE_MEMBER u32 first() const { return pair * S::OWN; }
    DEVICE_MEMBER u32 weights_at(u32 i) const {
        return shared_base() + first() * S::D * ELEMENT + (i / 4 * LANES + thread_index() % LANES) * 16;
    }

    // Both warps of the pair; orders what they did to shared memory.
    DEVICE_MEMBER void meet() const {
        switch (pair) {
        case 0: return sync_threads<1, 2 * LANES>();
        case 1: return sync_threads<2, 2 * LANES>();
        case 2: return sync_threads<3, 2 * LANES>();
        default: sync_threads<4, 2 * LANES>();
        }
    }

    // Products become weights, those of rows that do not see the key 0, and are left for the other warp of the pair: times how
    // fast scores grow, where a soft cap slows them. `head` is counted in the group.
    DEVICE_MEMBER void weigh(f32 (&scores)[S::BLOCKS][S::SCORES], u32 stage, u32 head, u32 row) const {
        const bool made = has_options(args);
        if (made) {
            const Tile tile = KeysBlock::tile();
            const Scores<S, true> of = {args, tile, tile.head * args.group + head, row, tile.first + first()};
            of.make(scores, [&](u32 b, u32 i, f32 growth) {
                store_shared_f32(weights_at(b * S::SCORES + i) + i % 4 * 4, growth);
            });
        }
        const f32 factor = made ? 1.0f : args.scale * LOG2_E;
#pragma unroll
        for (u32 i = 0; i < S::SCORES; i += 4) {
            const f32 sum[2] = {load_shared_f32(sums_of(stage) + column_of_score(i) * 4),
                                load_shared_f32(sums_of(stage) + column_of_score(i + 1) * 4)};
#pragma unroll
            for (u32 j = i; j < i + 4; j++) {
#pragma unroll
                for (u32 b = 0; b < S::BLOCKS; b++) {
                    scores[b][j] = exp2_of(fma(scores[b][j], factor, -sum[j % 2]));
                }
            }
        }
        const Tile tile = KeysBlock::tile();
        // Of the pair's first key from the chunk's first row.
        const i32 far = distance_of(tile, row, tile.first + first());
        if (!all_see<S::CHUNK, S::OWN>(args, far)) {
#pragma unroll
            for (u32 b = 0; b < S::BLOCKS; b++) {
#pragma unroll
                for (u32 i = 0; i < S::SCORES; i++) {
                    const i32 distance = far + (i32)(row_of_score(i) + 16 * b) - (i32)column_of_score(i);
                    scores[b][i] = sees(args, distance) ? scores[b][i] : 0.0f;
                }
            }
        }
#pragma unroll
        for (u32 b = 0; b < S::BLOCKS; b++) {
#pragma unroll
            for (u32 i = 0; i < S::SCORES; i += 4) {
                f32 w[4] = {scores[b][i], scores[b][i + 1], scores[b][i + 2], scores[b][i + 3]};
                const u32 at = weights_at(b * S::SCORES + i);
                if (args.softcap > 0.0f) {
                    const u32x4 growth = load_shared_u32x4(at);
                    w[0] *= f32_of_bits(growth.x);
                    w[1] *= f32_of_bits(growth.y);
                    w[2] *= f32_of_bits(growth.z);
                    w[3] *= f32_of_bits(growth.w);
                }
                store_shared(at, {bits_of(w[0]), bits_of(w[1]), bits_of(w[2]), bits_of(w[3])});
            }
        }
    }

    // Gradients of weights become those of scores.
    DEVICE_MEMBER void slope(f32 (&gradients)[S::BLOCKS][S::SCORES], u32 stage) const {
#pragma unroll
        for (u32 i = 0; i < S::SCORES; i += 4) {
            const f32 mean[2] = {load_shared_f32(means_of(stage) + column_of_score(i) * 4),
                                 load_shared_f32(means_of(stage) + column_of_score(i + 1) * 4)};
#pragma unroll
            for (u32 b = 0; b < S::BLOCKS; b++) {
                const u32x4 four = load_shared_u32x4(weights_at(b * S::SCORES + i));
                const u32 weights[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
                    gradients[b][i + j] = f32_of_bits(weights[j]) * (gradients[b][i + j] - mean[j % 2]);
                }
            }
        }
    }

    // The chunks of the launch. A stage is overwritten only after the barrier that follows its last use.
    DEVICE_MEMBER void run(const Tile& tile) {
        RowWalk<S::ROWS, S::CHUNK> walk(args, tile);
        if (!walk.is()) {
            return;
        }
        const u32 key = tile.first_key + tile.first, count = tile.keys - tile.first;
        bring_rows<S, S::ROWS>(shared_base(), args.k, tile.batch, tile.head, key, count, args.d);
        bring_rows<S, S::ROWS>(shared_base() + S::OWN_BYTES, args.v, tile.batch, tile.head, key, count, args.dv);
        bring_chunk(0, walk);
        commit_copies();
        wait_copies<0>();
        // Everybody's copies of the keys are here.
        sync_block();
        const Own<S, true> own(shared_base() + (weighs ? 0 : S::OWN_BYTES), first());
        for (u32 stage = 0; walk.is(); stage ^= 1) {
            commit_copies();
            wait_copies<0>();
            // Everybody's copies of this chunk are here; everybody is done with the chunk before, and has its keys.
            sync_block();
            const u32 head = walk.head, row = walk.row();
            walk.next();
            if (walk.is()) {
                bring_chunk(stage ^ 1, walk);
            }
            f32 scores[S::BLOCKS][S::SCORES];
            multiply(scores, own, weighs ? rows_of(stage) : d_out_of(stage));
            if (weighs) {
                weigh(scores, stage, head, row);
            }
            // The weights of the chunk are there.
            meet();
            if (!weighs) {
                slope(scores, stage);
            }
            sums.add(scores, weighs ? d_out_of(stage) : rows_of(stage));
        }
    }

    DEVICE_MEMBER void finish() {
        const Tile tile = KeysBlock::tile();
        const u32 key = tile.first + first(), of_all = tile.first_key + key;
        if (key >= tile.end) {
            return;
        }
        sums.clear_from(tile.keys > key ? tile.keys - key : 0);
        if (weighs) {
            sums.finish(args.d_v, tile.batch, tile.head, of_all, tile.end - key, args.dv, 1.0f);
        } else {
            sums.finish(args.d_k, tile.batch, tile.head, of_all, tile.end - key, args.d, args.scale);
        }
    }
};

template <class S>
DEVICE void run_keys(const AttentionBackwardArgs& args) {
    const Tile tile = tile_of<S::ROWS, true>(args, args.first_tile + block_index());
    KeysBlock<S> block(args);
    block.leave(tile);
    block.sums.begin(args);
    block.run(tile);
    if (args.last) {
        block.finish();
    } else {
        block.sums.keep(args);
    }
}

// A block of `run_queries`.
template <class S>
struct QueriesBlock {
    const AttentionBackwardArgs& args;
    const Tile& tile;
    u32 kv_head;
    Sums<S> sums;

    DEVICE_MEMBER QueriesBlock(const AttentionBackwardArgs& a, const Tile& t) : args(a), tile(t), kv_head(t.head / a.group) {}

    static DEVICE_MEMBER u32 keys_of(u32 stage) { return shared_base() + 2 * S::OWN_BYTES + stage * S::STAGE_BYTES; }
    static DEVICE_MEMBER u32 values_of(u32 stage) { return keys_of(stage) + S::CHUNK_BYTES; }

    // The warp's first row in the tile.
    static DEVICE_MEMBER u32 first() { return thread_index() / LANES * S::OWN; }

    DEVICE_MEMBER void bring_chunk(u32 stage, u32 key) const {
        const u32 of_all = tile.first_key + key, count = tile.keys - key;
        bring_rows<S, S::CHUNK>(keys_of(stage), args.k, tile.batch, kv_head, of_all, count, args.d);
        bring_rows<S, S::CHUNK>(values_of(stage), args.v, tile.batch, kv_head, of_all, count, args.dv);
    }

    // Numbers of this thread's rows: two of each block.
    struct Numbers {
        f32 sum[2 * S::BLOCKS], mean[2 * S::BLOCKS];
    };

    DEVICE_MEMBER Numbers numbers() const {
        Numbers n;
#pragma unroll
        for (u32 i = 0; i < 2 * S::BLOCKS; i++) {
            const u32 row = tile.first + first() + i / 2 * 16 + row_of_score(i % 2 * 2);
            const bool is = row < tile.rows;
            n.sum[i] = is ? load_global_f32(statistics_of(args, tile, tile.head, false, row)) : NOBODY;
            n.mean[i] = is ? load_global_f32(statistics_of(args, tile, tile.head, true, row)) : 0.0f;
        }
        return n;
    }

    // Products, which are the scores and the gradients of weights, become gradients of scores, of keys that a row does not
    // see 0.
    DEVICE_MEMBER void slope(f32 (&scores)[S::BLOCKS][S::SCORES], f32 (&gradients)[S::BLOCKS][S::SCORES], const Numbers& n,
                             u32 key) const {
#pragma unroll
        for (u32 b = 0; b < S::BLOCKS; b++) {
#pragma unroll
            for (u32 i = 0; i < S::SCORES; i++) {
                gradients[b][i] -= n.mean[2 * b + i / 2 % 2];
            }
        }
        const bool made = has_options(args);
        if (made) {
            const Scores<S, false> of = {args, tile, tile.head, tile.first + first(), key};
            of.make(scores, [&](u32 b, u32 i, f32 growth) { gradients[b][i] *= growth; });
        }
        const f32 factor = made ? 1.0f : args.scale * LOG2_E;
#pragma unroll
        for (u32 b = 0; b < S::BLOCKS; b++) {
#pragma unroll
            for (u32 i = 0; i < S::SCORES; i++) {
                const u32 of = 2 * b + i / 2 % 2;
                scores[b][i] = exp2_of(fma(scores[b][i], factor, -n.sum[of])) * gradients[b][i];
            }
        }
        // Of the chunk's first key from the warp's first row, and keys that there are from it on.
        const i32 far = distance_of(tile, tile.first + first(), key);
        const u32 count = tile.keys - key;
        if (count >= S::CHUNK && all_see<S::OWN, S::CHUNK>(args, far)) {
            return;
        }
#pragma unroll
        for (u32 b = 0; b < S::BLOCKS; b++) {
#pragma unroll
            for (u32 i = 0; i < S::SCORES; i++) {
                const i32 distance = far + (i32)column_of_score(i) - (i32)(row_of_score(i) + 16 * b);
                scores[b][i] = column_of_score(i) < count && sees(args, distance) ? scores[b][i] : 0.0f;
            }
        }
    }

    // The chunks of the launch. A stage is overwritten only after the barrier that follows its last use.
    DEVICE_MEMBER void run() {
        const KeyRange<S::ROWS, S::CHUNK> keys(args, tile);
        if (keys.from >= keys.to) {
            return;
        }
        const u32 d_outs = shared_base() + S::OWN_BYTES;
        const u32 row = tile.first_row + tile.first, count = tile.rows - tile.first;
        bring_rows<S, S::ROWS>(shared_base(), args.q, tile.batch, tile.head, row, count, args.d);
        bring_rows<S, S::ROWS>(d_outs, args.d_out, tile.batch, tile.head, row, count, args.dv);
        bring_chunk(0, keys.from);
        const Numbers of_rows = numbers();
        commit_copies();
        wait_copies<0>();
        // Everybody's copies of the rows are here.
        sync_block();
        const Own<S, S::D <= 128> q(shared_base(), first()), d_out(d_outs, first());
        u32 stage = 0;
        for (u32 key = keys.from; key < keys.to; key += S::CHUNK) {
            commit_copies();
            wait_copies<0>();
            // Everybody's copies of this chunk are here; everybody is done with the chunk before.
            sync_block();
            if (key + S::CHUNK < keys.to) {
                bring_chunk(stage ^ 1, key + S::CHUNK);
            }
            f32 scores[S::BLOCKS][S::SCORES], gradients[S::BLOCKS][S::SCORES];
            multiply(scores, q, keys_of(stage));
            multiply(gradients, d_out, values_of(stage));
            slope(scores, gradients, of_rows, key);
            sums.add(scores, keys_of(stage));
            stage ^= 1;
        }
    }
};

template <class S>
DEVICE void run_queries(const AttentionBackwardArgs& args) {
    const Tile tile = tile_of<S::ROWS, false>(args, args.first_tile + block_index());
    QueriesBlock<S> block(args, tile);
    block.sums.begin(args);
    block.run();
    if (!args.last) {
        return block.sums.keep(args);
    }
    const u32 row = tile.first + block.first();
    if (row < tile.end) {
        block.sums.finish(args.d_q, tile.batch, tile.head, tile.first_row + row, tile.end - row, args.d, args.scale);
    }
}

}  // namespace attention_backward
