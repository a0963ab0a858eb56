// What launches of the ops that stream through memory are given of tensors: the C++ side of `kernels/src/view.rs`.
#pragma once

#include "cuda/types.h"

// Axes outside the innermost one, the first outermost.
struct Axes {
    u64 sizes[6];
    u32 rank;
    u32 padding;
};

// A tensor as an op walks it: address of the first element, and strides in elements along the op's axes.
struct View {
    u64 at;
    i64 outer[6];
    i64 inner;
    u32 dtype;
    u32 present;
};

// Elements of an op, row by row, and those of a launch: vectors of a kernel's length, of which a row has as many as begin
// in it.
struct Range {
    Axes outer;
    u64 inner;
    u64 first, count;
};

// Rows of an op, and those of a launch. A row of more elements than a kernel holds is cut into pieces of that many, and
// what is known of each lies in `state`: by rows from the launch's first on, all pieces of a row, the words of a piece.
struct Rows {
    Axes outer;
    u64 n;
    u64 first, count;
    u64 state;
    // Pieces of a row, those of the launch, and which of the op's passes it is.
    u32 pieces, first_piece, piece_count, pass;
};

static_assert(sizeof(Axes) == 56 && sizeof(View) == 72, "as in kernels/src/view.rs");
static_assert(sizeof(Range) == 80 && sizeof(Rows) == 104, "as in kernels/src/view.rs");
