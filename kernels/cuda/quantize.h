// What launches of `quantize` are given: the C++ side of their structs in `kernels/src/args.rs`.
#pragma once

#include "cuda/view.h"

// A scale for each row, or for the tensor.
struct QuantizeRowsArgs {
    Rows rows;
    // x, out, scale (without an innermost axis).
    View views[3];
    // 1: one scale for the tensor.
    u32 tensor;
    u32 padding;
};

// Scales of cells of matrices of m by n.
struct QuantizeCellsArgs {
    // Axes of the matrices; rows of one have the stride that follows theirs.
    Axes outer;
    // x, out, scale, min.
    View views[4];
    u64 m, n;
    // Tiles of 128 by 128 down and across a matrix; those of the launch.
    u64 down, across;
    u64 first, count;
    // By its number in `QuantizeFormat`.
    u32 format;
    u32 padding;
};

// The way back.
struct DequantizeArgs {
    Range range;
    // x, scale, min, out.
    View views[4];
    // Rows of a matrix and of a cell, its columns, and the scales' stride from cell to cell down.
    u64 m;
    u32 height, width;
    i64 down;
};

static_assert(sizeof(QuantizeRowsArgs) == 104 + 3 * 72 + 8, "as in kernels/src/args.rs");
static_assert(sizeof(QuantizeCellsArgs) == 56 + 4 * 72 + 56, "as in kernels/src/args.rs");
static_assert(sizeof(DequantizeArgs) == 80 + 4 * 72 + 24, "as in kernels/src/args.rs");
