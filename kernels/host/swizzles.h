// That swizzles are bijections: each chunk of a tile has a place of its own, and none is outside. Asserted wherever the model
// is compiled.
#pragma once

#include "cuda/tile/swizzle.h"
#include "host/ptx/tma.h"

namespace model {

// Whether `place(row, chunk)` gives each of CHUNKS chunks of 16 bytes of each row another place of those rows, over more rows
// than any pattern takes to repeat.
template <u32 CHUNKS, class F>
constexpr bool is_bijection(F place) {
    constexpr u32 ROWS = 32;
    bool taken[ROWS * CHUNKS] = {};
    for (u32 i = 0; i < ROWS * CHUNKS; i++) {
        const u32 at = place(i / CHUNKS, i % CHUNKS);
        if (at % 16 != 0 || at / 16 >= ROWS * CHUNKS || taken[at / 16]) {
            return false;
        }
        taken[at / 16] = true;
    }
    return true;
}

// Rows of CHUNKS chunks, as kernels have them: of half a line to four lines.
template <u32... CHUNKS>
constexpr bool are_bijections() {
    return (is_bijection<CHUNKS>(::swizzled<CHUNKS>) && ...);
}
static_assert(are_bijections<4, 8, 12, 16, 20, 24, 28, 32, 64>(), "chunks of a fragment");
static_assert(is_bijection<8>(swizzled_pairs<8>) && is_bijection<16>(swizzled_pairs<16>), "chunks of words");
static_assert(is_bijection<32>(swizzled_pairs<32>), "chunks of words");
static_assert(is_bijection<16>(swizzled_columns<16>), "sums on their way out");

// The engine's: of 128, 64 and 32 bytes, or none.
template <u32 NARROWER>
constexpr u32 engine_place(u32 row, u32 chunk) {
    return swizzled((row * 8 + chunk) * 16, NARROWER);
}
static_assert(is_bijection<8>(engine_place<0>) && is_bijection<8>(engine_place<1>), "boxes");
static_assert(is_bijection<8>(engine_place<2>) && is_bijection<8>(engine_place<3>), "boxes");

// What threads write by hand lies as the engine and wgmma have it.
constexpr bool is_the_engines() {
    for (u32 i = 0; i < 32 * 8; i++) {
        if (::swizzled<8>(i / 8, i % 8) != engine_place<0>(i / 8, i % 8)) {
            return false;
        }
    }
    return true;
}
static_assert(is_the_engines(), "rows of 128 bytes");

}  // namespace model
