// Makes the list of a product's groups from sizes in device memory, which a tenant may change at any time: every size is
// read once, and held to the stated maximum and to the room that those before it leave. One warp, group after group.
#pragma once

#include "cuda/matmul.h"
#include "cuda/tile/fault.h"

struct MatmulGroupsArgs {
    // Sizes: u32 or i32 words, `step` words apart; and the list.
    u64 sizes;
    i64 step;
    u64 groups;
    // Three words.
    u64 fault;
    u32 count;
    // The most that a group may have, and the room: of all groups where they follow each other, else of each.
    u32 most, room;
    u32 follow;
    // Rows of a tile.
    u32 tile_rows;
    // 1: an entry follows for the rows that none owns.
    u32 rest;
};

static_assert(sizeof(MatmulGroupsArgs) == 56, "as in kernels/src/matmul_groups.rs");

namespace matmul_groups {

constexpr u32 LANES = 32;

struct Shape {
    static constexpr u32 THREADS = LANES, SHARED_BYTES = 0;
};

DEVICE u32 less(u32 a, u32 b) { return a < b ? a : b; }

// The sum of the lanes before this one and of `before`, at most `cap`, which makes it no less associative.
DEVICE u32 sum_before(u32 before, u32 value, u32 cap) {
    const u32 lane = thread_index() % LANES;
    u64 sum = value;
#pragma unroll
    for (u32 far = 1; far < LANES; far *= 2) {
        const u32 other = shuffle_from((u32)sum, lane - far);
        sum = lane < far ? sum : sum + other < cap ? sum + other : cap;
    }
    const u64 left = (u64)shuffle_from((u32)sum, lane - 1) + before;
    return lane == 0 ? before : left < cap ? (u32)left : cap;
}

// The least of all lanes.
DEVICE u32 least(u32 value) {
#pragma unroll
    for (u32 mask = LANES / 2; mask > 0; mask /= 2) {
        value = less(value, shuffle_xor(value, mask));
    }
    return value;
}

DEVICE void store(const MatmulGroupsArgs& args, u32 index, const GroupEntry& group) {
    const u64 at = args.groups + (u64)index * sizeof(GroupEntry);
    store_global_u32(at, group.first);
    store_global_u32(at + 4, group.size);
    store_global_u32(at + 8, group.tile);
}

template <class S>
DEVICE void run(const MatmulGroupsArgs& args) {
    constexpr u32 NO_CAP = 0xffffffff;
    const u32 lane = thread_index() % LANES;
    u32 taken = 0, tiles = 0;
#pragma unroll 1
    for (u32 from = 0; from < args.count; from += LANES) {
        const u32 index = from + lane;
        const bool is = index < args.count;
        const u32 asked = is ? load_global_u32(args.sizes + (u64)((i64)index * args.step * 4)) : 0;
        const u32 held = less(asked, args.most);
        const u32 first = args.follow ? sum_before(taken, held, args.room) : 0;
        const u32 bound = less(args.most, args.room - first), size = less(asked, bound);
        const u32 own = (u32)(((u64)size + args.tile_rows - 1) / args.tile_rows);
        const GroupEntry group{first, size, sum_before(tiles, own, NO_CAP)};
        // The first of a warp's faults is told.
        if (least(asked > bound ? lane : LANES) == lane) {
            report_fault(args.fault, asked, bound + 1);
        }
        if (is) {
            store(args, index, group);
        }
        taken = shuffle_from(first + size, LANES - 1);
        tiles = shuffle_from(group.tile + own, LANES - 1);
    }
    if (args.rest && lane == 0) {
        store(args, args.count, {taken, args.room - taken, tiles});
    }
}

}  // namespace matmul_groups
