// From the number of a row to the addresses where it begins, and from threads to the vectors of a launch.
#pragma once

#include "cuda/ptx.h"
#include "cuda/tile/element.h"
#include "cuda/view.h"

constexpr u32 BLOCK_THREADS = 256;
// Vectors of a thread, one after the other.
constexpr u32 VECTORS = 4;

// a / b, by 32 bits where they are enough: what 64 take is a call.
DEVICE u64 whole_quotient(u64 a, u64 b) { return ((a | b) >> 32) == 0 ? (u32)a / (u32)b : a / b; }

// The address of an element of a row that begins at `at`.
DEVICE u64 along(const View& view, u64 at, u64 column) {
    return at + (u64)((i64)column * view.inner * (i64)width_of(view.dtype));
}

// Where a row begins in each view.
template <u32 N>
DEVICE void begin_row(u64 (&at)[N], const View (&views)[N], const Axes& axes, u64 row) {
    i64 offsets[N] = {};
    u64 rest = row;
#pragma unroll 1
    for (u32 axis = axes.rank; axis > 0; axis--) {
        // The outermost takes what is left: no division.
        const u64 next = axis == 1 ? 0 : whole_quotient(rest, axes.sizes[axis - 1]);
        const i64 index = (i64)(axis == 1 ? rest : rest - next * axes.sizes[axis - 1]);
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            offsets[i] += index * views[i].outer[axis - 1];
        }
        rest = next;
    }
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        at[i] = views[i].at + (u64)(offsets[i] * (i64)width_of(views[i].dtype));
    }
}

// Calls `f(row, column, n)` for the thread's vectors of up to V elements.
template <u32 V, class F>
DEVICE void each_vector(const Range& range, F f) {
    const u64 of_row = (range.inner + V - 1) / V;
#pragma unroll 1
    for (u32 i = 0; i < VECTORS; i++) {
        const u64 own = ((u64)block_index() * VECTORS + i) * BLOCK_THREADS + thread_index();
        if (own >= range.count) {
            return;
        }
        const u64 index = range.first + own;
        const u64 row = range.outer.rank == 0 ? 0 : whole_quotient(index, of_row);
        const u64 column = (index - row * of_row) * V;
        const u64 left = range.inner - column;
        f(row, column, left < V ? (u32)left : V);
    }
}
