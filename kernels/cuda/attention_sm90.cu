// Attention forward on Hopper: a thread brings keys and values by the copy engine into two rings, two warpgroups of 64 rows
// each score by wgmma, weigh in registers and add values by wgmma whose left side never leaves them. Rows are the query
// heads of a key head for each query, so that grouped heads share what is brought. For f16 and bf16, head dims of 64 and 128.
//
// Order of each output: keys in chunks of CHUNK from left to right; within one, wgmma after wgmma along the head dim for
// scores, and along the keys for values, in f32; sums of weights by lanes, then across four of them.
#pragma once

#include "cuda/attention.h"
#include "cuda/tile/descriptor.h"
#include "cuda/tile/element.h"
#include "cuda/tile/functions.h"

// The launch, and the maps of keys and values: dense axis, rows, heads, batch.
struct AttentionSm90Args {
    TensorMap k, v;
    AttentionArgs attention;
    u32 padding[24];
};

static_assert(sizeof(AttentionSm90Args) == 768, "as in kernels/src/attention.rs");

namespace attention_sm90 {

constexpr u32 ELEMENT = 2;
constexpr u32 SPAN = descriptor::ROW / ELEMENT;
constexpr u32 WARPGROUP = 128;
constexpr u32 K_STEP = 16;
constexpr f32 LOG2_E = 1.44269504f;
// Below every score, and far enough from the least number that differences stay finite.
constexpr f32 LOWEST = -1.0e38f;

template <u32 D_, u32 DV_, u32 DTYPE_>
struct Shape {
    static constexpr u32 D = D_, DV = DV_, DTYPE = DTYPE_;
    static constexpr u32 CONSUMERS = 2, ROWS = 64 * CONSUMERS, CHUNK = 128, STAGES = 2;
    static constexpr u32 THREADS = (1 + CONSUMERS) * WARPGROUP;
    static constexpr u32 PRODUCER_REGISTERS = 24, CONSUMER_REGISTERS = 240;
    static_assert(PRODUCER_REGISTERS + CONSUMERS * CONSUMER_REGISTERS <= 65536 / WARPGROUP, "registers of a multiprocessor");
    static constexpr u32 Q_BYTES = ROWS * D * ELEMENT, K_BYTES = CHUNK * D * ELEMENT, V_BYTES = CHUNK * DV * ELEMENT;
    static constexpr u32 K_AT = Q_BYTES, V_AT = K_AT + STAGES * K_BYTES, BARRIERS = V_AT + STAGES * V_BYTES;
    static constexpr u32 SHARED_BYTES = BARRIERS + 4 * STAGES * 8;
    static_assert(SHARED_BYTES <= 227 * 1024, "shared memory of a block");
    static_assert(D % SPAN == 0 && DV % SPAN == 0, "whole rows of the swizzle");
};

// A ring of one operand: `KEYS`, or values.
template <class S, bool KEYS>
struct Ring {
    u32 base = shared_base();
    u32 stage = 0;
    u32 phase = 0;

