// The online softmax of attention in the registers of a warp: sixteen packed rows, of which a thread holds two, the scores
// of a chunk of keys, and the sums of weighted values. wgmma and mma.sync leave their sums in the same places, so every
// attention kernel weighs here. What brings keys and multiplies is the kernel's own.
//
// Order of each row: its chunks as the kernel walks them; within one, weights summed by lanes from left to right. Across
// the four lanes of a row, weights are summed once at the end.
#pragma once

#include "cuda/tile/fragment.h"
#include "cuda/tile/functions.h"
#include "cuda/tile/queries.h"

namespace attention {

constexpr f32 LOG2_E = 1.44269504f;
constexpr f32 LN_2 = 0.693147181f;
// Below every score, and far enough from the least number that differences stay finite.
constexpr f32 LOWEST = -1.0e38f;
constexpr u32 K_STEP = 16;

template <u32 N>
DEVICE void zero(f32 (&list)[N]) {
#pragma unroll
    for (f32& x : list) {
        x = 0.0f;
    }
}

// What a row's end makes of its sums: their factor, and the logarithm of the sum of weights. A row that sees nothing is 0.
struct Last {
    f32 factor, log_sum_exp;
};

// Of the largest score in base 2 and the sum of weights; the sink is one weight more of an entry's rows, without a value.
DEVICE Last last_of(const AttentionArgs& args, const Tile& tile, u32 row, f32 top, f32 sum) {
    f32 shrink = 1.0f;
    if (args.sinks != 0 && is_owned(args, tile)) {
        const f32 sink = clamped(of_head(args, tile, args.sinks, args.sinks_step, row) * LOG2_E, 2.0f * LOWEST, -2.0f * LOWEST);
        const f32 with = max_number(top, sink);
        shrink = exp2_of(top - with);
        sum = sum * shrink + exp2_of(sink - with);
        top = with;
    }
    const bool any = sum > 0.0f && top > LOWEST;
    return {any ? shrink * quotient(1.0f, sum) : 0.0f, any ? (top + log2_of(sum)) * LN_2 : f32_of_bits(0xff800000u)};
}

// Whether every pair of columns of an operand's rows lies side by side where one store writes it.
template <u32 OUT>
DEVICE bool in_pairs(const Heads& x, u32 columns) {
    return x.column == 1 && (x.batch | x.head | x.row | columns) % 2 == 0 && x.at % (2 * width_of(OUT)) == 0;
}

template <u32 OUT>
DEVICE void store_pair(u64 at, f32 left, f32 right) {
    switch (OUT) {
    case F16: return store_global_u32(at, f16_pair(left, right));
    case BF16: return store_global_u32(at, bf16_pair(left, right));
    default: return store_global_u32x2(at, u32x2{bits_of(left), bits_of(right)});
    }
}

// CHUNK scores and DV sums of sixteen rows, operands of DTYPE. SLOTS threads carry the state of a tile.
template <u32 CHUNK_, u32 DV, u32 DTYPE_, u32 SLOTS>
struct Softmax {
    static constexpr u32 CHUNK = CHUNK_, DTYPE = DTYPE_;
    static constexpr u32 SCORES = CHUNK / 2, SUMS = DV / 2, STEPS = CHUNK / K_STEP;
    // Bytes that a tile carries from launch to launch.
    static constexpr u32 STATE_BYTES = (SUMS + 4) * SLOTS * 4;
    static_assert(CHUNK % K_STEP == 0 && DV % 16 == 0, "whole fragments");

    const AttentionArgs& args;
    const Tile& tile;
    f32 scores[SCORES];
    f32 sums[SUMS];
    // Of the two rows of this thread: the largest score in base 2, and the sum of weights of this lane.
    f32 largest[2], total[2];
    // First packed row of the warp, and this lane.
    u32 first, lane;

    DEVICE_MEMBER Softmax(const AttentionArgs& a, const Tile& t, u32 first_row) : args(a), tile(t), first(first_row) {
        lane = thread_index() % 32;
    }

    // Which of the two rows a score or sum is of, and its column.
    static DEVICE_MEMBER constexpr u32 half_of(u32 i) { return i / 2 % 2; }
    DEVICE_MEMBER u32 column_of(u32 i) const { return i / 4 * 8 + fragment::sum_column(lane, i % 4); }
    DEVICE_MEMBER u32 packed(u32 half) const { return first + fragment::sum_row(lane, 2 * half); }

    // Calls with half, column and score of every score of this thread.
    template <class F>
    DEVICE_MEMBER void each_score(F f) {
#pragma unroll
        for (u32 i = 0; i < SCORES; i++) {
            f(half_of(i), column_of(i), scores[i]);
        }
    }

