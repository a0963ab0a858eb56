// Which part of the output a tile is, and what it multiplies. Every matmul kernel and its planner count tiles this way.
#pragma once

#include "cuda/matmul.h"
#include "cuda/ptx.h"

// A tile: entry of the batch, row and column of tiles.
struct Place {
    u32 entry, m, n;
};

// Rows of tiles that are walked together, column after column: what runs at one time then shares rows of A and columns
// of B in the L2 cache.
constexpr u32 GROUP = 8;

DEVICE Place place_of(const MatmulArgs& args, u64 tile) {
    const u64 per_entry = (u64)args.tiles_m * args.tiles_n;
    const u32 inside = (u32)(tile % per_entry);
    const u32 per_group = GROUP * args.tiles_n;
    const u32 first = inside / per_group * GROUP;
    const u32 rows = args.tiles_m - first < GROUP ? args.tiles_m - first : GROUP;
    return {(u32)(tile / per_entry), first + inside % per_group % rows, inside % per_group / rows};
}

// The part of a tile in memory. Rows from `row` to `end` are written, if there are any: the sums of those before `owned`,
// zeros from there on.
struct Part {
    u32 entry, row, column, end, owned;
    // What is multiplied: nothing where no row is owned, or an index named no matrix.
    u32 k_from, k_to;
    // How far the matrices that indices named lie behind the first, as in `MatrixPair`.
    u64 a, b;

    // Rows of A that are read.
    DEVICE_MEMBER u32 rows() const { return owned > row ? owned - row : 0; }
};

DEVICE GroupEntry group_of(const MatmulArgs& args, u32 index) {
    const u64 at = args.groups + (u64)index * sizeof(GroupEntry);
    return {load_global_u32(at), load_global_u32(at + 4), load_global_u32(at + 8)};
}

// The group that a row of tiles is of: the last that begins there or before.
DEVICE u32 group_at(const MatmulArgs& args, u32 tile) {
    u32 low = 0, high = args.group_count + 1;
    while (high - low > 1) {
        const u32 middle = low + (high - low) / 2;
        const bool is = group_of(args, middle).tile <= tile;
        low = is ? middle : low;
        high = is ? high : middle;
    }
    return low;
}

// Gives a part the matrices that indices named. `matmul_indices.cu` has held them to those that there are, in memory that no
// tenant writes: all threads of a kernel see the same.
DEVICE void name_matrices(Part& part, const MatmulArgs& args) {
    const u32x4 words = load_global_u32x4(args.groups + (u64)part.entry * sizeof(MatrixPair));
    const MatrixPair pair{(u64)words.y << 32 | words.x, (u64)words.w << 32 | words.z};
    const bool is = pair.a != NO_MATRIX;
    part.a = is ? pair.a : 0;
    part.b = is ? pair.b : 0;
    part.k_to = is ? part.k_to : part.k_from;
}

// Of a tile of ROWS by COLUMNS.
template <u32 ROWS, u32 COLUMNS>
DEVICE Part part_of(const MatmulArgs& args, const Place& place) {
    Part part{place.entry, place.m * ROWS, place.n * COLUMNS, args.m, args.m, args.k_from, args.k_to, 0, 0};
    if (args.group == UNGROUPED) {
        return part;
    }
    if (args.group == BY_INDEX) {
        name_matrices(part, args);
        return part;
    }
    if (args.group == CONTIGUOUS) {
        const u32 index = group_at(args, place.m);
        const GroupEntry group = group_of(args, index);
        const bool is_owned = index < args.group_count;
        part.entry = is_owned ? index : 0;
        part.row = group.first + (place.m - group.tile) * ROWS;
        part.end = group.first + group.size;
        part.owned = is_owned ? part.end : 0;
    } else if (args.group == MASKED) {
        part.owned = group_of(args, place.entry).size;
    } else {
        const GroupEntry group = group_of(args, place.entry);
        part.k_from = group.first + (args.k_from < group.size ? args.k_from : group.size);
        part.k_to = group.first + (args.k_to < group.size ? args.k_to : group.size);
    }
    if (part.rows() == 0) {
        part.k_to = part.k_from;
    }
    return part;
}
