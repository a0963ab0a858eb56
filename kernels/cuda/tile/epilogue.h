// What follows a product, in f32 and in this order: alpha, beta C, bias, the pre-activation, activation, gate, residual,
// and the cast. Every matmul kernel ends here, an element at a time.
#pragma once

#include "cuda/matmul.h"
#include "cuda/tile/element.h"
#include "cuda/tile/functions.h"

// A matrix of an entry of the batch: only its address is a register, the rest stays with the launch's arguments.
struct Matrix {
    const Matrices& all;
    u64 at;
};

// The matrix of a batch entry. Entries count through the last axis of the batch first.
DEVICE Matrix matrix_of(const Matrices& all, const u32 (&batch)[4], u32 entry) {
    i64 offset = 0;
    u32 rest = entry;
    for (i32 axis = 3; axis >= 0; axis--) {
        offset += (i64)(rest % batch[axis]) * all.batch[axis];
        rest /= batch[axis];
    }
    return {all, all.at + (u64)(offset * (i64)width_of(all.dtype))};
}

DEVICE u64 address_of(const Matrix& x, u32 row, u32 column) {
    return x.at + (u64)(((i64)row * x.all.row + (i64)column * x.all.column) * (i64)width_of(x.all.dtype));
}

DEVICE f32 load_element(const Matrix& x, u32 row, u32 column) { return load_as(x.all.dtype, address_of(x, row, column)); }

DEVICE void store_element(const Matrix& x, u32 row, u32 column, f32 v) {
    store_as(x.all.dtype, address_of(x, row, column), v);
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

    // Writes the result of a sum, which lies inside the output.
    DEVICE_MEMBER void write(u32 row, u32 column, f32 sum) const {
        f32 v = args_.alpha * sum;
        if (c_.all.present) {
            v += args_.beta * load_element(c_, row, column);
        }
        if (bias_.all.present) {
            v += load_element(bias_, row, column);
        }
        if (preactivation_.all.present) {
            store_element(preactivation_, row, column, v);
        }
        v = activated(args_.activation, v);
        if (gate_.all.present) {
            v *= load_element(gate_, row, column);
        }
        if (residual_.all.present) {
            v += load_element(residual_, row, column);
        }
        store_element(out_, row, column, v);
    }

  private:
    const MatmulArgs& args_;
    Matrix bias_, c_, gate_, residual_, out_, preactivation_;
};
