// What launches of `copy` and `map` are given: the C++ side of `CopyArgs` and `MapArgs` in `kernels/src/args.rs`.
#pragma once

#include "cuda/view.h"

struct CopyArgs {
    Range range;
    // x, out.
    View views[2];
};

struct TurnArgs {
    // Axes outside the two that change places.
    Axes outer;
    // x, out: `inner` along columns, where out is dense; the strides that follow those of `outer` along rows, where x is.
    View views[2];
    u64 rows, columns;
    // Tiles of 64 by 64 down and across; those of the launch.
    u64 down, across;
    u64 first, count;
};

struct MapArgs {
    Range range;
    // x, y (any view that may be read where the function has one input), out.
    View views[3];
    u32 function;
    f32 scale, shift;
    u32 padding;
};

static_assert(sizeof(TurnArgs) == 56 + 2 * 72 + 48, "as in kernels/src/args.rs");
static_assert(sizeof(CopyArgs) == 80 + 2 * 72 && sizeof(MapArgs) == 80 + 3 * 72 + 16, "as in kernels/src/args.rs");
