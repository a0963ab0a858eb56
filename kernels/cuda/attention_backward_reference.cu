// The gradients of attention as they are written down, for f32, f16 and bf16 operands and gradients in any strides: a warp
// for each key or each query row, row after row or key after key, lanes along the head dim, all in f32 on CUDA cores. What
// the fast kernels are held against on a card, and what f32 operands run on.
//
// Order of each output: the other side from left to right, for keys head after head of their group; a score and its gradient
// are the lanes' sums along the head dim, then across lanes by halves.
#pragma once

#include "cuda/tile/gradients.h"

namespace attention_backward_reference {

using namespace attention_backward;

// D: the most columns of Q, K and V.
template <u32 D>
struct Shape {
    static constexpr u32 ROWS = 16, CHUNK = 64, THREADS = ROWS * LANES, SHARED_BYTES = 0, COLUMNS = D / LANES;
    // Of the state of a tile: two rows of sums for each of its own.
    static constexpr u32 STATE_BYTES = ROWS * 2 * D * 4;
};

// Columns of a row that a lane has.
template <class S>
struct Columns {
    f32 v[S::COLUMNS] = {};

    static DEVICE_MEMBER u32 column(u32 i) { return i * LANES + thread_index() % LANES; }

    // Zeros past the end.
    DEVICE_MEMBER void load(const Heads& x, u64 at, u32 columns) {
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            const u64 of = at + (u64)((i64)column(i) * x.column * (i64)width_of(x.dtype));
            v[i] = column(i) < columns ? load_as(x.dtype, of) : 0.0f;
        }
    }

    DEVICE_MEMBER void store(const Heads& x, u64 at, u32 columns, f32 scale) const {
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            if (column(i) < columns) {
                store_as(x.dtype, at + (u64)((i64)column(i) * x.column * (i64)width_of(x.dtype)), scale * v[i]);
            }
        }
    }

    DEVICE_MEMBER void add(f32 factor, const Columns& x) {
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            v[i] = fma(factor, x.v[i], v[i]);
        }
    }

    DEVICE_MEMBER f32 dot(const Columns& x) const {
        f32 sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            sum = fma(v[i], x.v[i], sum);
        }
#pragma unroll
        for (u32 far = LANES / 2; far > 0; far /= 2) {
            sum += f32_of_bits(shuffle_xor(bits_of(sum), far));
        }
        return sum;
    }

    // What a cut tile carries: the same column of all lanes together.
    DEVICE_MEMBER void begin(u64 at) {
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            v[i] = load_global_f32(at + column(i) * 4);
        }
    }

    DEVICE_MEMBER void keep(u64 at) const {
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            store_global_f32(at + column(i) * 4, v[i]);
        }
    }
};

// A query row and a key: what the row gives of its output and its gradient, and what the key has; then the weight of the key,
// and the gradient of their scaled product.
template <class S>
struct Pair {
    Columns<S> q, d_out, k, v;
    f32 weight, slope;

    DEVICE_MEMBER void load_row(const AttentionBackwardArgs& args, const Tile& tile, u64 head, u32 row) {
        q.load(args.q, row_of(args.q, tile.batch, head, tile.first_row + row), args.d);
        d_out.load(args.d_out, row_of(args.d_out, tile.batch, head, tile.first_row + row), args.dv);
    }

    DEVICE_MEMBER void load_key(const AttentionBackwardArgs& args, const Tile& tile, u64 kv_head, u32 key) {
        k.load(args.k, row_of(args.k, tile.batch, kv_head, tile.first_key + key), args.d);
        v.load(args.v, row_of(args.v, tile.batch, kv_head, tile.first_key + key), args.dv);
    }

    DEVICE_MEMBER void weigh(const AttentionBackwardArgs& args, const Tile& tile, u32 head, u32 row, u32 key, f32 log_sum_exp,
                             f32 mean) {
        f32 score = args.scale * q.dot(k), growth = 1.0f;
        if (args.softcap > 0.0f) {
            const f32 part = tanh_of(divided(score, args.softcap));
            score = args.softcap * part;
            growth = 1.0f - part * part;
        }
        if (args.alibi != 0) {
            const i32 distance = distance_of(tile, row, key);
            const f32 slope = load_global_f32(args.alibi + (u64)((i64)head * args.alibi_step * 4));
            score -= slope * (f32)(distance < 0 ? -distance : distance);
        }
        if (args.mask.present) {
            const Heads& x = args.mask;
            const u64 at = row_of(x, tile.batch, head, row) + (u64)((i64)key * x.column * (i64)width_of(x.dtype));
            score += load_as(x.dtype, at);
        }
        weight = sees_nothing(log_sum_exp) ? 0.0f : exp_of(score - log_sum_exp);
        slope = weight * (d_out.dot(v) - mean) * growth;
    }
};

