// `rope`: each pair turns by the angle of its position. Angles are fractions of a turn, so that the product of a position
// and a frequency, modulo 2^64, is exact however far the position.
#pragma once

#include "cuda/index.h"
#include "cuda/tile/functions.h"
#include "cuda/tile/vector.h"
#include "cuda/tile/walk.h"

namespace rope {

// VECTOR: pairs, or elements that do not turn, of a thread at once.
struct Shape {
    static constexpr u32 VECTOR = 8;
    static constexpr u32 THREADS = BLOCK_THREADS, SHARED_BYTES = 0;
};

// Sine and cosine of `turn / 2^32` turns: the nearest quarter apart, Cephes (sinf, cosf) on the rest.
DEVICE void sine_cosine(u32 turn, f32& sine, f32& cosine) {
    const u32 quarter = (turn + 0x20000000u) >> 30;
    const f32 r = (f32)(i32)(turn - (quarter << 30)) * 1.4629180792671596e-9f;
    const f32 z = r * r;
    f32 s = -1.9515296e-4f;
    s = fma(s, z, 8.332161e-3f);
    s = fma(s, z, -1.6666655e-1f);
    s = fma(s * z, r, r);
    f32 c = 2.4433157e-5f;
    c = fma(c, z, -1.3887316e-3f);
    c = fma(c, z, 4.1666646e-2f);
    c = fma(c, z * z, fma(z, -0.5f, 1.0f));
    const bool odd = quarter % 2 == 1;
    sine = f32_of_bits(bits_of(odd ? c : s) ^ (quarter & 2) << 30);
    cosine = f32_of_bits(bits_of(odd ? s : c) ^ ((quarter + 1) & 2) << 30);
}

// Turns a pair: k of the frequencies, by a position of so many.
DEVICE void turn_pair(u64 turns, u32 k, u64 position, f32& a, f32& b) {
    const u32x2 words = load_global_u32x2(turns + (u64)k * 8);
    const u64 angle = position * ((u64)words.y << 32 | words.x);
    f32 sine, cosine;
    sine_cosine((u32)((angle + 0x80000000u) >> 32), sine, cosine);
    const f32 x = a, y = b;
    a = x * cosine - y * sine;
    b = x * sine + y * cosine;
}

template <class S>
DEVICE void run(const RopeArgs& args) {
    constexpr u32 N = S::VECTOR;
    const u32 pairs = args.dims / 2, padded = (pairs + N - 1) / N * N;
    each_vector<N>(args.range, [&](u64 row, u64 column, u32 n) {
        const View &x = args.views[0], &at_position = args.views[1], &out = args.views[2];
        u64 at[3];
        begin_row(at, args.views, args.range.outer, row);
        const bool turns = column < padded, neighbours = args.interleaved != 0;
        const u32 first = (u32)column;
        // Elements of the first vector and of the second, which only pairs have.
        u64 from[2] = {turns ? (neighbours ? 2 * first : first) : args.dims + column - padded, 0};
        u32 count[2] = {n, 0};
        if (turns) {
            n = pairs - first < N ? pairs - first : N;
            from[1] = neighbours ? 2 * first + N : first + pairs;
            count[0] = neighbours && 2 * n < N ? 2 * n : neighbours ? N : n;
            count[1] = neighbours ? 2 * n - count[0] : n;
        }
        f32 v[2][N];
        load_values(v[0], x.dtype, along(x, at[0], from[0]), x.inner, count[0]);
        if (turns) {
            load_values(v[1], x.dtype, along(x, at[0], from[1]), x.inner, count[1]);
            const u32 word = load_global_u32(at[1]);
            const u64 position = at_position.dtype == I32 ? (u64)(i64)(i32)word : word;
            if (neighbours) {
#pragma unroll
                for (u32 i = 0; i < N; i++) {
                    if (i < n) {
                        turn_pair(args.turns, first + i, position, v[2 * i / N][2 * i % N], v[2 * i / N][2 * i % N + 1]);
                    }
                }
            } else {
#pragma unroll
                for (u32 i = 0; i < N; i++) {
                    if (i < n) {
                        turn_pair(args.turns, first + i, position, v[0][i], v[1][i]);
                    }
                }
            }
            store_values(out.dtype, along(out, at[2], from[1]), out.inner, count[1], v[1]);
        }
        store_values(out.dtype, along(out, at[2], from[0]), out.inner, count[0], v[0]);
    });
}

}  // namespace rope