    DEVICE_MEMBER u32 tile() const { return base + (KEYS ? S::K_AT + stage * S::K_BYTES : S::V_AT + stage * S::V_BYTES); }
    DEVICE_MEMBER u32 full() const { return base + S::BARRIERS + (KEYS ? 0 : S::STAGES * 16) + stage * 16; }
    DEVICE_MEMBER u32 empty() const { return full() + 8; }
    DEVICE_MEMBER void next() {
        stage++;
        if (stage == S::STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

// A tile: whose rows, and which of them. `low` and `high` bound the keys that any of its rows sees.
struct Tile {
    u32 batch, kv_head, first_row, first_key, keys, rows;
    // First packed row among those of the entry, and their number.
    u32 row, packed_rows;
    u32 low, high;
};

DEVICE u32 load_entry(const AttentionArgs& args, u32 entry, u32 field) {
    return load_global_u32(args.entries + ((u64)(args.alike ? 0 : entry) * 5 + field) * 4);
}

template <class S>
DEVICE Tile tile_of(const AttentionArgs& args, u64 number) {
    const u32 inside = (u32)(number % args.tiles_per_head);
    const u64 rest = number / args.tiles_per_head;
    Tile t;
    t.kv_head = (u32)(rest % args.kv_heads);
    u32 entry = (u32)(rest / args.kv_heads);
    if (args.packed) {
        // The last entry that begins at this tile or before.
        u32 low = 0, high = args.entry_count;
        while (high - low > 1) {
            const u32 middle = (low + high) / 2;
            if (load_entry(args, middle, 4) <= inside) {
                low = middle;
            } else {
                high = middle;
            }
        }
        entry = low;
    }
    t.batch = args.packed ? 0 : entry;
    t.first_row = load_entry(args, entry, 0);
    t.rows = load_entry(args, entry, 1);
    t.first_key = load_entry(args, entry, 2);
    t.keys = load_entry(args, entry, 3);
    t.packed_rows = t.rows * args.group;
    t.row = (inside - (args.packed ? load_entry(args, entry, 4) : 0)) * S::ROWS;
    if (t.row >= t.packed_rows) {
        t.low = t.high = 0;
        return t;
    }
    // A row stands at `row + keys - rows` among the keys.
    const u32 last = (t.row + S::ROWS < t.packed_rows ? t.row + S::ROWS : t.packed_rows) - 1;
    const i64 first_at = (i64)(t.row / args.group) + t.keys - t.rows, last_at = (i64)(last / args.group) + t.keys - t.rows;
    const i64 low = first_at - args.left, high = last_at + args.right + 1;
    t.low = low > 0 ? (u32)(low < t.keys ? low : t.keys) : 0;
    t.high = high > 0 ? (u32)(high < t.keys ? high : t.keys) : 0;
    return t;
}

// Calls with the first key of every chunk of the launch that any row of the tile sees.
template <class S, class F>
DEVICE void each_chunk(const AttentionArgs& args, const Tile& tile, F f) {
    const u32 low = tile.low > args.key_from ? tile.low : args.key_from;
    const u32 high = tile.high < args.key_to ? tile.high : args.key_to;
    for (u32 key = low / S::CHUNK * S::CHUNK; key < high; key += S::CHUNK) {
        f(key);
    }
}

template <class S, u32 COLUMNS>
DEVICE void bring(const TensorMap& map, u32 to, u32 barrier, const Tile& tile, u32 key) {
#pragma unroll
    for (u32 i = 0; i < COLUMNS / SPAN; i++) {
        const i32 at[5] = {(i32)(i * SPAN), (i32)(tile.first_key + key), (i32)tile.kv_head, (i32)tile.batch, 0};
        copy_box(to + i * S::CHUNK * descriptor::ROW, map, barrier, at);
    }
}

template <class S>
DEVICE void produce(const AttentionSm90Args& all) {
    const AttentionArgs& args = all.attention;
    Ring<S, true> keys;
    Ring<S, false> values;
    for (u64 i = block_index(); i < args.tiles; i += block_count()) {
        const Tile tile = tile_of<S>(args, args.first_tile + i);
        each_chunk<S>(args, tile, [&](u32 key) {
            // Every consumer warp has left this stage; a new ring passes.
            wait_barrier(keys.empty(), keys.phase ^ 1);
            arrive_expecting(keys.full(), S::K_BYTES);
            bring<S, S::D>(all.k, keys.tile(), keys.full(), tile, key);
            keys.next();
            wait_barrier(values.empty(), values.phase ^ 1);
            arrive_expecting(values.full(), S::V_BYTES);
            bring<S, S::DV>(all.v, values.tile(), values.full(), tile, key);
            values.next();
        });
    }
}

template <class S>
struct Consumer {
    static constexpr u32 SCORES = S::CHUNK / 2, SUMS = S::DV / 2;

    const AttentionArgs& args;
    const Tile& tile;
    f32 scores[SCORES];
    f32 sums[SUMS];
    // Of the two rows of this thread: the largest score in base 2, and the sum of weights of this lane.
    f32 largest[2], total[2];
    // Which consumer this warpgroup is, and this thread of it.
    u32 number, thread = thread_index() % WARPGROUP;

    DEVICE_MEMBER Consumer(const AttentionArgs& a, const Tile& t, u32 n) : args(a), tile(t), number(n) {}

    // The warpgroup's threads wait for each other: barriers have literal numbers, so that the block keeps only these.
    DEVICE_MEMBER void meet() const {
        if (number == 0) {
            sync_threads<1, WARPGROUP>();
        } else {
            sync_threads<2, WARPGROUP>();
        }
    }

    // Packed row of a half (0 or 1) among the entry's, its query and head, and where it stands among the keys.
    DEVICE_MEMBER u32 packed(u32 half) const { return tile.row + 64 * number + fragment::wgmma_row(thread, 2 * half); }
    DEVICE_MEMBER u32 query(u32 row) const { return tile.first_row + row / args.group; }
    DEVICE_MEMBER u32 head(u32 row) const { return tile.kv_head * args.group + row % args.group; }
    DEVICE_MEMBER i32 position(u32 row) const { return (i32)(row / args.group + tile.keys - tile.rows); }

    // The rows of Q into shared memory, swizzled; zeros past the last. 16 bytes at a time.
    DEVICE_MEMBER void load_queries() const {
        constexpr u32 CHUNKS = S::D / 8;
        for (u32 i = thread; i < 64 * CHUNKS; i += WARPGROUP) {
            const u32 r = i / CHUNKS, c = i % CHUNKS, row = tile.row + 64 * number + r;
            u32x4 v = {0, 0, 0, 0};
            if (row < tile.packed_rows) {
                const i64 offset = (i64)tile.batch * args.q.batch + (i64)head(row) * args.q.head +
                                   (i64)query(row) * args.q.row + (i64)(c * 8) * args.q.column;
                v = load_global_u32x4(args.q.at + (u64)(offset * ELEMENT));
            }
            const u32 at = shared_base() + c / 8 * S::ROWS * descriptor::ROW + (64 * number + r) * descriptor::ROW + c % 8 * 16;
            store_shared(at ^ (at >> 7 & 7) << 4, v);
        }
        // wgmma reads them, after everybody of the warpgroup has written.
        fence_async();
        meet();
    }

    DEVICE_MEMBER void score(u32 keys) {
        wgmma_fence();
#pragma unroll
        for (u32 d = 0; d < S::D; d += K_STEP) {
            const u32 block = d / SPAN, inside = d % SPAN * ELEMENT;
            const u64 a = descriptor::of(shared_base() + (block * S::ROWS + 64 * number) * descriptor::ROW + inside, 0);
            const u64 b = descriptor::of(keys + block * S::CHUNK * descriptor::ROW + inside, 0);
            if constexpr (S::DTYPE == BF16) {
                wgmma_bf16<false, false>(scores, a, b);
            } else {
                wgmma_f16<false, false>(scores, a, b);
            }
        }
        wgmma_commit();
    }

    DEVICE_MEMBER void add_values(const u32 (&weights)[S::CHUNK / K_STEP][4], u32 values) {
        wgmma_fence();
#pragma unroll
        for (u32 k = 0; k < S::CHUNK; k += K_STEP) {
            const u64 b = descriptor::of(values + k * descriptor::ROW, S::CHUNK * descriptor::ROW);
            if constexpr (S::DTYPE == BF16) {
                wgmma_bf16_from_registers<true>(sums, weights[k / K_STEP], b);
            } else {
                wgmma_f16_from_registers<true>(sums, weights[k / K_STEP], b);
            }
        }
        wgmma_commit();
    }

    // Calls with half, column and score of every score of this thread.
    template <class F>
    DEVICE_MEMBER void each_score(F f) {
#pragma unroll
        for (u32 i = 0; i < SCORES; i++) {
            f(i / 2 % 2, fragment::wgmma_column(thread, i), scores[i]);
        }
    }

    // Scores of a chunk in base 2: options first, then what a row does not see. One pass for each, so that none pays for
    // what it does not ask.
    DEVICE_MEMBER void adjust(u32 key) {
        // tanh x = 1 - 2 / (e^2x + 1); its error near 0 is absolute, which is what an exponent feels.
        const f32 factor = args.scale * LOG2_E * (args.softcap > 0.0f ? 2.0f * reciprocal(args.softcap) : 1.0f);
        each_score([&](u32, u32, f32& s) { s *= factor; });
        if (args.softcap > 0.0f) {
            const f32 cap = args.softcap * LOG2_E;
            each_score([&](u32, u32, f32& s) { s = cap - 2.0f * cap * reciprocal(exp2_of(s) + 1.0f); });
        }
        const i32 here[2] = {position(packed(0)) - (i32)key, position(packed(1)) - (i32)key};
        if (args.alibi != 0) {
            const f32 slopes[2] = {slope(packed(0)), slope(packed(1))};
            each_score([&](u32 half, u32 column, f32& s) {
                const i32 far = here[half] - (i32)column;
                s -= slopes[half] * (f32)(far < 0 ? -far : far);
            });
        }
        if (args.mask.present) {
            switch (args.mask.dtype) {
            case F16: add_mask<F16>(key); break;
            case BF16: add_mask<BF16>(key); break;
            default: add_mask<F32>(key);
            }
        }
        if (key + S::CHUNK <= tile.keys && sees_all(key)) {
            return;
        }
        // Keys of the chunk that each half sees.
        u32 low[2], high[2];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const i64 first = (i64)here[half] - args.left, end = (i64)here[half] + args.right + 1;
            const i64 keys = (i64)tile.keys - key;
            low[half] = first > 0 ? (u32)first : 0;
            high[half] = (u32)(end < 0 ? 0 : end < keys ? end : keys);
        }
        each_score([&](u32 half, u32 column, f32& s) { s = column >= low[half] && column < high[half] ? s : 2.0f * LOWEST; });
    }

    DEVICE_MEMBER f32 slope(u32 row) const {
        return row < tile.packed_rows ? LOG2_E * load_global_f32(args.alibi + (u64)((i64)head(row) * args.alibi_step * 4)) : 0.0f;
    }

    template <u32 MASK>
    DEVICE_MEMBER void add_mask(u32 key) {
        const u64 at[2] = {address(args.mask, packed(0), key), address(args.mask, packed(1), key)};
        const i64 step = args.mask.column * (i64)width_of(MASK);
        // Columns of the mask: none for rows past the last.
        const u32 keys = tile.keys - key;
        const u32 end[2] = {packed(0) < tile.packed_rows ? keys : 0, packed(1) < tile.packed_rows ? keys : 0};
        each_score([&](u32 half, u32 column, f32& s) {
            if (column < end[half]) {
                s = clamped(fma(LOG2_E, load_as(MASK, at[half] + (u64)(column * step)), s), 2.0f * LOWEST, -2.0f * LOWEST);
            }
        });
    }

    // Whether every row of this warpgroup sees the whole chunk.
    DEVICE_MEMBER bool sees_all(u32 key) const {
        const u32 first = tile.row + 64 * number;
        return (i64)key + args.left >= position(first + 63) && (i64)key + S::CHUNK - 1 <= (i64)position(first) + args.right;
    }

    DEVICE_MEMBER u64 address(const Heads& x, u32 row, u32 column) const {
        const i64 offset = (i64)tile.batch * x.batch + (i64)head(row) * x.head + (i64)query(row) * x.row + (i64)column * x.column;
        return x.at + (u64)(offset * (i64)width_of(x.dtype));
    }

    // One step of the online softmax: scores become weights, sums are scaled to the new maximum.
    DEVICE_MEMBER void weigh(u32 (&weights)[S::CHUNK / K_STEP][4]) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            f32 top = largest[half];
#pragma unroll
            for (u32 i = 0; i < SCORES; i++) {
                if (i / 2 % 2 == half) {
                    top = top > scores[i] ? top : scores[i];
                }
            }
            top = larger(top, f32_of_bits(shuffle_xor(bits_of(top), 1)));
            top = larger(top, f32_of_bits(shuffle_xor(bits_of(top), 2)));
            const f32 shrink = exp2_of(largest[half] - top);
            largest[half] = top;
            total[half] *= shrink;
#pragma unroll
            for (u32 i = 0; i < SUMS; i++) {
                if (i / 2 % 2 == half) {
                    sums[i] *= shrink;
                }
            }
#pragma unroll
            for (u32 i = 0; i < SCORES; i++) {
                if (i / 2 % 2 == half) {
                    scores[i] = exp2_of(scores[i] - top);
                    total[half] += scores[i];
                }
            }
        }
#pragma unroll
        for (u32 i = 0; i < SCORES; i += 2) {
            weights[i / 8][i % 8 / 2] = S::DTYPE == BF16 ? bf16_pair(scores[i], scores[i + 1]) : f16_pair(scores[i], scores[i + 1]);
        }
    }

