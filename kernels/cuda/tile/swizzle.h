// Where a chunk of 16 bytes lies in a tile of shared memory, so that neither its copy in nor a fragment's load out meets
// a bank twice: chunks of a row change places with the row. A bijection within each row.
#pragma once

#include "cuda/tile/fragment.h"
#include "cuda/types.h"

// Byte offset of a chunk in rows of CHUNKS chunks. Eight rows that a fragment loads at one chunk fall on eight places of
// 128 bytes: rows of 64 bytes share a line in pairs, and so do those whose
// last line is half.
template <u32 CHUNKS>
SHARED_BY_BOTH constexpr u32 swizzled(u32 row, u32 chunk) {
    static_assert(CHUNKS % 4 == 0, "rows of whole lines of 128 bytes, or of halves");
    const u32 turn = CHUNKS % 8 == 4 ? row / 2 % 4 : row % 8;
    return (row * CHUNKS + (chunk ^ turn)) * 16;
}

// The same for fragments that load a word of each of four rows at two neighbouring chunks.
template <u32 CHUNKS>
SHARED_BY_BOTH constexpr u32 swizzled_pairs(u32 row, u32 chunk) {
    static_assert(CHUNKS % 8 == 0, "rows of whole lines of 128 bytes");
    return (row * CHUNKS + (chunk ^ row % 4 * 2)) * 16;
}

// The same for threads that write down a column and read along a row, chunks of four words: two rows fall on one place.
template <u32 CHUNKS>
SHARED_BY_BOTH constexpr u32 swizzled_columns(u32 row, u32 chunk) {
    static_assert(CHUNKS % 16 == 0, "rows of two lines of 128 bytes");
    return (row * CHUNKS + (chunk ^ row % 8 * 2)) * 16;
}
