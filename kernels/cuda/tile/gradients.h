// Tiles of attention's gradients: which heads and rows a tile is, the chunks of the other side that it meets, and where all
// of them lie. Each kernel of `attention_backward` counts tiles and chunks this way.
//
// Rows and keys are counted in their batch entry. Where entries are packed, tiles of T rows of an entry are numbered from
// `first_row / T + entry` on, those of keys from `first_key / T + entry`: never before the entry before ends, so that a tile's
// entry is found in the list without a sum over those before. A few tiles are then of nothing.
#pragma once

#include "cuda/attention_backward.h"
#include "cuda/tile/functions.h"
#include "cuda/tile/queries.h"

namespace attention_backward {

constexpr u32 LANES = 32;
constexpr f32 LOG2_E = 1.44269504f;
// What stands for the log-sum-exp of a row that sees nothing, or is not: it makes every weight 0.
constexpr f32 NOBODY = 3.0e38f;
// Rows of a tile of `attention_backward_rows`: an entry's numbers begin at a multiple.
constexpr u32 NUMBERS = 64;

// A log-sum-exp of minus infinity: no weight.
DEVICE bool sees_nothing(f32 log_sum_exp) { return bits_of(log_sum_exp) == 0xff800000u; }

// A head of an entry, and some of its rows or keys.
struct Tile {
    u32 batch, head;
    // The entry's, and where they begin in an operand.
    u32 first_row, rows, first_key, keys;
    // Where the numbers of its rows begin, among those of a head.
    u32 numbers;
    // The first row or key of the tile, and the end of those of the entry that a gradient has: zeros where there is none.
    u32 first, end;
};

DEVICE u32 quotient_up(u32 n, u32 of) { return n / of + (n % of != 0); }

DEVICE u64 query_heads(const AttentionBackwardArgs& args) { return (u64)args.kv_heads * args.group; }

DEVICE u32 load_entry(const AttentionBackwardArgs& args, u32 entry, u32 field) {
    return load_global_u32(args.entries + ((u64)entry * attention::ENTRY_WORDS + field) * 4);
}

// The number, in a head, of a packed entry's first tile.
template <u32 TILE, bool KEYS>
DEVICE u32 begin_of(const AttentionBackwardArgs& args, u32 entry) {
    return load_entry(args, entry, KEYS ? 2 : 0) / TILE + entry;
}

// The last entry that begins at this tile or before.
template <u32 TILE, bool KEYS>
DEVICE u32 find_entry(const AttentionBackwardArgs& args, u32 tile) {
    u32 low = 0, high = args.entry_count;
    while (high - low > 1) {
        const u32 middle = (low + high) / 2;
        if (begin_of<TILE, KEYS>(args, middle) <= tile) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// The tile of a number, of TILE rows or keys. Of a head the long ones come first: late rows see many keys, early keys are seen
// by many rows. The last of packed entries stands for the rows and the keys that none owns; it has no keys.
template <u32 TILE, bool KEYS>
DEVICE Tile tile_of(const AttentionBackwardArgs& args, u64 number) {
    const bool packed = args.entry_count > 0;
    const u32 all = KEYS ? args.keys : args.rows;
    const u32 per_head = packed ? all / TILE + args.entry_count : quotient_up(all, TILE);
    const u32 of_head = (u32)(number % per_head), inside = KEYS ? of_head : per_head - 1 - of_head;
    const u64 heads = KEYS ? args.kv_heads : query_heads(args), rest = number / per_head;
    Tile t = {(u32)(rest / heads), (u32)(rest % heads), 0, args.rows, 0, args.keys, 0, inside * TILE, all};
    if (args.entries == 0) {
        return t;
    }
    const u32 entry = packed ? find_entry<TILE, KEYS>(args, inside) : t.batch;
    t.rows = load_entry(args, entry, 1);
    t.keys = load_entry(args, entry, 3);
    if (packed) {
        t.first_row = load_entry(args, entry, 0);
        t.first_key = load_entry(args, entry, 2);
        t.numbers = (t.first_row / NUMBERS + entry) * NUMBERS;
        t.first -= begin_of<TILE, KEYS>(args, entry) * TILE;
        t.end = !KEYS ? t.rows : entry + 1 < args.entry_count ? t.keys : args.keys - t.first_key;
    }
    return t;
}

// Some rows or keys, or none where it does not begin before it ends.
struct Range {
    u32 from, to;
};

DEVICE Range range_of(i64 from, i64 to, u32 count) {
    return {from > 0 ? (u32)from : 0, to < 0 ? 0 : to < count ? (u32)to : count};
}

// A row stands at `row + keys - rows` among the keys; so far behind that is a key. Both may be past the last.
DEVICE i32 distance_of(const Tile& tile, u32 row, u32 key) { return (i32)(key + tile.rows - tile.keys - row); }

DEVICE bool sees(const AttentionBackwardArgs& args, i32 distance) {
    return (u32)distance + args.left <= args.left + args.right;
}

// Whether every row sees every key, of so many rows and keys from a row and a key at this distance on.
template <u32 ROWS, u32 KEYS>
DEVICE bool all_see(const AttentionBackwardArgs& args, i32 distance) {
    return (i64)distance + KEYS - 1 <= args.right && (i64)distance + args.left >= ROWS - 1;
}

// Keys that the rows of a range, of at least one, see.
DEVICE Range keys_seen(const AttentionBackwardArgs& args, const Tile& tile, const Range& rows) {
    const i64 to_keys = (i64)tile.keys - tile.rows;
    return range_of(rows.from + to_keys - args.left, rows.to + to_keys + args.right, tile.keys);
}

// Rows that see the keys of a range, of at least one.
DEVICE Range rows_seeing(const AttentionBackwardArgs& args, const Tile& tile, const Range& keys) {
    const i64 to_rows = (i64)tile.rows - tile.keys;
    return range_of(keys.from + to_rows - args.right, keys.to + to_rows + args.left, tile.rows);
}

// The part of a tile that is among the first `count`.
template <u32 TILE>
DEVICE Range part_of(const Tile& tile, u32 count) {
    return {tile.first, tile.first + TILE < count ? tile.first + TILE : count};
}

// Address of the first element of a row of a head; of packed entries, counted from the first one's.
DEVICE u64 row_of(const Heads& x, u64 batch, u64 head, u32 row) {
    const i64 offset = (i64)batch * x.batch + (i64)head * x.head + (i64)row * x.row;
    return x.at + (u64)(offset * (i64)width_of(x.dtype));
}

// Where the numbers of an entry's rows lie, from a row on: log-sum-exps, or means.
DEVICE u64 statistics_of(const AttentionBackwardArgs& args, const Tile& tile, u64 head, bool means, u32 row) {
    const u64 line = ((u64)tile.batch * query_heads(args) + head) * 2 + (means ? 1 : 0);
    return args.statistics + (line * args.room + tile.numbers + row) * 4;
}

// Goes over the chunks of CHUNK query rows that a tile of TILE keys meets in a launch, head after head of the group: those of
// rows that see any of its keys.
template <u32 TILE, u32 CHUNK>
struct RowWalk {
    // Of a head, chunks that are met; of the launch, those that are left.
    u32 first = 0, stop = 0, left = 0;
    u32 head = 0, chunk = 0;

    DEVICE_MEMBER RowWalk(const AttentionBackwardArgs& args, const Tile& tile) {
        const Range keys = part_of<TILE>(tile, tile.keys);
        const Range rows = rows_seeing(args, tile, keys);
        if (keys.from >= keys.to || rows.from >= rows.to) {
            return;
        }
        first = rows.from / CHUNK;
        stop = quotient_up(rows.to, CHUNK);
        const u64 before = met_before(args, args.from);
        left = (u32)(met_before(args, args.to) - before);
        head = (u32)(before / (stop - first));
        chunk = first + (u32)(before % (stop - first));
    }

    // Chunks that are met before one of all.
    DEVICE_MEMBER u64 met_before(const AttentionBackwardArgs& args, u64 number) const {
        const u32 per_head = quotient_up(args.most_rows, CHUNK), inside = (u32)(number % per_head);
        const u32 met = inside < first ? 0 : (inside < stop ? inside : stop) - first;
        return number / per_head * (stop - first) + met;
    }

    DEVICE_MEMBER bool is() const { return left != 0; }
    DEVICE_MEMBER u32 row() const { return chunk * CHUNK; }
    DEVICE_MEMBER void next() {
        left--;
        if (++chunk == stop) {
            head++;
            chunk = first;
        }
    }
};

// The keys of a launch that any row of a tile of TILE rows sees, from the first of a chunk on.
template <u32 TILE, u32 CHUNK>
struct KeyRange {
    u32 from, to;

    DEVICE_MEMBER KeyRange(const AttentionBackwardArgs& args, const Tile& tile) {
        const Range rows = part_of<TILE>(tile, tile.rows);
        const Range keys = keys_seen(args, tile, rows);
        const u64 begin = args.from * CHUNK, end = args.to * CHUNK;
        from = keys.from / CHUNK * CHUNK;
        from = begin > from ? (u32)begin : from;
        to = rows.from >= rows.to ? 0 : end < keys.to ? (u32)end : keys.to;
    }
};

}  // namespace attention_backward
