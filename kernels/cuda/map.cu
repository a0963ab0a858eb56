// `map`: a function of each element, or of each pair, in f32; integers in their own type, wrapping. What the function is
// and what types the operands have is the same for a launch.
#pragma once

#include "cuda/copy.h"
#include "cuda/tile/functions.h"
#include "cuda/tile/vector.h"
#include "cuda/tile/walk.h"

namespace map {

// Functions by their numbers in `MapFn`.
enum Function : u32 {
    IDENTITY, NEG, ABS, EXP, LOG, SQRT, RSQRT, RECIP, SQUARE, TANH, SIGMOID, MAP_RELU, MAP_GELU_ERF, MAP_GELU_TANH, MAP_SILU,
    ADD, SUB, MUL, DIV, MAX, MIN
};

// VECTOR: elements of a thread at once: four, or eight where all types are of 16 bits.
template <u32 VECTOR_, bool INTEGERS_>
struct Shape {
    static constexpr u32 VECTOR = VECTOR_;
    static constexpr bool INTEGERS = INTEGERS_;
    static constexpr u32 THREADS = BLOCK_THREADS, SHARED_BYTES = 0;
};

DEVICE f32 of_floats(u32 function, f32 x, f32 y) {
    switch (function) {
    case NEG: return -x;
    case ABS: return f32_of_bits(bits_of(x) & 0x7fffffffu);
    case EXP: return exp_of(x);
    case LOG: return ln_of(x);
    case SQRT: return root(x);
    case RSQRT: return divided(1.0f, root(x));
    case RECIP: return divided(1.0f, x);
    case SQUARE: return x * x;
    case TANH: return tanh_of(x);
    case SIGMOID: return divided(1.0f, 1.0f + exp_of(-x));
    case MAP_RELU: return activated(RELU, x);
    case MAP_GELU_ERF: return activated(GELU_ERF, x);
    case MAP_GELU_TANH: return activated(GELU_TANH, x);
    case MAP_SILU: return divided(x, 1.0f + exp_of(-x));
    case ADD: return x + y;
    case SUB: return x - y;
    case MUL: return x * y;
    case DIV: return divided(x, y);
    case MAX: return larger(x, y);
    case MIN: return smaller(x, y);
    default: return x;
    }
}

DEVICE u32 of_integers(u32 function, bool is_signed, u32 x, u32 y) {
    const bool less = is_signed ? (i32)x < (i32)y : x < y;
    switch (function) {
    case ADD: return x + y;
    case SUB: return x - y;
    case MUL: return x * y;
    case MAX: return less ? y : x;
    case MIN: return less ? x : y;
    default: return x;
    }
}

template <class S>
DEVICE void run(const MapArgs& args) {
    constexpr u32 N = S::VECTOR;
    each_vector<N>(args.range, [&](u64 row, u64 column, u32 n) {
        const View &of_x = args.views[0], &of_y = args.views[1], &out = args.views[2];
        u64 at[3];
        begin_row(at, args.views, args.range.outer, row);
        const u64 x_at = along(of_x, at[0], column), y_at = along(of_y, at[1], column), out_at = along(out, at[2], column);
        const bool pairs = args.function >= ADD;
        if constexpr (S::INTEGERS) {
            u32 x[N], y[N] = {};
            load_bits<4, N>(x, x_at, of_x.inner, n);
            if (pairs) {
                load_bits<4, N>(y, y_at, of_y.inner, n);
            }
#pragma unroll
            for (u32 i = 0; i < N; i++) {
                x[i] = of_integers(args.function, out.dtype == I32, x[i], y[i]);
            }
            store_bits<4, N>(out_at, out.inner, n, x);
        } else {
            f32 x[N], y[N] = {};
            load_values(x, of_x.dtype, x_at, of_x.inner, n);
            if (pairs) {
                load_values(y, of_y.dtype, y_at, of_y.inner, n);
            }
#pragma unroll
            for (u32 i = 0; i < N; i++) {
                x[i] = args.scale * of_floats(args.function, x[i], y[i]) + args.shift;
            }
            store_values(out.dtype, out_at, out.inner, n, x);
        }
    });
}

}  // namespace map
