// What the options of an op make of a chunk's products: scores in base 2, a pass for each option, so that none pays for what it
// does not ask. A warp of either side of `attention_backward` computes with these.
#pragma once

#include "cuda/tile/gradient_sums.h"

namespace attention_backward {

// Whether scores are more than scaled products.
DEVICE bool has_options(const AttentionBackwardArgs& args) {
    return args.softcap > 0.0f || args.alibi != 0 || args.mask.present;
}

// Makes scores of products: a warp's keys down and rows along, or the other way. `row` and `key` are the first of each,
// counted in the entry.
template <class S, bool KEYS>
struct Scores {
    const AttentionBackwardArgs& args;
    const Tile& tile;
    u32 head, row, key;

    // Row and key of a score, from the first ones on.
    static DEVICE_MEMBER u32 row_of(u32 b, u32 i) { return KEYS ? column_of_score(i) : row_of_score(i) + 16 * b; }
    static DEVICE_MEMBER u32 key_of(u32 b, u32 i) { return KEYS ? row_of_score(i) + 16 * b : column_of_score(i); }

    template <class F>
    static DEVICE_MEMBER void each(F f) {
#pragma unroll
        for (u32 b = 0; b < S::BLOCKS; b++) {
#pragma unroll
            for (u32 i = 0; i < S::SCORES; i++) {
                f(b, i);
            }
        }
    }

    // `growth` is called with how fast a capped score grows with the scaled product.
    template <class F>
    DEVICE_MEMBER void make(f32 (&scores)[S::BLOCKS][S::SCORES], F growth) const {
        if (args.softcap > 0.0f) {
            cap(scores, growth);
        } else {
            each([&](u32 b, u32 i) { scores[b][i] *= args.scale * LOG2_E; });
        }
        if (args.alibi != 0) {
            bend(scores);
        }
        if (args.mask.present) {
            switch (args.mask.dtype) {
            case F16: return add_mask<F16>(scores);
            case BF16: return add_mask<BF16>(scores);
            default: add_mask<F32>(scores);
            }
        }
    }

    // tanh x = 1 - u with u = 2 / (e^2x + 1), whose error is absolute; near 0 a polynomial, whose error is relative. It grows
    // by 1 - tanh^2 x = u (2 - u).
    template <class F>
    DEVICE_MEMBER void cap(f32 (&scores)[S::BLOCKS][S::SCORES], F growth) const {
        const f32 softcap = f32_of_bits(anew(bits_of(args.softcap)));
        const f32 factor = args.scale * reciprocal(softcap), cap = softcap * LOG2_E;
        each([&](u32 b, u32 i) {
            const f32 x = scores[b][i] * factor, z = x * x;
            const f32 q = fma(fma(fma(2.186949e-2f, z, -5.3968254e-2f), z, 1.3333334e-1f), z, -3.3333334e-1f);
            const f32 u = 2.0f * reciprocal(exp2_of(x * (2.0f * LOG2_E)) + 1.0f);
            scores[b][i] = z < 0.0625f ? cap * fma(q * z, x, x) : cap - cap * u;
            growth(b, i, u * (2.0f - u));
        });
    }

    // By the slope of the head.
    DEVICE_MEMBER void bend(f32 (&scores)[S::BLOCKS][S::SCORES]) const {
        const f32 slope = LOG2_E * load_global_f32(args.alibi + (u64)((i64)head * args.alibi_step * 4));
        const i32 far = distance_of(tile, row, key);
        each([&](u32 b, u32 i) {
            const i32 distance = far + (i32)key_of(b, i) - (i32)row_of(b, i);
            scores[b][i] -= slope * (f32)(distance < 0 ? -distance : distance);
        });
    }

    // Nothing is read of rows and keys past the last.
    template <u32 MASK>
    DEVICE_MEMBER void add_mask(f32 (&scores)[S::BLOCKS][S::SCORES]) const {
        const Heads& x = args.mask;
        const i64 step = width_of(MASK);
        const u64 first = attention_backward::row_of(x, tile.batch, head, row) + (u64)((i64)key * x.column * step);
        each([&](u32 b, u32 i) {
            const u32 r = row_of(b, i), k = key_of(b, i);
            if (row + r < tile.rows && key + k < tile.keys) {
                const f32 mask = load_as(MASK, first + (u64)(((i64)r * x.row + (i64)k * x.column) * step));
                scores[b][i] = clamped(fma(LOG2_E, mask, scores[b][i]), 2.0f * attention::LOWEST, -2.0f * attention::LOWEST);
            }
        });
    }
};

}  // namespace attention_backward
