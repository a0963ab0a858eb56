// What launches of `gather`, `scatter` and `rope` are given: the C++ side of their structs in `kernels/src/args.rs`.
#pragma once

#include "cuda/view.h"

struct GatherArgs {
    Range range;
    // The table, the index, out.
    View views[3];
    // The table's stride along the axis that indices select, and its entries.
    i64 step;
    u32 bound;
    u32 padding;
    u64 fault;
};

struct ScatterArgs {
    Range range;
    // x; out; the index, or the pages; the lengths of an append.
    View views[4];
    // Out's strides from one entry, or page, to the next, and from one key of a page to the next.
    i64 step, key_step;
    // Rows of the range that are an entry, and the run's first entry.
    u64 per_entry, first_entry;
    u64 claims, fault;
    // Entries or pages of out; keys of a page and of a batch entry; rows that are appended to it; pass.
    u32 bound, page, room, rows, pass;
    u32 padding;
};

struct ScatterAddArgs {
    Range range;
    // x and out along the columns.
    View columns[2];
    Axes entries;
    // x and the index along the entries.
    View along[2];
    i64 step;
    u64 first_entry, entry_count;
    u64 fault;
    u32 bound;
    u32 padding;
};

struct RopeArgs {
    Range range;
    // x, position, out.
    View views[3];
    u64 turns;
    u32 dims;
    u32 interleaved;
};

static_assert(sizeof(GatherArgs) == 80 + 3 * 72 + 24 && sizeof(ScatterArgs) == 80 + 4 * 72 + 72, "as in kernels/src/args.rs");
static_assert(sizeof(ScatterAddArgs) == 80 + 4 * 72 + 56 + 40, "as in kernels/src/args.rs");
static_assert(sizeof(RopeArgs) == 80 + 3 * 72 + 16, "as in kernels/src/args.rs");
