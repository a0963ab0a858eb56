// Tiles of attention's gradients: which heads and rows a tile is, the chunks of the other side that it meets, and where all
// of them lie. Each kernel of `attention_backward` counts tiles and chunks this way.
#pragma once

#include "cuda/attention_backward.h"
#include "cuda/tile/element.h"
#include "cuda/tile/functions.h"

namespace attention_backward {

constexpr u32 LANES = 32;
constexpr f32 LOG2_E = 1.44269504f;
// What stands for the log-sum-exp of a row that sees nothing, or is not: it makes every weight 0.
constexpr f32 NOBODY = 3.0e38f;

// A log-sum-exp of minus infinity: no weight.
DEVICE bool sees_nothing(f32 log_sum_exp) { return bits_of(log_sum_exp) == 0xff800000u; }

// A head of an entry, and the first of its rows or keys.
struct Tile {
    u64 batch, head;
    u32 first;
};

DEVICE u32 quotient_up(u32 n, u32 of) { return n / of + (n % of != 0); }

// The tile of a number: of `count` rows or keys of a head, TILE at a time, and `heads` of an entry. The long ones come first:
// late rows see many keys, early keys are seen by many rows.
template <u32 TILE, bool LAST_FIRST>
DEVICE Tile tile_of(u64 number, u32 count, u64 heads) {
    const u32 per_head = quotient_up(count, TILE), inside = (u32)(number % per_head);
    const u64 rest = number / per_head;
    return {rest / heads, rest % heads, (LAST_FIRST ? per_head - 1 - inside : inside) * TILE};
}

DEVICE u64 query_heads(const AttentionBackwardArgs& args) { return (u64)args.kv_heads * args.group; }

// Keys that a query row sees: the first ones.
DEVICE u32 seen_by(const AttentionBackwardArgs& args, u32 row) {
    const i64 end = (i64)row + 1 + args.keys - args.rows;
    return !args.causal || end > args.keys ? args.keys : end > 0 ? (u32)end : 0;
}

// Address of the first element of a row of a head.
DEVICE u64 row_of(const Heads& x, u64 batch, u64 head, u32 row) {
    const i64 offset = (i64)batch * x.batch + (i64)head * x.head + (i64)row * x.row;
    return x.at + (u64)(offset * (i64)width_of(x.dtype));
}

// Where the numbers of a head's rows lie, from a row on: log-sum-exps, or means.
DEVICE u64 statistics_of(const AttentionBackwardArgs& args, u64 batch, u64 head, bool means, u32 row) {
    return args.statistics + (((batch * query_heads(args) + head) * 2 + (means ? 1 : 0)) * args.room + row) * 4;
}

// Goes over the chunks of CHUNK query rows that a tile of keys meets in a launch, head after head of the group; those that
// do not see its first key are left out.
template <u32 CHUNK>
struct RowWalk {
    u64 end;
    u32 per_head, first, head, chunk;

    DEVICE_MEMBER RowWalk(const AttentionBackwardArgs& args, u32 key) : end(args.to), per_head(quotient_up(args.rows, CHUNK)) {
        const i64 row = (i64)key + args.rows - args.keys;
        first = args.causal && row > 0 ? (u32)row / CHUNK : 0;
        head = per_head == 0 ? 0 : (u32)(args.from / per_head);
        chunk = per_head == 0 ? 0 : (u32)(args.from % per_head);
        chunk = chunk < first ? first : chunk;
    }

    DEVICE_MEMBER bool is() const { return (u64)head * per_head + chunk < end; }
    DEVICE_MEMBER u32 row() const { return chunk * CHUNK; }
    DEVICE_MEMBER void next() {
        if (++chunk == per_head) {
            head++;
            chunk = first;
        }
    }
};

// The keys of a launch that a tile of rows meets: those that its last row sees.
template <u32 CHUNK>
struct KeyRange {
    u32 from, to;

    DEVICE_MEMBER KeyRange(const AttentionBackwardArgs& args, u32 last_row) {
        const u64 end = args.to * CHUNK;
        const u32 seen = seen_by(args, last_row);
        from = (u32)(args.from * CHUNK);
        to = end < seen ? (u32)end : seen;
    }
};

}  // namespace attention_backward
