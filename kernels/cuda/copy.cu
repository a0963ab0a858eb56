// `copy`: the bits of one view to another of the same shape, elements of one, two or four bytes, 16 bytes a thread at once
// where both lie dense.
#pragma once

#include "cuda/copy.h"
#include "cuda/tile/vector.h"
#include "cuda/tile/walk.h"

namespace copy {

template <u32 WIDTH_>
struct Shape {
    static constexpr u32 WIDTH = WIDTH_, VECTOR = 16 / WIDTH;
    static constexpr u32 THREADS = BLOCK_THREADS, SHARED_BYTES = 0;
};

template <class S>
DEVICE void run(const CopyArgs& args) {
    each_vector<S::VECTOR>(args.range, [&](u64 row, u64 column, u32 n) {
        const View &x = args.views[0], &out = args.views[1];
        u64 at[2];
        begin_row(at, args.views, args.range.outer, row);
        u32 words[4];
        load_bits<S::WIDTH, S::VECTOR>(words, along(x, at[0], column), x.inner, n);
        store_bits<S::WIDTH, S::VECTOR>(along(out, at[1], column), out.inner, n, words);
    });
}

}  // namespace copy