// Where the sums of a warp of a cut tile lie.
template <class S>
DEVICE u64 carried(const AttentionBackwardArgs& args, u32 r, u32 which) {
    return args.state + (u64)block_index() * S::STATE_BYTES + (r * 2 + which) * S::COLUMNS * LANES * 4;
}

// Gradients of a tile of keys and values.
template <class S>
DEVICE void run_keys(const AttentionBackwardArgs& args) {
    const u32 r = thread_index() / LANES;
    const Tile tile = tile_of<S::ROWS, true>(args, args.first_tile + block_index());
    const u32 key = tile.first + r;
    if (key >= tile.end) {
        return;
    }
    Pair<S> pair;
    if (key < tile.keys) {
        pair.load_key(args, tile, tile.head, key);
    }
    Columns<S> d_k, d_v;
    if (args.from > 0) {
        d_k.begin(carried<S>(args, r, 0));
        d_v.begin(carried<S>(args, r, 1));
    }
    for (RowWalk<S::ROWS, S::CHUNK> walk(args, tile); walk.is(); walk.next()) {
        const u32 head = tile.head * args.group + walk.head;
        const u32 end = tile.rows - walk.row() < S::CHUNK ? tile.rows : walk.row() + S::CHUNK;
        for (u32 row = walk.row(); row < end; row++) {
            if (key >= tile.keys || !sees(args, distance_of(tile, row, key))) {
                continue;
            }
            pair.load_row(args, tile, head, row);
            const f32 log_sum_exp = load_global_f32(row_of(args.lse, tile.batch, head, tile.first_row + row));
            const f32 mean = load_global_f32(statistics_of(args, tile, head, true, row));
            pair.weigh(args, tile, head, row, key, log_sum_exp, mean);
            d_v.add(pair.weight, pair.d_out);
            d_k.add(pair.slope, pair.q);
        }
    }
    if (!args.last) {
        d_k.keep(carried<S>(args, r, 0));
        d_v.keep(carried<S>(args, r, 1));
        return;
    }
    const u32 of_all = tile.first_key + key;
    d_k.store(args.d_k, row_of(args.d_k, tile.batch, tile.head, of_all), args.d, args.scale);
    d_v.store(args.d_v, row_of(args.d_v, tile.batch, tile.head, of_all), args.dv, 1.0f);
}

// Gradients of a tile of query rows.
template <class S>
DEVICE void run_queries(const AttentionBackwardArgs& args) {
    const u32 r = thread_index() / LANES;
    const Tile tile = tile_of<S::ROWS, false>(args, args.first_tile + block_index());
    const u32 row = tile.first + r, of_all = tile.first_row + row;
    if (row >= tile.end) {
        return;
    }
    Pair<S> pair;
    pair.load_row(args, tile, tile.head, row);
    const f32 log_sum_exp = load_global_f32(row_of(args.lse, tile.batch, tile.head, of_all));
    const f32 mean = load_global_f32(statistics_of(args, tile, tile.head, true, row));
    Columns<S> d_q;
    if (args.from > 0) {
        d_q.begin(carried<S>(args, r, 0));
    }
    const KeyRange<S::ROWS, S::CHUNK> keys(args, tile);
    for (u32 key = keys.from; key < keys.to; key++) {
        if (!sees(args, distance_of(tile, row, key))) {
            continue;
        }
        pair.load_key(args, tile, tile.head / args.group, key);
        pair.weigh(args, tile, tile.head, row, key, log_sum_exp, mean);
        d_q.add(pair.slope, pair.k);
    }
    if (!args.last) {
        return d_q.keep(carried<S>(args, r, 0));
    }
    d_q.store(args.d_q, row_of(args.d_q, tile.batch, tile.head, of_all), args.d, args.scale);
}

}  // namespace attention_backward_reference
