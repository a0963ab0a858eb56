// Where the elements of warp-wide matrix fragments lie: PTX ISA 8.7, sections 9.7.14.5.8 (mma.m16n8k16) and 9.7.14.5.15
// (ldmatrix). Plain arithmetic, shared by kernels and the host model.
#pragma once

#include "cuda/types.h"

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)
#define SHARED_BY_BOTH __device__
#else
#define SHARED_BY_BOTH
#endif

namespace fragment {

// Element i (0 to 7) of a lane's A of 16 by 16: two to a register.
SHARED_BY_BOTH constexpr u32 a_row(u32 lane, u32 i) { return lane / 4 + 8 * (i / 2 % 2); }
SHARED_BY_BOTH constexpr u32 a_column(u32 lane, u32 i) { return lane % 4 * 2 + i % 2 + 8 * (i / 4); }

// Element i (0 to 3) of a lane's B of 16 by 8.
SHARED_BY_BOTH constexpr u32 b_row(u32 lane, u32 i) { return lane % 4 * 2 + i % 2 + 8 * (i / 2); }
SHARED_BY_BOTH constexpr u32 b_column(u32 lane) { return lane / 4; }

// Word i of a lane's A of 16 by 8 (0 to 3) and of its B of 8 by 8 (0 and 1), one to a register (section 9.7.14.5.7,
// mma.m16n8k8 of tf32).
SHARED_BY_BOTH constexpr u32 word_a_row(u32 lane, u32 i) { return lane / 4 + 8 * (i % 2); }
SHARED_BY_BOTH constexpr u32 word_a_column(u32 lane, u32 i) { return lane % 4 + 4 * (i / 2); }
SHARED_BY_BOTH constexpr u32 word_b_row(u32 lane, u32 i) { return lane % 4 + 4 * i; }

// Byte i of a lane's A of 16 by 32 (0 to 15) and of its B of 32 by 8 (0 to 7): four to a register (section 9.7.14.5.10,
// mma.m16n8k32).
SHARED_BY_BOTH constexpr u32 byte_a_row(u32 lane, u32 i) { return lane / 4 + 8 * (i / 4 % 2); }
SHARED_BY_BOTH constexpr u32 byte_a_column(u32 lane, u32 i) { return lane % 4 * 4 + i % 4 + 16 * (i / 8); }
SHARED_BY_BOTH constexpr u32 byte_b_row(u32 lane, u32 i) { return lane % 4 * 4 + i % 4 + 16 * (i / 4); }

// Sum i (0 to 3) of a lane in 16 by 8.
SHARED_BY_BOTH constexpr u32 sum_row(u32 lane, u32 i) { return lane / 4 + 8 * (i / 2); }
SHARED_BY_BOTH constexpr u32 sum_column(u32 lane, u32 i) { return lane % 4 * 2 + i % 2; }

// The two halves of what a lane receives of an 8 by 8 matrix that is not transposed.
SHARED_BY_BOTH constexpr u32 matrix_row(u32 lane) { return lane / 4; }
SHARED_BY_BOTH constexpr u32 matrix_column(u32 lane, u32 half) { return lane % 4 * 2 + half; }

// Sum i of thread t of a warpgroup in 64 rows by any number of columns (section 9.7.15.5.1, wgmma.m64nNk16).
SHARED_BY_BOTH constexpr u32 wgmma_row(u32 t, u32 i) { return t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2); }
SHARED_BY_BOTH constexpr u32 wgmma_column(u32 t, u32 i) { return i / 4 * 8 + t % 4 * 2 + i % 2; }

}  // namespace fragment
