// Makes the list of the matrices that entries of a batch name, from indices in device memory, which a tenant may change at any
// time: each is read once, and held to the matrices that there are. One entry a thread.
#pragma once

#include "cuda/matmul.h"
#include "cuda/tile/fault.h"

// Indices of a side: u32 or i32 words and their strides along the batch, how many matrices it has, and how far they lie
// apart. Where there are none, nothing is read, and nothing named.
struct Indices {
    u64 at;
    i64 batch[4];
    u64 step;
    u32 matrices;
    u32 present;
};

struct MatmulIndicesArgs {
    Indices a, b;
    // The list: a `MatrixPair` of each entry of the launch. And three words.
    u64 pairs, fault;
    u32 batch[4];
    // Entries of the launch.
    u32 first, count;
};

static_assert(sizeof(MatmulIndicesArgs) == 152, "as in kernels/src/matmul_indices.rs");

namespace matmul_indices {

struct Shape {
    static constexpr u32 THREADS = 256, SHARED_BYTES = 0;
};

// Where the matrix of an entry lies; `NO_MATRIX` and a fault where its index is none.
DEVICE u64 named(const Indices& side, const MatmulIndicesArgs& args, u32 entry) {
    if (!side.present) {
        return 0;
    }
    i64 offset = 0;
    u32 rest = entry;
    for (i32 axis = 3; axis >= 0; axis--) {
        offset += (i64)(rest % args.batch[axis]) * side.batch[axis];
        rest /= args.batch[axis];
    }
    const u32 index = load_global_u32(side.at + (u64)(offset * 4));
    if (index >= side.matrices) {
        report_fault(args.fault, index, side.matrices);
        return NO_MATRIX;
    }
    return index * side.step;
}

template <class S>
DEVICE void run(const MatmulIndicesArgs& args) {
    const u32 own = block_index() * S::THREADS + thread_index();
    if (own >= args.count) {
        return;
    }
    const u64 a = named(args.a, args, args.first + own), b = named(args.b, args, args.first + own);
    const bool is = a != NO_MATRIX && b != NO_MATRIX;
    const MatrixPair pair{is ? a : NO_MATRIX, is ? b : NO_MATRIX};
    const u32x4 words{(u32)pair.a, (u32)(pair.a >> 32), (u32)pair.b, (u32)(pair.b >> 32)};
    store_global_u32x4(args.pairs + (u64)own * sizeof(MatrixPair), words);
}

}  // namespace matmul_indices
