// Tiles of attention: which rows of which heads a tile is, the keys that they see, and where both lie. Rows are packed: the
// query heads of a key head for each query, so that grouped heads share the keys that are brought. Every attention
// kernel counts tiles this way.
#pragma once

#include "cuda/attention.h"
#include "cuda/tile/element.h"

namespace attention {

constexpr u32 ENTRY_WORDS = 5;

// A tile: whose rows, and which of them. `low` and `high` bound the keys that any of its rows sees.
struct Tile {
    // Entry of the list; batch entry of dense operands.
    u32 entry, batch, kv_head, first_row, first_key, keys, rows;
    // First packed row among those of the entry, and their number.
    u32 row, packed_rows;
    u32 low, high;
};

DEVICE u32 load_entry(const AttentionArgs& args, u32 entry, u32 field) {
    return load_global_u32(args.entries + ((u64)(args.alike ? 0 : entry) * ENTRY_WORDS + field) * 4);
}

// The last entry that begins at this tile or before.
DEVICE u32 find_entry(const AttentionArgs& args, u32 tile) {
    u32 low = 0, high = args.entry_count;
    while (high - low > 1) {
        const u32 middle = (low + high) / 2;
        if (load_entry(args, middle, 4) <= tile) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// The tile of a number, of at most ROWS packed rows: a section of key heads after another, as many as the L2 cache keeps,
// and in each the last rows of all its heads first. Where they see more keys, the long tiles are then the early ones.
template <u32 ROWS>
DEVICE Tile tile_of(const AttentionArgs& args, u64 number) {
    const u64 heads = (u64)args.kv_heads * (args.packed ? 1 : args.entry_count);
    const u64 section = (u64)args.heads_at_once * args.tiles_per_head;
    const u64 first = number / section * args.heads_at_once, left = heads - first;
    const u32 in_section = (u32)(left < args.heads_at_once ? left : args.heads_at_once);
    const u64 head = first + number % section % in_section;
    const u32 inside = args.tiles_per_head - 1 - (u32)(number % section / in_section);
    Tile t;
    t.kv_head = (u32)(head % args.kv_heads);
    t.entry = args.packed ? find_entry(args, inside) : (u32)(head / args.kv_heads);
    t.batch = args.packed ? 0 : t.entry;
    t.first_row = load_entry(args, t.entry, 0);
    t.rows = load_entry(args, t.entry, 1);
    t.first_key = load_entry(args, t.entry, 2);
    t.keys = load_entry(args, t.entry, 3);
    t.packed_rows = t.rows * args.group;
    t.row = (inside - (args.packed ? load_entry(args, t.entry, 4) : 0)) * ROWS;
    if (t.row >= t.packed_rows) {
        t.low = t.high = 0;
        return t;
    }
    // A row stands at `row + keys - rows` among the keys.
    const u32 last = (t.row + ROWS < t.packed_rows ? t.row + ROWS : t.packed_rows) - 1;
    const i64 first_at = (i64)(t.row / args.group) + t.keys - t.rows, last_at = (i64)(last / args.group) + t.keys - t.rows;
    const i64 low = first_at - args.left, high = last_at + args.right + 1;
    t.low = low > 0 ? (u32)(low < t.keys ? low : t.keys) : 0;
    t.high = high > 0 ? (u32)(high < t.keys ? high : t.keys) : 0;
    return t;
}

// Keys of the launch that any row of the tile sees, from the first of a chunk on.
struct Chunks {
    u32 from, to;
};

template <u32 CHUNK>
DEVICE Chunks chunks_of(const AttentionArgs& args, const Tile& tile) {
    const u32 low = tile.low > args.key_from ? tile.low : args.key_from;
    return {low / CHUNK * CHUNK, tile.high < args.key_to ? tile.high : args.key_to};
}

// Whether an entry owns the tile's rows: where rows are packed, the last of the list stands for those that none does.
DEVICE bool is_owned(const AttentionArgs& args, const Tile& tile) {
    return !args.packed || tile.first_row < load_entry(args, args.entry_count - 1, 0);
}

// Query and query head of a packed row, and where it stands among the keys.
DEVICE u32 query_of(const AttentionArgs& args, const Tile& tile, u32 row) { return tile.first_row + row / args.group; }
DEVICE u32 head_of(const AttentionArgs& args, const Tile& tile, u32 row) {
    return tile.kv_head * args.group + row % args.group;
}
DEVICE i32 position_of(const AttentionArgs& args, const Tile& tile, u32 row) {
    return (i32)(row / args.group + tile.keys - tile.rows);
}

// Address of a packed row's element in an operand that has query rows.
DEVICE u64 address_of(const AttentionArgs& args, const Tile& tile, const Heads& x, u32 row, u32 column) {
    const i64 offset = (i64)tile.batch * x.batch + (i64)head_of(args, tile, row) * x.head +
                       (i64)query_of(args, tile, row) * x.row + (i64)column * x.column;
    return x.at + (u64)(offset * (i64)width_of(x.dtype));
}

// Number of a head in a list of one f32 a head: slopes or sinks.
DEVICE f32 of_head(const AttentionArgs& args, const Tile& tile, u64 list, i64 step, u32 row) {
    return load_global_f32(list + (u64)((i64)head_of(args, tile, row) * step * 4));
}

}  // namespace attention
