// The gradients of attention on Hopper, for f16 and bf16 and head dims up to the row's bucket: a thread brings all operands by
// the copy engine, two warpgroups of 64 own rows each multiply by wgmma. Two kernels, neither of which adds across blocks:
//
// - `run` of the keys' side: own rows are keys, whose K and V stay in shared memory, chunks are query rows with their d_out.
//   S^T = K Q^T and dP^T = V d_out^T have keys down, so that the weights P^T and the slopes dS^T of a thread are what wgmma
//   takes as its left side from registers: d_v += P^T d_out, d_k += dS^T Q.
// - of the queries' side: own rows are query rows and their d_out, chunks are keys with their values; d_q += dS K.
//
// Order of each sum: the other side from left to right, sixteen at a time by a wgmma, in f32, for keys head after head of the
// group; products along a head dim likewise. P and dS are rounded to the operands' type before they are multiplied. Finite
// operands only, as in `attention_backward`; boxes bring rows of other entries too, which may hold anything: own rows of those
// are not written, and those of chunks are cleared. Windows and lengths alone: no mask, no slopes, no soft cap.
#pragma once

#include "cuda/tile/gradients.h"
#include "cuda/tile/ring.h"
#include "cuda/tile/warpgroup_products.h"

// The launch, and the maps of the operands: dense axis, rows, heads, batch; and of what rows need: 32 numbers, their lines in
// a head, log-sum-exps or means, heads of all entries.
struct AttentionBackwardSm90Args {
    TensorMap q, k, v, d_out, statistics;
    AttentionBackwardArgs backward;
    u32 padding[8];
};

static_assert(sizeof(AttentionBackwardSm90Args) == 1280, "as in kernels/src/attention_backward_sm90.rs");

namespace attention_backward_sm90 {

using namespace attention_backward;
using attention::K_STEP, attention::SPAN;

constexpr u32 ELEMENT = 2;
// Rows of every operand's box, and of a warpgroup.
constexpr u32 BOX = 64;

template <bool KEYS_, u32 D_, u32 CHUNK_, u32 DTYPE_>
struct Shape {
    static constexpr bool KEYS = KEYS_;
    static constexpr u32 D = D_, CHUNK = CHUNK_, DTYPE = DTYPE_, STAGES = 3;
    static constexpr u32 CONSUMERS = 2, ROWS = BOX * CONSUMERS, SLOTS = CONSUMERS * WARPGROUP;
    using Warpgroups = ::Warpgroups<CONSUMERS, 24, 240>;
    static constexpr u32 THREADS = Warpgroups::THREADS, SCORES = CHUNK / 2, SUMS = D / 2, STEPS = CHUNK / K_STEP;
    // Whether the sums of a chunk may run into the next one's products: registers have room for what both read.
    static constexpr bool RUNS_ON = !KEYS || D <= 64;
    static constexpr u32 OWN_BYTES = ROWS * D * ELEMENT, CHUNK_BYTES = CHUNK * D * ELEMENT;
    // Of a chunk of query rows: a line of 128 bytes of 32 numbers, log-sum-exps first. The swizzle repeats after 1024.
    static constexpr u32 NUMBERS = KEYS ? 2 * CHUNK * 4 : 0;
    static constexpr u32 STAGE_BYTES = 2 * CHUNK_BYTES + (KEYS ? 1024 : 0), OWN_AT = STAGES * STAGE_BYTES;
    static constexpr u32 BARRIERS = OWN_AT + 2 * OWN_BYTES, OWN_BARRIERS = BARRIERS + STAGES * 16;
    static constexpr u32 SHARED_BYTES = OWN_BARRIERS + 16;
    // Of the state of a tile: every sum of every thread.
    static constexpr u32 STATE_BYTES = (KEYS ? 2 : 1) * SUMS * SLOTS * 4;
    static_assert(SHARED_BYTES <= SHARED_MOST, "shared memory of a block");
    static_assert(D % SPAN == 0 && CHUNK % BOX == 0, "whole boxes");
    static_assert(!KEYS || CHUNK == BOX, "the numbers of a chunk are a box");

    // The ring of chunks, and the one stage that is a tile's own rows.
    using Chunks = Ring<STAGES, STAGE_BYTES, BARRIERS>;
    using Own = Ring<1, 0, OWN_BARRIERS>;
};

// The chunks that a tile of keys meets: query rows, head after head.
template <class S, bool KEYS = S::KEYS>
struct Walk : RowWalk<S::ROWS, S::CHUNK> {
    u64 first_head;

