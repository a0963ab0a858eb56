// What the simple kernels of the ops that stream share: the thread's number, where an element lies, and its bits. None of it
// is the fast kernels': axes are walked one by one with plain divisions, elements move one by one.
#pragma once

#include "cuda/tile/element.h"
#include "cuda/view.h"

namespace streaming_reference {

// A thread has an element of the output, a row or a cell, and shares nothing.
struct Shape {
    static constexpr u32 THREADS = 256, SHARED_BYTES = 0;
};

DEVICE u64 thread_of_launch() { return (u64)block_index() * Shape::THREADS + thread_index(); }

// Where column `column` of row `row` of an op lies in a view.
DEVICE u64 address_of(const View& view, const Axes& axes, u64 row, u64 column) {
    i64 offset = (i64)column * view.inner;
    for (u32 axis = axes.rank; axis > 0; axis--) {
        offset += (i64)(row % axes.sizes[axis - 1]) * view.outer[axis - 1];
        row /= axes.sizes[axis - 1];
    }
    return view.at + (u64)(offset * (i64)width_of(view.dtype));
}

DEVICE u32 load_element(u32 dtype, u64 at) {
    switch (width_of(dtype)) {
    case 1: return load_global_u8(at);
    case 2: return load_global_u16(at);
    default: return load_global_u32(at);
    }
}

DEVICE void store_element(u32 dtype, u64 at, u32 bits) {
    switch (width_of(dtype)) {
    case 1: return store_global_u8(at, (u8)bits);
    case 2: return store_global_u16(at, (u16)bits);
    default: return store_global_u32(at, bits);
    }
}

}  // namespace streaming_reference
