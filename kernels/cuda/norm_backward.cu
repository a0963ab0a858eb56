// `norm_backward`: the gradient of each row that `norm` took, and the terms of the weight's gradient, with both rows in
// registers: those of more than 4096 elements are 512 lanes', in pieces of 8192. Passes of a row in pieces: sums (of layer
// alone), squares, sums of the gradient and along the row, results.
#pragma once

#include "cuda/rows.h"
#include "cuda/tile/rows.h"

namespace norm_backward {

template <class S>
DEVICE void run(const NormBackwardArgs& args) {
    const Part<S> part(args.rows);
    if (!part.is()) {
        return;
    }
    u64 at[4];
    begin_row(at, args.views, args.rows.outer, part.row);
    Held<S> y, gradient;
    y.load(args.views[0], at[0], part);
    gradient.load(args.views[1], at[1], part);
    const f32 n = (f32)args.rows.n;
    Moments moments;
    if (!moments.find_in(y, part, args.layer != 0, args.epsilon, 4)) {
        return;
    }
    f32 along_row = 0.0f, shift = 0.0f;
    // Rows become normalised; what the weight makes of the gradient is found anew where it is needed.
    const auto weighted = [&](u32 i, f32 (&g)[SIDE]) {
        load_beside(g, args.weight, part, i);
#pragma unroll
        for (u32 j = 0; j < SIDE; j++) {
            g[j] = args.weight.present ? g[j] * gradient.v[i][j] : gradient.v[i][j];
        }
    };
    part.each([&](u32 i) {
        const u32 side = part.side(i);
        f32 g[SIDE];
        weighted(i, g);
#pragma unroll
        for (u32 j = 0; j < SIDE; j++) {
            y.v[i][j] = (y.v[i][j] - moments.mean) * moments.factor;
            if (j < side) {
                along_row += g[j] * y.v[i][j];
                shift += g[j];
            }
        }
    });
    const f32 own[2] = {along_row, shift};
    if (!part.fold(2, 2, 4, 0.0f, [&] { return own[0]; }, sum_of, along_row) |
        !part.fold(2, 3, 4, 0.0f, [&] { return own[1]; }, sum_of, shift)) {
        return;
    }
    along_row = divided(along_row, n);
    shift = args.layer ? divided(shift, n) : 0.0f;
    const View &d_x = args.views[2], &terms = args.views[3];
    part.each([&](u32 i) {
        const u64 column = part.first() + part.column(i);
        f32 g[SIDE];
        weighted(i, g);
#pragma unroll
        for (u32 j = 0; j < SIDE; j++) {
            g[j] = moments.factor * (g[j] - shift - y.v[i][j] * along_row);
            y.v[i][j] *= gradient.v[i][j];
        }
        store_values(d_x.dtype, along(d_x, at[2], column), d_x.inner, part.side(i), g);
        store_values(F32, along(terms, at[3], column), terms.inner, part.side(i), y.v[i]);
    });
}

}  // namespace norm_backward
