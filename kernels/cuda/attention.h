// What a launch of any attention kernel is given: the C++ side of `AttentionArgs` in `kernels/src/attention.rs`.
#pragma once

#include "cuda/types.h"

// A tensor of heads: address of the first element, and strides in elements.
struct Heads {
    u64 at;
    i64 batch, head, row, column;
    u32 dtype;
    u32 present;
};

// A batch entry: its rows and keys, and where both begin where they are packed. Made by the host or by a kernel, in memory
// that no tenant writes.
struct Entry {
    u32 first_row, rows, first_key, keys, first_tile;
};

// Where keys lie in pages: a table of `[entries, ..]` words that its owner may change at any time, whose every word is
// held against `count` before it is used.
struct Pages {
    // The table or 0, and its strides in words.
    u64 at;
    i64 entry, step;
    // Keys of a page, and pages that there are.
    u32 size, count;
};

struct AttentionArgs {
    Heads q, k, v, mask, out, lse;
    // f32 of each query head, or 0: slopes, and logits without a value.
    u64 alibi, sinks;
    i64 alibi_step, sinks_step;
    u64 entries;
    // Maximum, sum and weighted values of cut tiles, or 0.
    u64 state;
    // First tile of the launch, and how many: sections of key heads, in each tiles of packed rows from the last one on, of
    // each all heads.
    u64 first_tile, tiles;
    u32 kv_heads, group;
    // Tiles of a key head; batch entries, or those of the list where rows are packed; whether all entries are alike, and
    // whether rows and keys are packed.
    u32 tiles_per_head, entry_count, alike, packed;
    // Part of the keys of this launch, whole chunks, and whether it is the last.
    u32 key_from, key_to, last;
    f32 scale, softcap;
    // Keys seen before and after a row's own.
    u32 left, right;
    u32 d, dv;
    // Keys of a split, where they are split.
    u32 split;
    // Whether the tiles begin with this launch; key heads of a section.
    u32 first, heads_at_once;
    Pages pages;
    // Three words: whether an index was out of range, the first such, and the bound that it broke.
    u64 fault;
    // What splits of the keys leave for the kernel that merges them, or 0.
    u64 partials;
};

static_assert(sizeof(AttentionArgs) == 6 * 48 + 64 + 72 + 48, "as in kernels/src/attention.rs");
