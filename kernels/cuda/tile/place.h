// Which part of the output a tile is. Every matmul kernel and its planner count tiles this way.
#pragma once

#include "cuda/matmul.h"

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