    static DEVICE_MEMBER f32 larger(f32 a, f32 b) { return a > b ? a : b; }

    DEVICE_MEMBER void run(Ring<S, true>& keys, Ring<S, false>& values) {
        load_queries();
        each_chunk<S>(args, tile, [&](u32 key) {
            zero(scores);
            // The keys are here.
            wait_barrier(keys.full(), keys.phase);
            score(keys.tile());
            wgmma_wait<0>();
            release(keys.empty());
            keys.next();
            adjust(key);
            u32 weights[S::CHUNK / K_STEP][4];
            weigh(weights);
            // The values are here.
            wait_barrier(values.full(), values.phase);
            add_values(weights, values.tile());
            wgmma_wait<0>();
            release(values.empty());
            values.next();
        });
        // Q is read no more once everybody of the warpgroup is here.
        meet();
    }

    template <u32 N>
    static DEVICE_MEMBER void zero(f32 (&list)[N]) {
#pragma unroll
        for (f32& x : list) {
            x = 0.0f;
        }
    }

    DEVICE_MEMBER void release(u32 empty) const {
        if (thread % 32 == 0) {
            arrive(empty);
        }
    }

    // Where a cut tile's numbers lie: the same register of all threads together.
    DEVICE_MEMBER u64 carried(u32 i) const {
        return args.state + (u64)((i * S::CONSUMERS + number) * WARPGROUP + thread) * 4;
    }

