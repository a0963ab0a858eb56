// `norm`: each row less its mean over its deviation (layer), or over its root mean square, with the row in registers.
// Passes of a row in pieces: sums (of layer alone), squares, results.
#pragma once

#include "cuda/rows.h"
#include "cuda/tile/rows.h"

namespace norm_forward {

template <class S>
DEVICE void run(const NormArgs& args) {
    const Part<S> part(args.rows);
    if (!part.is()) {
        return;
    }
    u64 at[2];
    begin_row(at, args.views, args.rows.outer, part.row);
    Held<S> x;
    x.load(args.views[0], at[0], part);
    Moments moments;
    if (!moments.find_in(x, part, args.layer != 0, args.epsilon, 2)) {
        return;
    }
    const View& out = args.views[1];
    part.each([&](u32 i) {
        f32 y[SIDE], beside[SIDE];
#pragma unroll
        for (u32 j = 0; j < SIDE; j++) {
            y[j] = (x.v[i][j] - moments.mean) * moments.factor;
        }
        if (args.weight.present) {
            load_beside(beside, args.weight, part, i);
#pragma unroll
            for (u32 j = 0; j < SIDE; j++) {
                y[j] *= beside[j];
            }
        }
        if (args.bias.present) {
            load_beside(beside, args.bias, part, i);
#pragma unroll
            for (u32 j = 0; j < SIDE; j++) {
                y[j] += beside[j];
            }
        }
        store_values(out.dtype, along(out, at[1], part.first() + part.column(i)), out.inner, part.side(i), y);
    });
}

}  // namespace norm_forward