    // Whether scores are products and nothing else. Then their factor waits for the exponent, whose multiply-add takes it
    // along; a factor that is not positive would not keep their order.
    DEVICE_MEMBER bool is_plain() const {
        return args.scale > 0.0f && args.softcap <= 0.0f && args.alibi == 0 && !args.mask.present;
    }

    // What adjusted scores are multiplied by to be in base 2.
    DEVICE_MEMBER f32 unit() const { return is_plain() ? args.scale * LOG2_E : 1.0f; }

    // Scores of a chunk: options first, then what a row does not see. One pass for each, so that none pays for what it does
    // not ask.
    DEVICE_MEMBER void adjust(u32 key) { adjust(key, seen_by_all()); }

    // The same, where the caller keeps what all rows see.
    DEVICE_MEMBER void adjust(u32 key, const Chunks& seen) {
        // tanh x = 1 - 2 / (e^2x + 1), whose error is absolute; near 0 a polynomial, whose error is relative.
        if (args.softcap > 0.0f) {
            const f32 softcap = f32_of_bits(anew(bits_of(args.softcap)));
            const f32 factor = args.scale * reciprocal(softcap), cap = softcap * LOG2_E;
            each_score([&](u32, u32, f32& s) {
                const f32 x = s * factor, z = x * x;
                const f32 q = fma(fma(fma(2.186949e-2f, z, -5.3968254e-2f), z, 1.3333334e-1f), z, -3.3333334e-1f);
                const f32 far = cap - 2.0f * cap * reciprocal(exp2_of(x * (2.0f * LOG2_E)) + 1.0f);
                s = z < 0.0625f ? cap * fma(q * z, x, x) : far;
            });
        } else if (!is_plain()) {
            each_score([&](u32, u32, f32& s) { s *= args.scale * LOG2_E; });
        }
        if (args.alibi != 0) {
            const i32 here[2] = {from_key(0, key), from_key(1, key)};
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
        if (key >= seen.from && key + CHUNK <= seen.to) {
            return;
        }
        // Keys of the chunk that each half sees.
        u32 low[2], high[2];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const i64 here = from_key(half, key), begin = here - args.left, end = here + args.right + 1;
            const i64 keys = (i64)tile.keys - key;
            low[half] = begin > 0 ? (u32)begin : 0;
            high[half] = (u32)(end < 0 ? 0 : end < keys ? end : keys);
        }
        each_score([&](u32 half, u32 column, f32& s) { s = column >= low[half] && column < high[half] ? s : -infinity(); });
    }

    // Where a row stands among the keys from `key` on.
    DEVICE_MEMBER i32 from_key(u32 half, u32 key) const { return position_of(args, tile, packed(half)) - (i32)key; }

    DEVICE_MEMBER f32 slope(u32 row) const {
        return row < tile.packed_rows ? LOG2_E * of_head(args, tile, args.alibi, args.alibi_step, row) : 0.0f;
    }

    template <u32 MASK>
    DEVICE_MEMBER void add_mask(u32 key) {
        const auto of_half = [&](u32 half) { return address_of(args, tile, args.mask, packed(half), key); };
        const u64 at[2] = {of_half(0), of_half(1)};
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

    // The keys that every row of the warp sees: only chunks across their ends need a mask.
    DEVICE_MEMBER Chunks seen_by_all() const {
        const i64 low = (i64)position_of(args, tile, first + 15) - args.left;
        const i64 high = (i64)position_of(args, tile, first) + args.right + 1;
        return {low > 0 ? (u32)low : 0, high > 0 ? (u32)(high < tile.keys ? high : tile.keys) : 0};
    }

    // One step of the online softmax: scores become weights, and `shrink` what the sums so far are scaled by.
    DEVICE_MEMBER void weigh_scores(f32 (&shrink)[2]) {
        const f32 unit = this->unit();
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            f32 top = -infinity();
#pragma unroll
            for (u32 i = 0; i < SCORES; i++) {
                if (half_of(i) == half) {
                    top = max_number(top, scores[i]);
                }
            }
            top = max_number(top, f32_of_bits(shuffle_xor(bits_of(top), 1)));
            top = max_number(top, f32_of_bits(shuffle_xor(bits_of(top), 2)));
            top = max_number(largest[half], top * unit);
            shrink[half] = exp2_of(largest[half] - top);
            largest[half] = top;
            total[half] *= shrink[half];
#pragma unroll
            for (u32 i = 0; i < SCORES; i++) {
                if (half_of(i) == half) {
                    scores[i] = exp2_of(fma(scores[i], unit, -top));
                    total[half] += scores[i];
                }
            }
        }
    }

