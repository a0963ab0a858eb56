// Attention forward as it is written down, for f32, f16 and bf16 in any strides, all options, keys in pages or not: a warp
// for each packed row, key after key, lanes along the head dim, all in f32 on CUDA cores. What the fast kernels are held
// against on a card, and what f32 operands run on.
//
// Order of each output: keys from left to right; a score is the lanes' sums along the head dim, then across lanes by
// halves.
#pragma once

#include "cuda/tile/lines.h"
#include "cuda/tile/parts.h"

namespace attention_reference {

using attention::Line, attention::Part, attention::SPLIT_ROWS, attention::Stored, attention::Tile;

constexpr u32 LANES = 32;

// D: the most columns of Q, K and V.
template <u32 D>
struct Shape {
    static constexpr u32 THREADS = SPLIT_ROWS * LANES, SHARED_BYTES = 0, COLUMNS = D / LANES;
};

template <class S>
struct Row {
    const AttentionArgs& args;
    const Tile& tile;
    // Packed row, its lane, and the keys that it sees.
    u32 row, lane = thread_index() % LANES;
    i64 here;
    f32 q[S::COLUMNS], values[S::COLUMNS] = {};
    Part part;

    DEVICE_MEMBER Row(const AttentionArgs& a, const Tile& t, u32 r)
        : args(a), tile(t), row(r), here(attention::position_of(a, t, r)) {
        load(q, args.q, attention::address_of(args, tile, args.q, row, 0), args.d);
    }

    // Columns of a row of an operand, zeros past its end.
    DEVICE_MEMBER void load(f32 (&to)[S::COLUMNS], const Heads& x, u64 at, u32 columns) const {
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            const u32 c = i * LANES + lane;
            to[i] = c < columns ? load_as(x.dtype, at + (u64)((i64)c * x.column * (i64)width_of(x.dtype))) : 0.0f;
        }
    }

    DEVICE_MEMBER u64 address_of(const Heads& x, const Line& line) const {
        const i64 offset = (i64)line.block * x.batch + (i64)tile.kv_head * x.head + (i64)line.row * x.row;
        return x.at + (u64)(offset * (i64)width_of(x.dtype));
    }

    // In base 2, from the product of the row and a key.
    DEVICE_MEMBER f32 score(f32 dot, u32 key) const {
        f32 s = args.scale * dot;
        if (args.softcap > 0.0f) {
            s = args.softcap * tanh_of(divided(s, args.softcap));
        }
        if (args.alibi != 0) {
            const i64 far = here - key;
            s -= attention::of_head(args, tile, args.alibi, args.alibi_step, row) * (f32)(far < 0 ? -far : far);
        }
        if (args.mask.present) {
            s += load_as(args.mask.dtype, attention::address_of(args, tile, args.mask, row, key));
        }
        return clamped(s * attention::LOG2_E, 2.0f * attention::LOWEST, -2.0f * attention::LOWEST);
    }

    DEVICE_MEMBER void add(u32 key) {
        // One lane reads the number of a page for all.
        Line line = {0, 0, false};
        if (lane == 0) {
            line = attention::line_of(args, tile, key);
        }
        line = {first_lane(line.block), first_lane(line.row), first_lane(line.is) != 0};
        f32 k[S::COLUMNS] = {}, v[S::COLUMNS] = {}, dot = 0.0f;
        if (line.is) {
            load(k, args.k, address_of(args.k, line), args.d);
            load(v, args.v, address_of(args.v, line), args.dv);
        }
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            dot = fma(q[i], k[i], dot);
        }
#pragma unroll
        for (u32 far = LANES / 2; far > 0; far /= 2) {
            dot += f32_of_bits(shuffle_xor(bits_of(dot), far));
        }
        const attention::Merge by = attention::merge(part, {score(dot, key), 1.0f});
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            values[i] = fma(v[i], by.right, values[i] * by.left);
        }
    }

    // Keys of the launch that the row sees.
    DEVICE_MEMBER void run() {
        const i64 low = here - args.left, high = here + args.right + 1;
        const u32 keys = tile.keys < args.key_to ? tile.keys : args.key_to;
        const u32 to = high < 0 ? 0 : high < keys ? (u32)high : keys;
        for (u32 key = low > args.key_from ? (u32)low : args.key_from; key < to; key++) {
            add(key);
        }
    }

    DEVICE_MEMBER void finish() const {
        const attention::Last last = attention::last_of(args, tile, row, part.top, part.sum);
        const u64 at = attention::address_of(args, tile, args.out, row, 0);
        const i64 step = args.out.column * (i64)width_of(args.out.dtype);
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            if (i * LANES + lane < args.dv) {
                store_as(args.out.dtype, at + (u64)((i64)(i * LANES + lane) * step), values[i] * last.factor);
            }
        }
        if (args.lse.present && lane == 0) {
            store_as(args.lse.dtype, attention::address_of(args, tile, args.lse, row, 0), last.log_sum_exp);
        }
    }

    DEVICE_MEMBER void begin(const Stored& carried, u32 r) {
        part = carried.load(r);
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            values[i] = i * LANES + lane < args.dv ? load_global_f32(carried.value(r, i * LANES + lane)) : 0.0f;
        }
    }

    DEVICE_MEMBER void keep(const Stored& carried, u32 r) const {
        // All lanes have read what the launch before kept.
        sync_warp();
#pragma unroll
        for (u32 i = 0; i < S::COLUMNS; i++) {
            if (i * LANES + lane < args.dv) {
                store_global_f32(carried.value(r, i * LANES + lane), values[i]);
            }
        }
        if (lane == 0) {
            carried.store(r, part);
        }
    }
};

template <class S>
DEVICE void run(const AttentionArgs& args) {
    const u32 number = block_index(), r = thread_index() / LANES;
    const Tile tile = attention::tile_of<SPLIT_ROWS>(args, args.first_tile + number);
    if (tile.row + r >= tile.packed_rows) {
        return;
    }
    Row<S> row(args, tile, tile.row + r);
    const Stored carried(args, args.state, number);
    if (!args.first) {
        row.begin(carried, r);
    }
    row.run();
    if (args.last) {
        row.finish();
    } else {
        row.keep(carried, r);
    }
}

}  // namespace attention_reference