    DEVICE_MEMBER Walk(const AttentionBackwardArgs& args, const Tile& tile)
        : RowWalk<S::ROWS, S::CHUNK>(args, tile), first_head(tile.head * args.group) {}
    DEVICE_MEMBER u64 head_of_all() const { return first_head + this->head; }
};

// Those that a tile of query rows meets: keys.
template <class S>
struct Walk<S, false> : KeyRange<S::ROWS, S::CHUNK> {
    u64 kv_head;

    DEVICE_MEMBER Walk(const AttentionBackwardArgs& args, const Tile& tile)
        : KeyRange<S::ROWS, S::CHUNK>(args, tile), kv_head(tile.head / args.group) {}
    DEVICE_MEMBER bool is() const { return this->from < this->to; }
    DEVICE_MEMBER u32 row() const { return this->from; }
    DEVICE_MEMBER void next() { this->from += S::CHUNK; }
    DEVICE_MEMBER u64 head_of_all() const { return kv_head; }
};

// ROWS rows of a head: blocks of 64 columns, one behind the other. Zeros past the last row and column.
template <class S, u32 ROWS>
DEVICE void bring_rows(const TensorMap& map, u32 to, u32 barrier, u64 batch, u64 head, u32 row) {
#pragma unroll
    for (u32 block = 0; block < S::D / SPAN; block++) {
#pragma unroll
        for (u32 r = 0; r < ROWS; r += BOX) {
            const i32 at[5] = {(i32)(block * SPAN), (i32)(row + r), (i32)head, (i32)batch, 0};
            copy_box(to + (block * ROWS + r) * descriptor::ROW, map, barrier, at);
        }
    }
}

// Zeros that are there before products begin: moves between those would make them wait for each other.
template <u32 N>
DEVICE void clear(f32 (&list)[N]) {
#pragma unroll
    for (f32& x : list) {
        x = f32_of_bits(anew(0));
    }
}

template <class S>
DEVICE void produce(const AttentionBackwardSm90Args& all) {
    const AttentionBackwardArgs& args = all.backward;
    typename S::Chunks chunks;
    typename S::Own own;
    const u32 own_at = chunks.base + S::OWN_AT;
    for (u64 i = block_index(); i < args.tiles; i += block_count()) {
        const Tile tile = tile_of<S::ROWS, S::KEYS>(args, args.first_tile + i);
        Walk<S> walk(args, tile);
        if (!walk.is()) {
            continue;
        }
        // Every consumer warp is done with the tile before; at first it passes, as new rings do.
        wait_barrier(own.empty(), own.phase ^ 1);
        arrive_expecting(own.full(), 2 * S::OWN_BYTES);
        const TensorMap &x = S::KEYS ? all.k : all.q, &y = S::KEYS ? all.v : all.d_out;
        const u32 first = (S::KEYS ? tile.first_key : tile.first_row) + tile.first;
        bring_rows<S, S::ROWS>(x, own_at, own.full(), tile.batch, tile.head, first);
        bring_rows<S, S::ROWS>(y, own_at + S::OWN_BYTES, own.full(), tile.batch, tile.head, first);
        own.next();
        for (; walk.is(); walk.next()) {
            const u64 head = walk.head_of_all();
            const u32 to = chunks.at(), full = chunks.full();
            // Every consumer warp has left this stage.
            wait_barrier(chunks.empty(), chunks.phase ^ 1);
            arrive_expecting(full, 2 * S::CHUNK_BYTES + S::NUMBERS);
            const u32 row = (S::KEYS ? tile.first_row : tile.first_key) + walk.row();
            bring_rows<S, S::CHUNK>(S::KEYS ? all.q : all.k, to, full, tile.batch, head, row);
            bring_rows<S, S::CHUNK>(S::KEYS ? all.d_out : all.v, to + S::CHUNK_BYTES, full, tile.batch, head, row);
            if constexpr (S::KEYS) {
                const u32 line = (tile.numbers + walk.row()) / 32, of_heads = tile.batch * query_heads(args) + head;
                const i32 at[5] = {0, (i32)line, 0, (i32)of_heads, 0};
                copy_box(to + 2 * S::CHUNK_BYTES, all.statistics, full, at);
            }
            chunks.next();
        }
    }
}

// A warpgroup's 64 rows of a tile.
template <class S>
struct Consumer {
    const AttentionBackwardArgs& args;
    const Tile& tile;
    // Which consumer this warpgroup is, and this thread of it; its first row.
    u32 number, thread = thread_index() % WARPGROUP, first;
    // Gradients of K or Q, and on the keys' side of V.
    f32 sums[S::SUMS], sums_of_values[S::SUMS];
    // Weights and slopes as they are multiplied.
    u32 weights[S::STEPS][4], slopes[S::STEPS][4];
    // Of the queries' side, of this thread's two rows.
    f32 log_sum_exp[2], mean[2];