    DEVICE_MEMBER void scale_sums(const f32 (&shrink)[2]) {
#pragma unroll
        for (u32 i = 0; i < SUMS; i++) {
            sums[i] *= shrink[half_of(i)];
        }
    }

    // Weights as operands.
    DEVICE_MEMBER void pack(u32 (&weights)[STEPS][4]) const {
#pragma unroll
        for (u32 i = 0; i < SCORES; i += 2) {
            const f32 x = scores[i], y = scores[i + 1];
            weights[i / 8][i % 8 / 2] = DTYPE == BF16 ? bf16_pair(x, y) : f16_pair(x, y);
        }
    }

    // All of the step, where nothing adds to the sums meanwhile.
    DEVICE_MEMBER void weigh(u32 (&weights)[STEPS][4]) {
        f32 shrink[2];
        weigh_scores(shrink);
        scale_sums(shrink);
        pack(weights);
    }

    DEVICE_MEMBER void clear() {
        zero(sums);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            largest[half] = LOWEST;
            total[half] = 0.0f;
        }
    }

    // What the launch before kept, where one was; `tile_number` counts in the launch, `slot` names this thread in the tile.
    DEVICE_MEMBER void begin(u32 tile_number, u32 slot) {
        const bool goes_on = !args.first;
#pragma unroll
        for (u32 i = 0; i < SUMS; i++) {
            sums[i] = load_global_f32_if(goes_on, carried(tile_number, slot, i));
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            largest[half] = goes_on ? load_global_f32(carried(tile_number, slot, SUMS + half)) : LOWEST;
            total[half] = goes_on ? load_global_f32(carried(tile_number, slot, SUMS + 2 + half)) : 0.0f;
        }
    }

    DEVICE_MEMBER void keep(u32 tile_number, u32 slot) const {
#pragma unroll
        for (u32 i = 0; i < SUMS; i++) {
            store_global_f32(carried(tile_number, slot, i), sums[i]);
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            store_global_f32(carried(tile_number, slot, SUMS + half), largest[half]);
            store_global_f32(carried(tile_number, slot, SUMS + 2 + half), total[half]);
        }
    }

    // Where a cut tile's numbers lie: the same register of all threads together.
    DEVICE_MEMBER u64 carried(u32 tile_number, u32 slot, u32 i) const {
        return args.state + ((u64)tile_number * STATE_BYTES + slot * 4) + i * SLOTS * 4;
    }

    // The sums of weights, of all lanes of a row.
    DEVICE_MEMBER void gather_totals() {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            total[half] += f32_of_bits(shuffle_xor(bits_of(total[half]), 1));
            total[half] += f32_of_bits(shuffle_xor(bits_of(total[half]), 2));
        }
    }

    // Divides by the sums of weights, the sink's among them, and writes.
    DEVICE_MEMBER void finish() {
        gather_totals();
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u32 row = packed(half);
            if (row >= tile.packed_rows) {
                continue;
            }
            const Last last = last_of(args, tile, row, largest[half], total[half]);
#pragma unroll
            for (u32 i = 0; i < SUMS; i++) {
                if (half_of(i) == half) {
                    sums[i] *= last.factor;
                }
            }
            switch (args.out.dtype) {
            case F16: write<F16>(half, row); break;
            case BF16: write<BF16>(half, row); break;
            default: write<F32>(half, row);
            }
            if (args.lse.present && lane % 4 == 0) {
                store_as(args.lse.dtype, address_of(args, tile, args.lse, row, 0), last.log_sum_exp);
            }
        }
    }

    template <u32 OUT>
    DEVICE_MEMBER void write(u32 half, u32 row) const {
        const u64 at = address_of(args, tile, args.out, row, 0);
        // Of the columns from this lane's first on.
        const i32 left = (i32)args.dv - (i32)column_of(0);
        if (in_pairs<OUT>(args.out, args.dv)) {
#pragma unroll
            for (u32 i = 0; i < SUMS; i += 2) {
                if (half_of(i) == half && (i32)(i / 4 * 8) < left) {
                    store_pair<OUT>(at + column_of(i) * width_of(OUT), sums[i], sums[i + 1]);
                }
            }
            return;
        }
#pragma unroll
        for (u32 i = 0; i < SUMS; i++) {
            if (half_of(i) == half && (i32)(i / 4 * 8 + i % 2) < left) {
                store_as(OUT, at + (u64)((i64)column_of(i) * args.out.column * (i64)width_of(OUT)), sums[i]);
            }
        }
    }
};

}  // namespace attention
