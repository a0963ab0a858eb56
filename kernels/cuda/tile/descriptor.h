// Descriptors of matrices in shared memory for wgmma: PTX ISA 8.7, section 9.7.15.5.1. Only the form that the tiles here
// have: rows of 128 bytes, swizzled by 128, tiles aligned to 1024 bytes.
#pragma once

#include "cuda/tile/fragment.h"
#include "cuda/types.h"

namespace descriptor {

constexpr u32 ROW = 128;             // Bytes of a swizzled row.
constexpr u32 EIGHT_ROWS = 8 * ROW;  // The swizzle repeats.
constexpr u64 SWIZZLE_128 = 1;

// Fields, all addresses in units of 16 bytes: start in bits 0 to 13, leading offset in 16 to 29, stride offset in 32 to 45,
// swizzle in 62 and 63. `leading` is the distance of blocks of 64 elements where a matrix is dense along its outer axis.
SHARED_BY_BOTH constexpr u64 of(u32 address, u32 leading) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(EIGHT_ROWS >> 4) << 32 | SWIZZLE_128 << 62;
}

}  // namespace descriptor