    DEVICE_MEMBER Consumer(const AttentionBackwardArgs& a, const Tile& t, u32 n)
        : args(a), tile(t), number(n), first(t.first + BOX * n) {
        if constexpr (!S::KEYS) {
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const u32 row = first + row_of(2 * half);
                const bool is = row < tile.rows;
                log_sum_exp[half] = is ? load_global_f32(statistics_of(args, tile, tile.head, false, row)) : NOBODY;
                mean[half] = is ? load_global_f32(statistics_of(args, tile, tile.head, true, row)) : 0.0f;
            }
        }
    }

    // Row and column of a score or sum of this thread.
    DEVICE_MEMBER u32 row_of(u32 i) const { return fragment::wgmma_row(thread, i); }
    DEVICE_MEMBER u32 column_of(u32 i) const { return fragment::wgmma_column(thread, i); }

    // A number of the query row of a score's column: its line of 32, and where the swizzle put it in that.
    DEVICE_MEMBER f32 number_of(u32 chunk, bool means, u32 i) const {
        const u32 line = (means ? S::CHUNK / 32 : 0) + i / 16, place = (i / 4 % 4 * 32 ^ line / 2 * 32) + i % 2 * 4;
        const u32 of_lane = thread % 4 * 8 ^ line % 2 * 16;
        return load_shared_f32(chunk + of_lane + (2 * S::CHUNK_BYTES + line * descriptor::ROW + place));
    }

    // Zeros over the rows of a chunk, of both operands, that are not of the tile's entry. Both warpgroups together; the
    // numbers of such rows make weights of 0 by themselves.
    DEVICE_MEMBER void clear_others(u32 chunk, u32 row) const {
        const u32 count = S::KEYS ? tile.rows : tile.keys;
        if (args.entries == 0 || row + S::CHUNK <= count) {
            return;
        }
        attention::clear_rows<S::CHUNK, 2 * S::D / SPAN, S::SLOTS>(chunk, count - row, number * WARPGROUP + thread);
        // The zeros of both are there.
        sync_threads<1, S::SLOTS>();
    }

    // Starts the products of own rows and a chunk's, along the head dim.
    DEVICE_MEMBER void multiply(f32 (&products)[S::SCORES], u32 own, u32 chunk) const {
        attention::start_products<S::D, S::ROWS, S::CHUNK, S::DTYPE>(products, own + BOX * number * descriptor::ROW, chunk);
    }

    // Starts to add a chunk's rows by their factors.
    DEVICE_MEMBER void add(f32 (&to)[S::SUMS], const u32 (&factors)[S::STEPS][4], u32 chunk) const {
        attention::start_sums<S::CHUNK, S::DTYPE>(to, factors, chunk);
    }

    DEVICE_MEMBER void pack(u32 (&to)[S::STEPS][4], const f32 (&from)[S::SCORES]) const {
#pragma unroll
        for (u32 i = 0; i < S::SCORES; i += 2) {
            to[i / 8][i % 8 / 2] = S::DTYPE == BF16 ? bf16_pair(from[i], from[i + 1]) : f16_pair(from[i], from[i + 1]);
        }
    }

