// `softmax`: e^(scale x - max) over its sum along a row, with the row in registers; zeros where all is hidden. Passes of a
// row in pieces: each piece's maximum and sum; results.
#pragma once

#include "cuda/rows.h"
#include "cuda/tile/functions.h"
#include "cuda/tile/rows.h"

namespace softmax {

// What exponents are taken from: a number, even where all is hidden.
DEVICE f32 base_of(f32 max) { return max == -infinity() ? 0.0f : max; }

template <class S>
DEVICE void run(const SoftmaxArgs& args) {
    const Part<S> part(args.rows);
    if (!part.is()) {
        return;
    }
    u64 at[2];
    begin_row(at, args.views, args.rows.outer, part.row);
    Held<S> x;
    x.load(args.views[0], at[0], part);
    f32 own = -infinity(), base, sum;
    x.each(part, [&](f32& v, u32) {
        v *= args.scale;
        own = larger(own, v);
    });
    // Elements become exponentials.
    const auto raise = [&] {
        f32 sum = 0.0f;
        x.each(part, [&](f32& v, u32) {
            v = exp_of(v - base);
            sum += v;
        });
        return sum;
    };
    if (args.rows.pieces == 1 || args.rows.pass == 0) {
        const f32 max = fold_lanes<S>(own, larger);
        base = base_of(max);
        sum = fold_lanes<S>(raise(), sum_of);
        if (args.rows.pieces > 1) {
            part.leave_own(0, 2, max);
            part.leave_own(1, 2, sum);
            return;
        }
    } else {
        const auto max_of = [&](u32 i) { return load_global_f32(part.state(i, 0, 2)); };
        base = base_of(part.meet(-infinity(), max_of, larger));
        const auto shifted = [&](u32 i) { return load_global_f32(part.state(i, 1, 2)) * exp_of(base_of(max_of(i)) - base); };
        sum = part.meet(0.0f, shifted, sum_of);
        raise();
    }
    const f32 factor = sum == 0.0f ? 0.0f : divided(1.0f, sum);
    const View& out = args.views[1];
    part.each([&](u32 i) {
#pragma unroll
        for (u32 j = 0; j < SIDE; j++) {
            x.v[i][j] *= factor;
        }
        store_values(out.dtype, along(out, at[1], part.first() + part.column(i)), out.inner, part.side(i), x.v[i]);
    });
}

}  // namespace softmax
