// `norm`: each row less its mean over its deviation (layer), or over its root mean square, with the row in registers.
// Passes of a row in pieces: sums (of layer alone), squares, results.
#pragma once

#include "cuda/rows.h"
#include "cuda/tile/rows.h"

namespace norm_forward {

// The vector of a row that all rows share, beside a lane's vector `i`.
template <class S>
DEVICE void load_beside(f32 (&v)[SIDE], const View& view, const Part<S>& part, u32 i) {
    load_values(v, view.dtype, along(view, view.at, part.first() + part.column(i)), view.inner, part.side(i));
}

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
    const f32 n = (f32)args.rows.n;
    f32 mean = 0.0f, squares = 0.0f;
    if (args.layer) {
        const auto own = [&] { return sum_held(x, part, [](f32 v) { return v; }); };
        if (!part.fold(0, 2, 0.0f, own, sum_of, mean)) {
            return;
        }
        mean = divided(mean, n);
    }
    const auto own = [&] { return sum_held(x, part, [&](f32 v) { return (v - mean) * (v - mean); }); };
    if (!part.fold(1, 2, 0.0f, own, sum_of, squares)) {
        return;
    }
    const f32 factor = divided(1.0f, root(divided(squares, n) + args.epsilon));
    const View& out = args.views[1];
    part.each([&](u32 i) {
        f32 y[SIDE], beside[SIDE];
#pragma unroll
        for (u32 j = 0; j < SIDE; j++) {
            y[j] = (x.v[i][j] - mean) * factor;
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
