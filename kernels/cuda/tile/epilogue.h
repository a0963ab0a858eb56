// What follows a product, in f32 and in this order: alpha, beta C, bias, the pre-activation, activation, gate, residual,
// and the cast. Every matmul kernel ends here, with one element or with a few neighbours of a row; bits are the same, since
// every step rounds by itself or is an `fma` by name: no row is compiled with contraction.
#pragma once

#include "cuda/matmul.h"
#include "cuda/tile/element.h"
#include "cuda/tile/functions.h"
#include "cuda/tile/vector.h"

// A matrix of an entry of the batch: only its address is a register, the rest stays with the launch's arguments.
struct Matrix {
    const Matrices& all;
    u64 at;
};

// The matrix of a batch entry, and of one that lies so many bytes behind it. Entries count through the last axis of the batch
// first; the outermost takes what is left.
DEVICE Matrix matrix_of(const Matrices& all, const u32 (&batch)[4], u32 entry, u64 behind = 0) {
    i64 offset = 0;
    u32 rest = entry;
    for (i32 axis = 3; axis > 0; axis--) {
        offset += (i64)(rest % batch[axis]) * all.batch[axis];
        rest /= batch[axis];
    }
    offset += (i64)rest * all.batch[0];
    return {all, all.at + (u64)(offset * (i64)width_of(all.dtype)) + behind};
}

DEVICE u64 address_of(const Matrix& x, u32 row, u32 column) {
    return x.at + (u64)(((i64)row * x.all.row + (i64)column * x.all.column) * (i64)width_of(x.all.dtype));
}

// The first n of N neighbours of a row.
template <u32 N>
DEVICE void load_elements(f32 (&v)[N], const Matrix& x, u32 row, u32 column, u32 n) {
    if constexpr (N < 4) {
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            v[i] = i < n ? load_as(x.all.dtype, address_of(x, row, column + i)) : 0.0f;
        }
    } else {
        load_values(v, x.all.dtype, address_of(x, row, column), x.all.column, n);
    }
}

template <u32 N>
DEVICE void store_elements(const Matrix& x, u32 row, u32 column, u32 n, const f32 (&v)[N]) {
    if constexpr (N < 4) {
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            if (i < n) {
                store_as(x.all.dtype, address_of(x, row, column + i), v[i]);
            }
        }
    } else {
        store_values(x.all.dtype, address_of(x, row, column), x.all.column, n, v);
    }
}

class Epilogue {
  public:
    DEVICE_MEMBER Epilogue(const MatmulArgs& args, u32 entry)
        : args_(args),
          bias_(matrix_of(args.bias, args.batch, entry)),
          c_(matrix_of(args.c, args.batch, entry)),
          gate_(matrix_of(args.gate, args.batch, entry)),
          residual_(matrix_of(args.residual, args.batch, entry)),
          out_(matrix_of(args.out, args.batch, entry)),
          preactivation_(matrix_of(args.preactivation, args.batch, entry)) {}

    // Writes the results of the first n sums of N neighbours of a row, which lie inside the output. Where columns gate each
    // other n is even, and `column` is B's.
    template <u32 N>
    DEVICE_MEMBER void write(u32 row, u32 column, u32 n, f32 (&v)[N]) const {
        before(row, column, n, v);
        if constexpr (N > 1) {
            if (args_.interleaved) {
                f32 halves[N / 2];
                gated(row, column / 2, n / 2, v, halves);
                return store_elements(out_, row, column / 2, n / 2, halves);
            }
        }
        after(row, column, n, v);
        store_elements(out_, row, column, n, v);
    }

    DEVICE_MEMBER void write(u32 row, u32 column, f32 sum) const {
        f32 v[1] = {sum};
        write(row, column, 1, v);
    }

    // Zeros in their place, for rows of no group.
    template <u32 N>
    DEVICE_MEMBER void clear(u32 row, u32 column, u32 n) const {
        const f32 zeros[N] = {};
        clear_before<N>(row, column, n);
        const u32 shift = args_.interleaved;
        store_elements(out_, row, column >> shift, n >> shift, zeros);
    }

    template <u32 N>
    DEVICE_MEMBER void clear_before(u32 row, u32 column, u32 n) const {
        const f32 zeros[N] = {};
        if (preactivation_.all.present) {
            store_elements(preactivation_, row, column, n, zeros);
        }
    }

    // Up to the pre-activation.
    template <u32 N>
    DEVICE_MEMBER void before(u32 row, u32 column, u32 n, f32 (&v)[N]) const {
        f32 x[N];
        each(v, x, [&](f32 sum, f32) { return args_.alpha * sum; });
        if (c_.all.present) {
            load_elements(x, c_, row, column, n);
            each(v, x, [&](f32 sum, f32 c) { return fma(args_.beta, c, sum); });
        }
        if (bias_.all.present) {
            load_elements(x, bias_, row, column, n);
            each(v, x, [](f32 sum, f32 bias) { return sum + bias; });
        }
    }

    // From there to the cast. All is read before anything is written: outputs may lie where these operands do.
    template <u32 N>
    DEVICE_MEMBER void after(u32 row, u32 column, u32 n, f32 (&v)[N]) const {
        f32 before[N], x[N];
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            before[i] = v[i];
        }
        activate(v);
        if (gate_.all.present) {
            load_elements(x, gate_, row, column, n);
            each(v, x, [](f32 sum, f32 gate) { return sum * gate; });
        }
        add_residual(row, column, n, v);
        store_preactivation(row, column, n, before);
    }

    // The same of pairs, whose second gates the first: `column` and n are those of the output.
    template <u32 N>
    DEVICE_MEMBER void gated(u32 row, u32 column, u32 n, f32 (&pairs)[N], f32 (&v)[N / 2]) const {
        store_preactivation(row, 2 * column, 2 * n, pairs);
        f32 gates[N / 2];
#pragma unroll
        for (u32 i = 0; i < N / 2; i++) {
            v[i] = pairs[2 * i], gates[i] = pairs[2 * i + 1];
        }
        activate(v);
        each(v, gates, [](f32 sum, f32 gate) { return gate * sum; });
        add_residual(row, column, n, v);
    }

    // Where an output lies.
    DEVICE_MEMBER u64 place(u32 row, u32 column) const { return address_of(out_, row, column); }

  private:
    template <u32 N>
    DEVICE_MEMBER void activate(f32 (&v)[N]) const {
        if (args_.activation != NONE) {
            each(v, v, [&](f32 sum, f32) { return activated(args_.activation, sum); });
        }
    }

    template <u32 N>
    DEVICE_MEMBER void add_residual(u32 row, u32 column, u32 n, f32 (&v)[N]) const {
        if (residual_.all.present) {
            f32 x[N];
            load_elements(x, residual_, row, column, n);
            each(v, x, [](f32 sum, f32 residual) { return sum + residual; });
        }
    }

    template <u32 N>
    DEVICE_MEMBER void store_preactivation(u32 row, u32 column, u32 n, const f32 (&v)[N]) const {
        if (preactivation_.all.present) {
            store_elements(preactivation_, row, column, n, v);
        }
    }

    template <u32 N, class F>
    static DEVICE_MEMBER void each(f32 (&v)[N], const f32 (&x)[N], F f) {
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            v[i] = f(v[i], x[i]);
        }
    }

    const MatmulArgs& args_;
    Matrix bias_, c_, gate_, residual_, out_, preactivation_;
};
