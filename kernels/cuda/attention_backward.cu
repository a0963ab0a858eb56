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
#pragma once

#include "cuda/tile/gradients.h"
#include "cuda/tile/lines.h"
#include "cuda/tile/warp_products.h"

namespace attention_backward {

using attention::by_pieces, attention::bring, attention::K_STEP, attention::PIECE, attention::ELEMENT;

constexpr u32 STAGES = 2;

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

template <u32 D, u32 CHUNK, u32 BLOCKS, u32 DTYPE>
struct KeysShape : Sizes<D, CHUNK, BLOCKS, 8, DTYPE> {
    using S = Sizes<D, CHUNK, BLOCKS, 8, DTYPE>;
    static constexpr u32 PAIRS = S::WARPS / 2, ROWS = PAIRS * S::OWN, OWN_BYTES = ROWS * D * ELEMENT;
    // Query rows, their d_out, and two numbers of each.
    static constexpr u32 STAGE_BYTES = 2 * S::CHUNK_BYTES + 2 * CHUNK * 4;
    static constexpr u32 SHARED_BYTES = 2 * OWN_BYTES + STAGES * STAGE_BYTES;
    static_assert(CHUNK * 4 <= D * ELEMENT, "weights lie where a pair's keys lay");
};

template <u32 D, u32 CHUNK, u32 BLOCKS, u32 WARPS, u32 DTYPE>
struct QueriesShape : Sizes<D, CHUNK, BLOCKS, WARPS, DTYPE> {
    using S = Sizes<D, CHUNK, BLOCKS, WARPS, DTYPE>;
    static constexpr u32 ROWS = WARPS * S::OWN, OWN_BYTES = ROWS * D * ELEMENT;
    static constexpr u32 STAGE_BYTES = 2 * S::CHUNK_BYTES, SHARED_BYTES = 2 * OWN_BYTES + STAGES * STAGE_BYTES;
};

// Starts to bring COUNT rows of a head from `first` on, zeros past the last of `rows`.
template <class S, u32 COUNT>
DEVICE void bring_rows(u32 to, const Heads& x, u64 batch, u64 head, u32 first, u32 rows, u32 columns) {
    const u64 at = row_of(x, batch, head, first);
    const u32 count = rows - first;
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

    // Writes the rows from `first` on of a head, of `rows`.
    DEVICE_MEMBER void finish(const Heads& x, u64 batch, u64 head, u32 first, u32 rows, u32 columns, f32 scale) {
        switch (x.dtype) {
        case F16: return write<F16>(x, row_of(x, batch, head, first), rows - first, columns, scale);
        case BF16: return write<BF16>(x, row_of(x, batch, head, first), rows - first, columns, scale);
        default: write<F32>(x, row_of(x, batch, head, first), rows - first, columns, scale);
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

// A block of `run_keys`.
template <class S>
struct KeysBlock {
    const AttentionBackwardArgs& args;
    const Tile& tile;
    // The pair of warps, and whether this one makes the weights.
    u32 pair = thread_index() / LANES % S::PAIRS;
    bool weighs = thread_index() / LANES < S::PAIRS;
    Sums<S> sums;

    DEVICE_MEMBER KeysBlock(const AttentionBackwardArgs& a, const Tile& t) : args(a), tile(t) {}

    static DEVICE_MEMBER u32 rows_of(u32 stage) { return shared_base() + 2 * S::OWN_BYTES + stage * S::STAGE_BYTES; }
    static DEVICE_MEMBER u32 d_out_of(u32 stage) { return rows_of(stage) + S::CHUNK_BYTES; }
    static DEVICE_MEMBER u32 sums_of(u32 stage) { return d_out_of(stage) + S::CHUNK_BYTES; }
    static DEVICE_MEMBER u32 means_of(u32 stage) { return sums_of(stage) + S::CHUNK * 4; }

    // Starts to bring a chunk of query rows.
    DEVICE_MEMBER void bring_chunk(u32 stage, const RowWalk<S::CHUNK>& walk) const {
        const u64 head = tile.head * args.group + walk.head;
        const u32 row = walk.row();
        bring_rows<S, S::CHUNK>(rows_of(stage), args.q, tile.batch, head, row, args.rows, args.d);
        bring_rows<S, S::CHUNK>(d_out_of(stage), args.d_out, tile.batch, head, row, args.rows, args.dv);
        const u32 i = thread_index(), of = i % (S::CHUNK / 4) * 4;
        if (i < S::CHUNK / 2) {
            const bool means = i >= S::CHUNK / 4;
            copy_async16((means ? means_of(stage) : sums_of(stage)) + of * 4,
                         statistics_of(args, tile.batch, head, means, row + of), 16);
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

    // Scores become weights, those of rows that do not see the key 0, and are left for the other warp of the pair.
    DEVICE_MEMBER void weigh(f32 (&scores)[S::BLOCKS][S::SCORES], u32 stage, u32 row) const {
        const f32 factor = args.scale * LOG2_E;
        // Of a key and a row from the chunk's first on: the row sees it if it is not before this.
        const i32 far = (i32)(tile.first + first() + args.rows - args.keys - row);
        const bool sees_all = !args.causal || far + (i32)S::OWN - 1 <= 0;
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
        if (!sees_all) {
#pragma unroll
            for (u32 b = 0; b < S::BLOCKS; b++) {
#pragma unroll
                for (u32 i = 0; i < S::SCORES; i++) {
                    const bool sees = far + (i32)(row_of_score(i) + 16 * b) <= (i32)column_of_score(i);
                    scores[b][i] = sees ? scores[b][i] : 0.0f;
                }
            }
        }
#pragma unroll
        for (u32 b = 0; b < S::BLOCKS; b++) {
#pragma unroll
            for (u32 i = 0; i < S::SCORES; i += 4) {
                const f32(&w)[S::SCORES] = scores[b];
                store_shared(weights_at(b * S::SCORES + i), {bits_of(w[i]), bits_of(w[i + 1]), bits_of(w[i + 2]), bits_of(w[i + 3])});
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
    DEVICE_MEMBER void run() {
        RowWalk<S::CHUNK> walk(args, tile.first);
        if (!walk.is()) {
            return;
        }
        bring_rows<S, S::ROWS>(shared_base(), args.k, tile.batch, tile.head, tile.first, args.keys, args.d);
        bring_rows<S, S::ROWS>(shared_base() + S::OWN_BYTES, args.v, tile.batch, tile.head, tile.first, args.keys, args.dv);
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
            const u32 row = walk.row();
            walk.next();
            if (walk.is()) {
                bring_chunk(stage ^ 1, walk);
            }
            f32 scores[S::BLOCKS][S::SCORES];
            multiply(scores, own, weighs ? rows_of(stage) : d_out_of(stage));
            if (weighs) {
                weigh(scores, stage, row);
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
        const u32 key = tile.first + first();
        if (key >= args.keys) {
            return;
        }
        if (weighs) {
            sums.finish(args.d_v, tile.batch, tile.head, key, args.keys, args.dv, 1.0f);
        } else {
            sums.finish(args.d_k, tile.batch, tile.head, key, args.keys, args.d, args.scale);
        }
    }
};

template <class S>
DEVICE void run_keys(const AttentionBackwardArgs& args) {
    const Tile tile = tile_of<S::ROWS, false>(args.first_tile + block_index(), args.keys, args.kv_heads);
    KeysBlock<S> block(args, tile);
    block.sums.begin(args);
    block.run();
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
    u64 kv_head;
    Sums<S> sums;

    DEVICE_MEMBER QueriesBlock(const AttentionBackwardArgs& a, const Tile& t) : args(a), tile(t), kv_head(t.head / a.group) {}

    static DEVICE_MEMBER u32 keys_of(u32 stage) { return shared_base() + 2 * S::OWN_BYTES + stage * S::STAGE_BYTES; }
    static DEVICE_MEMBER u32 values_of(u32 stage) { return keys_of(stage) + S::CHUNK_BYTES; }

    // The warp's first row in the tile.
    static DEVICE_MEMBER u32 first() { return thread_index() / LANES * S::OWN; }

    DEVICE_MEMBER void bring_chunk(u32 stage, u32 key) const {
        bring_rows<S, S::CHUNK>(keys_of(stage), args.k, tile.batch, kv_head, key, args.keys, args.d);
        bring_rows<S, S::CHUNK>(values_of(stage), args.v, tile.batch, kv_head, key, args.keys, args.dv);
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
            const bool is = row < args.room;
            n.sum[i] = is ? load_global_f32(statistics_of(args, tile.batch, tile.head, false, row)) : NOBODY;
            n.mean[i] = is ? load_global_f32(statistics_of(args, tile.batch, tile.head, true, row)) : 0.0f;
        }
        return n;
    }

    // Scores and gradients of weights become gradients of scores, of keys that a row does not see 0.
    DEVICE_MEMBER void slope(f32 (&scores)[S::BLOCKS][S::SCORES], const f32 (&gradients)[S::BLOCKS][S::SCORES], const Numbers& n,
                             u32 key) const {
        const f32 factor = args.scale * LOG2_E;
        const u32 row = tile.first + first();
#pragma unroll
        for (u32 b = 0; b < S::BLOCKS; b++) {
#pragma unroll
            for (u32 i = 0; i < S::SCORES; i++) {
                const u32 of = 2 * b + i / 2 % 2;
                scores[b][i] = exp2_of(fma(scores[b][i], factor, -n.sum[of])) * (gradients[b][i] - n.mean[of]);
            }
        }
        if (key + S::CHUNK <= seen_by(args, row)) {
            return;
        }
#pragma unroll
        for (u32 b = 0; b < S::BLOCKS; b++) {
            // Keys of the chunk that the two rows see.
            u32 end[2];
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const u32 seen = seen_by(args, row + 16 * b + row_of_score(2 * half));
                end[half] = seen > key ? seen - key : 0;
            }
#pragma unroll
            for (u32 i = 0; i < S::SCORES; i++) {
                scores[b][i] = column_of_score(i) < end[i / 2 % 2] ? scores[b][i] : 0.0f;
            }
        }
    }

    // The chunks of the launch. A stage is overwritten only after the barrier that follows its last use.
    DEVICE_MEMBER void run() {
        const u32 end = args.rows - tile.first < S::ROWS ? args.rows : tile.first + S::ROWS;
        const KeyRange<S::CHUNK> keys(args, end - 1);
        if (keys.from >= keys.to) {
            return;
        }
        const u32 d_outs = shared_base() + S::OWN_BYTES;
        bring_rows<S, S::ROWS>(shared_base(), args.q, tile.batch, tile.head, tile.first, args.rows, args.d);
        bring_rows<S, S::ROWS>(d_outs, args.d_out, tile.batch, tile.head, tile.first, args.rows, args.dv);
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
    const Tile tile = tile_of<S::ROWS, true>(args.first_tile + block_index(), args.rows, query_heads(args));
    QueriesBlock<S> block(args, tile);
    block.sums.begin(args);
    block.run();
    if (!args.last) {
        return block.sums.keep(args);
    }
    const u32 row = tile.first + block.first();
    if (row < args.rows) {
        block.sums.finish(args.d_q, tile.batch, tile.head, row, args.rows, args.d, args.scale);
    }
}

}  // namespace attention_backward