    DEVICE_MEMBER void begin() {
        const bool goes_on = args.key_from > 0;
#pragma unroll
        for (u32 i = 0; i < SUMS; i++) {
            sums[i] = load_global_f32_if(goes_on, carried(i));
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            largest[half] = goes_on ? load_global_f32(carried(SUMS + half)) : LOWEST;
            total[half] = goes_on ? load_global_f32(carried(SUMS + 2 + half)) : 0.0f;
        }
    }

    DEVICE_MEMBER void keep() const {
#pragma unroll
        for (u32 i = 0; i < SUMS; i++) {
            store_global_f32(carried(i), sums[i]);
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            store_global_f32(carried(SUMS + half), largest[half]);
            store_global_f32(carried(SUMS + 2 + half), total[half]);
        }
    }

    // Divides by the sums of weights, the sink's among them, and writes. A row that sees nothing is 0.
    DEVICE_MEMBER void finish() {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            f32 sum = total[half];
            sum += f32_of_bits(shuffle_xor(bits_of(sum), 1));
            sum += f32_of_bits(shuffle_xor(bits_of(sum), 2));
            const u32 row = packed(half);
            const bool is = row < tile.packed_rows;
            f32 top = largest[half], shrink = 1.0f;
            if (is && args.sinks != 0) {
                const f32 sink = clamped(load_global_f32(args.sinks + (u64)((i64)head(row) * args.sinks_step * 4)) * LOG2_E,
                                         2.0f * LOWEST, -2.0f * LOWEST);
                const f32 with = larger(top, sink);
                shrink = exp2_of(top - with);
                sum = sum * shrink + exp2_of(sink - with);
                top = with;
            }
            const bool any = sum > 0.0f && top > LOWEST;
            const f32 factor = any ? shrink * quotient(1.0f, sum) : 0.0f;
            if (is) {
#pragma unroll
                for (u32 i = 0; i < SUMS; i++) {
                    if (i / 2 % 2 == half) {
                        sums[i] *= factor;
                    }
                }
                switch (args.out.dtype) {
                case F16: write<F16>(half, row); break;
                case BF16: write<BF16>(half, row); break;
                default: write<F32>(half, row);
                }
                if (args.lse.present && thread % 4 == 0) {
                    const f32 lse = any ? (top + log2_of(sum)) * 0.693147181f : f32_of_bits(0xff800000u);
                    store_as(args.lse.dtype, address(args.lse, row, 0), lse);
                }
            }
        }
    }

