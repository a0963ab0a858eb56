// What launches of the ops along rows are given: the C++ side of their structs in `kernels/src/args.rs`.
#pragma once

#include "cuda/view.h"

struct NormArgs {
    Rows rows;
    // x, out.
    View views[2];
    View weight, bias;
    f32 epsilon;
    // 1: mean and variance; 0: root mean square.
    u32 layer;
};

struct NormBackwardArgs {
    Rows rows;
    // x, d_out, d_x, terms.
    View views[4];
    View weight;
    f32 epsilon;
    u32 layer;
};

struct SoftmaxArgs {
    Rows rows;
    // x, out.
    View views[2];
    f32 scale;
    u32 padding;
};

struct ReduceArgs {
    Rows rows;
    // x; out, without an innermost axis.
    View views[2];
    u32 function;
    u32 padding;
};

struct ArgMaxArgs {
    Rows rows;
    // x; index, without an innermost axis.
    View views[2];
};

struct TopKArgs {
    Rows rows;
    // x, value, index.
    View views[3];
    u32 k;
    u32 padding;
};

static_assert(sizeof(ArgMaxArgs) == 104 + 2 * 72 && sizeof(TopKArgs) == 104 + 3 * 72 + 8, "as in kernels/src/args.rs");
static_assert(sizeof(NormArgs) == 104 + 4 * 72 + 8 && sizeof(SoftmaxArgs) == 104 + 2 * 72 + 8, "as in kernels/src/args.rs");
static_assert(sizeof(NormBackwardArgs) == 104 + 5 * 72 + 8, "as in kernels/src/args.rs");
static_assert(sizeof(ReduceArgs) == 104 + 2 * 72 + 8, "as in kernels/src/args.rs");
