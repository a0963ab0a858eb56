// What a launch of any kernel of attention's gradients is given: the C++ side of `AttentionBackwardArgs` in
// `kernels/src/attention_backward.rs`.
#pragma once

#include "cuda/attention.h"

struct AttentionBackwardArgs {
    Heads q, k, v, mask, out, lse, d_out, d_q, d_k, d_v;
    // f32 of each query head, or 0: slopes.
    u64 alibi;
    i64 alibi_step;
    // List of `Entry`, or 0: all have `rows` and `keys`.
    u64 entries;
    // Of each row of each head: a log-sum-exp in base 2, then means; `room` f32 of each.
    u64 statistics;
    // Sums of cut tiles, or 0.
    u64 state;
    // First tile of the launch, and how many.
    u64 first_tile, tiles;
    // Part of each tile's chunks of this launch.
    u64 from, to;
    u32 kv_heads, group;
    // Rows of Q and keys of K: of all entries where they are packed; the most rows that an entry has.
    u32 rows, keys, most_rows;
    // Entries of the list where rows and keys are packed, else 0.
    u32 entry_count;
    // Numbers of a head's rows, to whole tiles; whether no chunk is left after the launch.
    u32 room, last;
    f32 scale, softcap;
    // Keys seen before and after a row's own, less than 2^31.
    u32 left, right;
    u32 d, dv;
};

static_assert(sizeof(AttentionBackwardArgs) == 10 * 48 + 72 + 56, "as in kernels/src/attention_backward.rs");