    // Scores become weights, those of a row and a key that it does not see 0; the chunk lies at `chunk` and begins with `row`.
    DEVICE_MEMBER void weigh(f32 (&scores)[S::SCORES], u32 chunk, u32 row) const {
        const f32 factor = args.scale * LOG2_E;
        if constexpr (S::KEYS) {
#pragma unroll
            for (u32 i = 0; i < S::SCORES; i += 4) {
                const f32 sum[2] = {number_of(chunk, false, i), number_of(chunk, false, i + 1)};
#pragma unroll
                for (u32 j = i; j < i + 4; j++) {
                    scores[j] = exp2_of(fma(scores[j], factor, -sum[j % 2]));
                }
            }
            const i32 far = distance_of(tile, row, first);
            if (!all_see<S::CHUNK, BOX>(args, far)) {
#pragma unroll
                for (u32 i = 0; i < S::SCORES; i++) {
                    scores[i] = sees(args, far + (i32)row_of(i) - (i32)column_of(i)) ? scores[i] : 0.0f;
                }
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < S::SCORES; i++) {
                scores[i] = exp2_of(fma(scores[i], factor, -log_sum_exp[i / 2 % 2]));
            }
            const i32 far = distance_of(tile, first, row);
            if (row + S::CHUNK <= tile.keys && all_see<BOX, S::CHUNK>(args, far)) {
                return;
            }
            // Keys of the chunk that the two rows see.
            Range seen[2];
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const i64 here = (i64)row_of(2 * half) - far;
                seen[half] = range_of(here - args.left, here + args.right + 1, tile.keys - row);
            }
#pragma unroll
            for (u32 i = 0; i < S::SCORES; i++) {
                const Range& of = seen[i / 2 % 2];
                scores[i] = column_of(i) >= of.from && column_of(i) < of.to ? scores[i] : 0.0f;
            }
        }
    }

    // Weights and their gradients become slopes: gradients of scores.
    DEVICE_MEMBER void slope(f32 (&scores)[S::SCORES], const f32 (&gradients)[S::SCORES], u32 chunk) const {
#pragma unroll
        for (u32 i = 0; i < S::SCORES; i += 4) {
            if constexpr (S::KEYS) {
                const f32 of[2] = {number_of(chunk, true, i), number_of(chunk, true, i + 1)};
#pragma unroll
                for (u32 j = i; j < i + 4; j++) {
                    scores[j] *= gradients[j] - of[j % 2];
                }
            } else {
#pragma unroll
                for (u32 j = i; j < i + 4; j++) {
                    scores[j] *= gradients[j] - mean[j / 2 % 2];
                }
            }
        }
    }

    // The chunks of the launch. Products of a chunk run while its weights are made.
    DEVICE_MEMBER void run(typename S::Chunks& chunks, typename S::Own& own) {
        Walk<S> walk(args, tile);
        if (!walk.is()) {
            return;
        }
        const u32 own_at = chunks.base + S::OWN_AT;
        // The own rows are here.
        wait_barrier(own.full(), own.phase);
        u32 last_empty = 0;
        for (; walk.is(); walk.next()) {
            const u32 chunk = chunks.at();
            f32 scores[S::SCORES], gradients[S::SCORES];
            clear(scores);
            clear(gradients);
            // The chunk is here.
            wait_barrier(chunks.full(), chunks.phase);
            clear_others(chunk, walk.row());
            multiply(scores, own_at, chunk);
            multiply(gradients, own_at + S::OWN_BYTES, chunk + S::CHUNK_BYTES);
            // The scores are there, and all sums of the chunk before.
            wgmma_wait<1>();
            if constexpr (S::RUNS_ON) {
                chunks.release(last_empty, last_empty != 0);
            }
            weigh(scores, chunk, walk.row());
            if constexpr (S::KEYS) {
                pack(weights, scores);
                add(sums_of_values, weights, chunk + S::CHUNK_BYTES);
                // The gradients of weights are there.
                wgmma_wait<1>();
            } else {
                wgmma_wait<0>();
            }
            slope(scores, gradients, chunk);
            pack(slopes, scores);
            add(sums, slopes, chunk);
            if constexpr (S::RUNS_ON) {
                last_empty = chunks.empty();
            } else {
                wgmma_wait<0>();
                chunks.release(chunks.empty());
            }
            chunks.next();
        }
        // All sums are there.
        wgmma_wait<0>();
        chunks.release(last_empty, last_empty != 0);
        own.release(own.empty());
        own.next();
    }

    // Where a cut tile's sums lie: the same register of all threads together.
    DEVICE_MEMBER u64 carried(u64 tile_number, u32 i) const {
        return args.state + tile_number * S::STATE_BYTES + (number * WARPGROUP + thread) * 4 + i * S::SLOTS * 4;
    }

    // What the launch before kept, where one was; `tile_number` counts in the launch.
    DEVICE_MEMBER void begin(u64 tile_number) {
#pragma unroll
        for (u32 i = 0; i < S::SUMS; i++) {
            sums[i] = load_global_f32_if(args.from > 0, carried(tile_number, i));
            if constexpr (S::KEYS) {
                sums_of_values[i] = load_global_f32_if(args.from > 0, carried(tile_number, S::SUMS + i));
            }
        }
    }

    DEVICE_MEMBER void keep(u64 tile_number) const {
#pragma unroll
        for (u32 i = 0; i < S::SUMS; i++) {
            store_global_f32(carried(tile_number, i), sums[i]);
            if constexpr (S::KEYS) {
                store_global_f32(carried(tile_number, S::SUMS + i), sums_of_values[i]);
            }
        }
    }

    // Sums become gradients, of rows that the entry does not have zeros, and are written.
    DEVICE_MEMBER void finish() {
        const u32 count = S::KEYS ? tile.keys : tile.rows;
        const bool is[2] = {first + row_of(0) < count, first + row_of(2) < count};
#pragma unroll
        for (u32 i = 0; i < S::SUMS; i++) {
            sums[i] = is[i / 2 % 2] ? args.scale * sums[i] : 0.0f;
            if constexpr (S::KEYS) {
                sums_of_values[i] = is[i / 2 % 2] ? sums_of_values[i] : 0.0f;
            }
        }
        if constexpr (S::KEYS) {
            write(args.d_k, sums, args.d);
            write(args.d_v, sums_of_values, args.dv);
        } else {
            write(args.d_q, sums, args.d);
        }
    }

    // Writes this warpgroup's rows of a gradient that has `columns`.
    DEVICE_MEMBER void write(const Heads& x, const f32 (&of)[S::SUMS], u32 columns) const {
        switch (x.dtype) {
        case F16: return write_as<F16>(x, of, columns);
        case BF16: return write_as<BF16>(x, of, columns);
        default: return write_as<F32>(x, of, columns);
        }
    }

    template <u32 OUT>
    DEVICE_MEMBER void write_as(const Heads& x, const f32 (&of)[S::SUMS], u32 columns) const {
        const u32 begin = S::KEYS ? tile.first_key : tile.first_row;
        const bool is_paired = attention::in_pairs<OUT>(x, columns);
        // Of the columns from this thread's first on.
        const i32 left = (i32)columns - (i32)column_of(0);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u32 row = first + row_of(2 * half);
            if (row >= tile.end) {
                continue;
            }
            const u64 to = attention_backward::row_of(x, tile.batch, tile.head, begin + row);
            if (is_paired) {
#pragma unroll
                for (u32 i = 2 * half; i < S::SUMS; i += 4) {
                    if ((i32)(i / 4 * 8) < left) {
                        attention::store_pair<OUT>(to + column_of(i) * width_of(OUT), of[i], of[i + 1]);
                    }
                }
                continue;
            }
#pragma unroll
            for (u32 i = 2 * half; i < S::SUMS; i += i % 2 == 0 ? 1 : 3) {
                if ((i32)(i / 4 * 8 + i % 2) < left) {
                    store_as(OUT, to + (u64)((i64)column_of(i) * x.column * (i64)width_of(OUT)), of[i]);
                }
            }
        }
    }
};

template <class S>
DEVICE void consume(const AttentionBackwardArgs& args, u32 number) {
    typename S::Chunks chunks;
    typename S::Own own;
    for (u64 i = block_index(); i < args.tiles; i += block_count()) {
        const Tile tile = tile_of<S::ROWS, S::KEYS>(args, args.first_tile + i);
        Consumer<S> consumer(args, tile, number);
        consumer.begin(i);
        consumer.run(chunks, own);
        if (args.last) {
            consumer.finish();
        } else {
            consumer.keep(i);
        }
    }
}

template <class S>
DEVICE void run(const AttentionBackwardSm90Args& all) {
    if (thread_index() == 0) {
        S::Chunks::init(S::SLOTS / LANES);
        S::Own::init(S::SLOTS / LANES);
    }
    // The barriers are there.
    sync_block();
    S::Warpgroups::run([&] { produce<S>(all); }, [&](u32 number) { consume<S>(all.backward, number); });
}

}  // namespace attention_backward_sm90
