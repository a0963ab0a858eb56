// Makes the list of batch entries of attention from counts in device memory, which a tenant may change at any time: every
// count is read once, held against its bound, and cut to what room is left. One warp, entry after entry.
#pragma once

#include "cuda/tile/fault.h"
#include "cuda/tile/queries.h"

// Counts of entries: u32 or i32 words, `step` words apart, or `most` each where there are none.
struct Counts {
    u64 at;
    i64 step;
    u32 most;
    u32 padding;
};

struct AttentionEntriesArgs {
    Counts rows, keys;
    // The list, and the three words of the fault.
    u64 entries, fault;
    // Entries of the launch: the list is made from left to right.
    u32 from, to;
    // Whether rows lie one entry after another, and keys; whether an entry has as many keys as rows.
    u32 packed_rows, packed_keys, keys_as_rows;
    // Room for rows, and keys, of all entries where they are packed, else of each.
    u32 row_room, key_room;
    // Query heads of a key head, and rows of a tile.
    u32 group, tile_rows;
    // 1: an entry follows for the rows that none owns.
    u32 last;
};

static_assert(sizeof(AttentionEntriesArgs) == 104, "as in kernels/src/attention_entries.rs");

namespace attention_entries {

constexpr u32 LANES = 32;

struct Shape {
    static constexpr u32 THREADS = LANES, SHARED_BYTES = 0;
};

// An entry's count: read once.
DEVICE u32 count_of(const Counts& counts, u32 entry, u64 fault) {
    if (counts.at == 0) {
        return counts.most;
    }
    const u32 value = load_global_u32(counts.at + (u64)((i64)entry * counts.step * 4));
    if (value > counts.most) {
        report_fault(fault, value, counts.most + 1);
        return counts.most;
    }
    return value;
}

// Sum that stops at a cap, which makes it no less associative.
DEVICE u32 capped(u32 a, u32 b, u32 cap) {
    const u64 sum = (u64)a + b;
    return sum < cap ? (u32)sum : cap;
}

// Of the lanes before this one and of `before`.
DEVICE u32 sum_before(u32 before, u32 value, u32 cap) {
    const u32 lane = thread_index() % LANES;
    u32 sum = value;
#pragma unroll
    for (u32 far = 1; far < LANES; far *= 2) {
        const u32 other = shuffle_from(sum, lane - far);
        sum = lane >= far ? capped(sum, other, cap) : sum;
    }
    const u32 left = shuffle_from(sum, lane - 1);
    return lane == 0 ? before : capped(before, left, cap);
}

DEVICE u32 less(u32 a, u32 b) { return a < b ? a : b; }

// What all entries so far take.
struct Taken {
    u32 rows = 0, keys = 0, tiles = 0;
};

DEVICE u64 word_of(const AttentionEntriesArgs& args, u32 entry, u32 field) {
    return args.entries + ((u64)entry * attention::ENTRY_WORDS + field) * 4;
}

DEVICE u32 tiles_of(const AttentionEntriesArgs& args, u32 rows) {
    return (u32)(((u64)rows * args.group + args.tile_rows - 1) / args.tile_rows);
}

// One entry a lane; those from `to` on take nothing.
DEVICE void make(const AttentionEntriesArgs& args, u32 entry, Taken& taken) {
    constexpr u32 NO_CAP = 0xffffffff;
    const bool is = entry < args.to;
    const u32 asked_rows = is ? count_of(args.rows, entry, args.fault) : 0;
    const u32 asked_keys = args.keys_as_rows ? asked_rows : is ? count_of(args.keys, entry, args.fault) : 0;
    const u32 first_row = args.packed_rows ? sum_before(taken.rows, asked_rows, args.row_room) : 0;
    const u32 rows = less(asked_rows, args.row_room - first_row);
    const u32 first_key = args.packed_keys ? sum_before(taken.keys, asked_keys, args.key_room) : 0;
    const u32 keys = less(asked_keys, args.key_room - first_key);
    const u32 tiles = tiles_of(args, rows);
    const u32 first_tile = args.packed_rows ? sum_before(taken.tiles, tiles, NO_CAP) : 0;
    if (is) {
        const u32 words[] = {first_row, rows, first_key, keys, first_tile};
#pragma unroll
        for (u32 i = 0; i < attention::ENTRY_WORDS; i++) {
            store_global_u32(word_of(args, entry, i), words[i]);
        }
    }
    taken.rows = shuffle_from(first_row + rows, LANES - 1);
    taken.keys = shuffle_from(first_key + keys, LANES - 1);
    taken.tiles = shuffle_from(first_tile + tiles, LANES - 1);
}

template <class S>
DEVICE void run(const AttentionEntriesArgs& args) {
    const u32 lane = thread_index() % LANES;
    Taken taken;
    if (args.from > 0) {
        const u32 rows = load_global_u32(word_of(args, args.from - 1, 1));
        taken.rows = load_global_u32(word_of(args, args.from - 1, 0)) + rows;
        taken.keys = load_global_u32(word_of(args, args.from - 1, 2)) + load_global_u32(word_of(args, args.from - 1, 3));
        taken.tiles = load_global_u32(word_of(args, args.from - 1, 4)) + tiles_of(args, rows);
    }
    for (u32 entry = args.from; entry < args.to; entry += LANES) {
        make(args, entry + lane, taken);
    }
    if (args.last && lane == 0) {
        const u32 keys = args.packed_keys ? taken.keys : 0;
        const u32 words[] = {taken.rows, args.row_room - taken.rows, keys, 0, taken.tiles};
#pragma unroll
        for (u32 i = 0; i < attention::ENTRY_WORDS; i++) {
            store_global_u32(word_of(args, args.to, i), words[i]);
        }
    }
}

}  // namespace attention_entries
