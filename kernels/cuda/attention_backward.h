// What a launch of any kernel of attention's gradients is given: the C++ side of `AttentionBackwardArgs` in
// `kernels/src/attention_backward.rs`.
#pragma once

#include "cuda/attention.h"

struct AttentionBackwardArgs {
    Heads q, k, v, out, lse, d_out, d_q, d_k, d_v;
    // Of each head of each entry: log-sum-exps in base 2, then means, `room` f32 of each.
    u64 statistics;
    // Sums of cut tiles, or 0.
    u64 state;
    // First tile of the launch, and how many.
    u64 first_tile, tiles;
    // Part of each tile's chunks of this launch.
    u64 from, to;
    u32 kv_heads, group, rows, keys;
    // Rows of a head, to whole tiles; whether no chunk is left after the launch.
    u32 room, last;
    f32 scale;
    u32 causal, d, dv;
};

static_assert(sizeof(AttentionBackwardArgs) == 9 * 48 + 48 + 40, "as in kernels/src/attention_backward.rs");
