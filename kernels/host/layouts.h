// The first rows of the layouts as the PTX ISA manual (8.7) prints them, literally: kernels and the model share the formulas
// of `tile/fragment.h` and `tile/descriptor.h`, so that a mistake there would agree with itself. Asserted wherever the model
// is compiled.
#pragma once

#include "cuda/tile/descriptor.h"
#include "cuda/tile/fragment.h"
#include "host/ptx/tma.h"

namespace model {

// A cell of a figure: the thread, and the number of its element.
struct Held {
    u32 thread, element;
};

// Whether the cells of one row of a figure, from its first column on, are where `row` and `column` say.
template <u32 COLUMNS, class R, class C>
constexpr bool is_row(u32 number, const Held (&cells)[COLUMNS], R row, C column) {
    for (u32 i = 0; i < COLUMNS; i++) {
        if (row(cells[i].thread, cells[i].element) != number || column(cells[i].thread, cells[i].element) != i) {
            return false;
        }
    }
    return true;
}

// Section 9.7.14.5.8, mma.m16n8k16 of 16-bit floats: rows 0, 1 and 8 of A.
constexpr Held A_0[16] = {{0, 0}, {0, 1}, {1, 0}, {1, 1}, {2, 0}, {2, 1}, {3, 0}, {3, 1},
                          {0, 4}, {0, 5}, {1, 4}, {1, 5}, {2, 4}, {2, 5}, {3, 4}, {3, 5}};
constexpr Held A_1[16] = {{4, 0}, {4, 1}, {5, 0}, {5, 1}, {6, 0}, {6, 1}, {7, 0}, {7, 1},
                          {4, 4}, {4, 5}, {5, 4}, {5, 5}, {6, 4}, {6, 5}, {7, 4}, {7, 5}};
constexpr Held A_8[16] = {{0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 2}, {2, 3}, {3, 2}, {3, 3},
                          {0, 6}, {0, 7}, {1, 6}, {1, 7}, {2, 6}, {2, 7}, {3, 6}, {3, 7}};
static_assert(is_row(0, A_0, fragment::a_row, fragment::a_column), "A of 16 by 16");
static_assert(is_row(1, A_1, fragment::a_row, fragment::a_column), "A of 16 by 16");
static_assert(is_row(8, A_8, fragment::a_row, fragment::a_column), "A of 16 by 16");

// Rows 0, 1, 2 and 8 of its B, and rows 0, 1 and 8 of its sums.
constexpr u32 column_of_b(u32 lane, u32) { return fragment::b_column(lane); }
constexpr Held B_0[8] = {{0, 0}, {4, 0}, {8, 0}, {12, 0}, {16, 0}, {20, 0}, {24, 0}, {28, 0}};
constexpr Held B_1[8] = {{0, 1}, {4, 1}, {8, 1}, {12, 1}, {16, 1}, {20, 1}, {24, 1}, {28, 1}};
constexpr Held B_2[8] = {{1, 0}, {5, 0}, {9, 0}, {13, 0}, {17, 0}, {21, 0}, {25, 0}, {29, 0}};
constexpr Held B_8[8] = {{0, 2}, {4, 2}, {8, 2}, {12, 2}, {16, 2}, {20, 2}, {24, 2}, {28, 2}};
static_assert(is_row(0, B_0, fragment::b_row, column_of_b), "B of 16 by 8");
static_assert(is_row(1, B_1, fragment::b_row, column_of_b), "B of 16 by 8");
static_assert(is_row(2, B_2, fragment::b_row, column_of_b), "B of 16 by 8");
static_assert(is_row(8, B_8, fragment::b_row, column_of_b), "B of 16 by 8");
constexpr Held SUMS_0[8] = {{0, 0}, {0, 1}, {1, 0}, {1, 1}, {2, 0}, {2, 1}, {3, 0}, {3, 1}};
constexpr Held SUMS_1[8] = {{4, 0}, {4, 1}, {5, 0}, {5, 1}, {6, 0}, {6, 1}, {7, 0}, {7, 1}};
constexpr Held SUMS_8[8] = {{0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 2}, {2, 3}, {3, 2}, {3, 3}};
static_assert(is_row(0, SUMS_0, fragment::sum_row, fragment::sum_column), "sums of 16 by 8");
static_assert(is_row(1, SUMS_1, fragment::sum_row, fragment::sum_column), "sums of 16 by 8");
static_assert(is_row(8, SUMS_8, fragment::sum_row, fragment::sum_column), "sums of 16 by 8");

// Section 9.7.14.5.7, mma.m16n8k8 of tf32: rows 0 and 8 of A, rows 0 and 4 of B.
constexpr Held WORDS_A_0[8] = {{0, 0}, {1, 0}, {2, 0}, {3, 0}, {0, 2}, {1, 2}, {2, 2}, {3, 2}};
constexpr Held WORDS_A_8[8] = {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {0, 3}, {1, 3}, {2, 3}, {3, 3}};
constexpr Held WORDS_B_0[8] = {{0, 0}, {4, 0}, {8, 0}, {12, 0}, {16, 0}, {20, 0}, {24, 0}, {28, 0}};
constexpr Held WORDS_B_4[8] = {{0, 1}, {4, 1}, {8, 1}, {12, 1}, {16, 1}, {20, 1}, {24, 1}, {28, 1}};
static_assert(is_row(0, WORDS_A_0, fragment::word_a_row, fragment::word_a_column), "A of 16 by 8 words");
static_assert(is_row(8, WORDS_A_8, fragment::word_a_row, fragment::word_a_column), "A of 16 by 8 words");
static_assert(is_row(0, WORDS_B_0, fragment::word_b_row, column_of_b), "B of 8 by 8 words");
static_assert(is_row(4, WORDS_B_4, fragment::word_b_row, column_of_b), "B of 8 by 8 words");

// Section 9.7.14.5.10, mma.m16n8k32 of bytes: rows 0 and 8 of A, rows 0, 5 and 16 of B.
constexpr Held BYTES_A_0[32] = {
    {0, 0}, {0, 1}, {0, 2},  {0, 3},  {1, 0}, {1, 1}, {1, 2},  {1, 3},  {2, 0}, {2, 1}, {2, 2},
    {2, 3}, {3, 0}, {3, 1},  {3, 2},  {3, 3}, {0, 8}, {0, 9},  {0, 10}, {0, 11}, {1, 8}, {1, 9},
    {1, 10}, {1, 11}, {2, 8}, {2, 9}, {2, 10}, {2, 11}, {3, 8}, {3, 9}, {3, 10}, {3, 11}};
constexpr Held BYTES_A_8[32] = {
    {0, 4}, {0, 5}, {0, 6},  {0, 7},  {1, 4}, {1, 5}, {1, 6},  {1, 7},  {2, 4}, {2, 5}, {2, 6},
    {2, 7}, {3, 4}, {3, 5},  {3, 6},  {3, 7}, {0, 12}, {0, 13}, {0, 14}, {0, 15}, {1, 12}, {1, 13},
    {1, 14}, {1, 15}, {2, 12}, {2, 13}, {2, 14}, {2, 15}, {3, 12}, {3, 13}, {3, 14}, {3, 15}};
constexpr Held BYTES_B_5[8] = {{1, 1}, {5, 1}, {9, 1}, {13, 1}, {17, 1}, {21, 1}, {25, 1}, {29, 1}};
constexpr Held BYTES_B_16[8] = {{0, 4}, {4, 4}, {8, 4}, {12, 4}, {16, 4}, {20, 4}, {24, 4}, {28, 4}};
static_assert(is_row(0, BYTES_A_0, fragment::byte_a_row, fragment::byte_a_column), "A of 16 by 32 bytes");
static_assert(is_row(8, BYTES_A_8, fragment::byte_a_row, fragment::byte_a_column), "A of 16 by 32 bytes");
static_assert(is_row(0, B_0, fragment::byte_b_row, column_of_b), "B of 32 by 8 bytes");
static_assert(is_row(5, BYTES_B_5, fragment::byte_b_row, column_of_b), "B of 32 by 8 bytes");
static_assert(is_row(16, BYTES_B_16, fragment::byte_b_row, column_of_b), "B of 32 by 8 bytes");

// Section 9.7.14.5.15, ldmatrix: rows 0 and 7 of 8 by 8.
constexpr u32 row_of_matrix(u32 lane, u32) { return fragment::matrix_row(lane); }
constexpr Held MATRIX_7[8] = {{28, 0}, {28, 1}, {29, 0}, {29, 1}, {30, 0}, {30, 1}, {31, 0}, {31, 1}};
static_assert(is_row(0, SUMS_0, row_of_matrix, fragment::matrix_column), "8 by 8");
static_assert(is_row(7, MATRIX_7, row_of_matrix, fragment::matrix_column), "8 by 8");

// Section 9.7.15.5.1.1.1, wgmma.m64nNk16: the sums' rows 0, 8, 17 and 63, of 16 columns.
constexpr Held WGMMA_17[16] = {{36, 0}, {36, 1}, {37, 0}, {37, 1}, {38, 0}, {38, 1}, {39, 0}, {39, 1},
                               {36, 4}, {36, 5}, {37, 4}, {37, 5}, {38, 4}, {38, 5}, {39, 4}, {39, 5}};
constexpr Held WGMMA_63[16] = {{124, 2}, {124, 3}, {125, 2}, {125, 3}, {126, 2}, {126, 3}, {127, 2}, {127, 3},
                               {124, 6}, {124, 7}, {125, 6}, {125, 7}, {126, 6}, {126, 7}, {127, 6}, {127, 7}};
static_assert(is_row(0, A_0, fragment::wgmma_row, fragment::wgmma_column), "sums of a warpgroup");
static_assert(is_row(8, A_8, fragment::wgmma_row, fragment::wgmma_column), "sums of a warpgroup");
static_assert(is_row(17, WGMMA_17, fragment::wgmma_row, fragment::wgmma_column), "sums of a warpgroup");
static_assert(is_row(63, WGMMA_63, fragment::wgmma_row, fragment::wgmma_column), "sums of a warpgroup");
// The last columns of 256 are those of the last four sums.
static_assert(fragment::wgmma_column(3, 127) == 255 && fragment::wgmma_column(0, 124) == 248, "sums of a warpgroup");

// Section 5.5.7: which chunk of 16 bytes lies at each place of a line of 128 bytes, line after line until it repeats.
template <u32 LINES>
constexpr bool is_pattern(const u32 (&chunks)[LINES][8], u32 narrower) {
    for (u32 i = 0; i < 2 * LINES * 8; i++) {
        const u32 line = i / 8, place = i % 8;
        if (swizzled((line * 8 + chunks[line % LINES][place]) * 16, narrower) != (line * 8 + place) * 16) {
            return false;
        }
    }
    return true;
}
constexpr u32 BY_128[8][8] = {{0, 1, 2, 3, 4, 5, 6, 7}, {1, 0, 3, 2, 5, 4, 7, 6}, {2, 3, 0, 1, 6, 7, 4, 5},
                              {3, 2, 1, 0, 7, 6, 5, 4}, {4, 5, 6, 7, 0, 1, 2, 3}, {5, 4, 7, 6, 1, 0, 3, 2},
                              {6, 7, 4, 5, 2, 3, 0, 1}, {7, 6, 5, 4, 3, 2, 1, 0}};
constexpr u32 BY_64[4][8] = {{0, 1, 2, 3, 4, 5, 6, 7}, {1, 0, 3, 2, 5, 4, 7, 6}, {2, 3, 0, 1, 6, 7, 4, 5},
                             {3, 2, 1, 0, 7, 6, 5, 4}};
constexpr u32 BY_32[2][8] = {{0, 1, 2, 3, 4, 5, 6, 7}, {1, 0, 3, 2, 5, 4, 7, 6}};
constexpr u32 BY_NONE[1][8] = {{0, 1, 2, 3, 4, 5, 6, 7}};
static_assert(is_pattern(BY_128, 0) && is_pattern(BY_64, 1), "swizzles");
static_assert(is_pattern(BY_32, 2) && is_pattern(BY_NONE, 3), "swizzles");

// Section 9.7.15.5.1.2, matrix descriptors: of address 0x2c400, a leading offset of 8192 bytes, a stride offset of 1024, no
// base offset, swizzled by 128 bytes.
static_assert(descriptor::of(0x2c400, 8192) == 0x4000'0040'0200'2c40, "a descriptor");
static_assert(descriptor::of(0x400, 0) == 0x4000'0040'0000'0040, "a descriptor");

}  // namespace model
