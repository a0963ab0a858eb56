// What a launch of the products of 8-bit values is given: the C++ side of `kernels/src/matmul_scaled.rs`, field by field.
#pragma once

#include "cuda/matmul.h"

// What scales of a side cover: nothing, all of k, or each 128 of it.
enum ScaleDepth : u32 { UNSCALED = 0, SCALED_WHOLE = 1, SCALED_CHUNKS = 2 };

// How an output of 8 bits is scaled: not, by one scale that is given, or by one that is found for each 128 columns of a row.
enum Quantize : u32 { AS_IT_IS = 0, BY_GIVEN = 1, BY_FOUND = 2 };

// Scales of a side, all f32: of rows of A, or of columns of B.
struct Scales {
    // Address of the first, and strides in elements: along the batch, from one outer index (or 128 of them) to the next,
    // and from 128 of k to the next.
    u64 at;
    i64 batch[4];
    i64 outer, depth;
    // Outer indices of a scale, as a power of two: 0 or 7.
    u32 shift;
    // A `ScaleDepth`.
    u32 covers;
};

// What products of 8-bit values have beside other products.
struct MatmulScaling {
    Scales a, b;
    // The output's scale that is given, or those that are found, as [batch.., m, n/128].
    Matrices out;
    // A `Quantize`.
    u32 quantize;
    u32 padding;
};

struct MatmulScaledArgs {
    MatmulArgs matmul;
    MatmulScaling scaling;
};

static_assert(sizeof(Scales) == 64 && sizeof(MatmulScaling) == 200, "as in kernels/src/matmul_scaled.rs");
static_assert(sizeof(MatmulScaledArgs) == 816, "as in kernels/src/matmul_scaled.rs");