    template <u32 OUT>
    DEVICE_MEMBER void write(u32 half, u32 row) const {
        const u64 at = address(args.out, row, 0);
#pragma unroll
        for (u32 i = 0; i < SUMS; i++) {
            if (i / 2 % 2 == half) {
                store_as(OUT, at + (u64)((i64)fragment::wgmma_column(thread, i) * args.out.column * (i64)width_of(OUT)), sums[i]);
            }
        }
    }
};

template <class S>
DEVICE void consume(const AttentionArgs& args, u32 number) {
    Ring<S, true> keys;
    Ring<S, false> values;
    for (u64 i = block_index(); i < args.tiles; i += block_count()) {
        const Tile tile = tile_of<S>(args, args.first_tile + i);
        Consumer<S> consumer(args, tile, number);
        consumer.begin();
        consumer.run(keys, values);
        if (args.last) {
            consumer.finish();
        } else {
            consumer.keep();
        }
    }
}

template <class S>
DEVICE void run(const AttentionSm90Args& all) {
    const u32 warpgroup = first_lane(thread_index() / WARPGROUP);
    if (thread_index() == 0) {
        Ring<S, true> keys;
        Ring<S, false> values;
        for (u32 i = 0; i < S::STAGES; i++, keys.next(), values.next()) {
            init_barrier(keys.full(), 1);
            init_barrier(values.full(), 1);
            init_barrier(keys.empty(), S::CONSUMERS * WARPGROUP / 32);
            init_barrier(values.empty(), S::CONSUMERS * WARPGROUP / 32);
        }
        fence_barriers();
    }
    // The barriers are there.
    sync_block();
    if (warpgroup == 0) {
        give_registers<S::PRODUCER_REGISTERS>();
        if (first_lane(thread_index() / 32) == 0 && elected()) {
            produce<S>(all);
        }
    } else {
        take_registers<S::CONSUMER_REGISTERS>();
        consume<S>(all.attention, warpgroup - 1);
    }
}

}  // namespace attention_sm90
