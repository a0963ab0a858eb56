// What a launch of any matmul kernel is given: the C++ side of `MatmulArgs` in `kernels/src/matmul.rs`, field by field.
#pragma once

#include "cuda/types.h"

// The functions after the bias, by their numbers in `Activation`.
enum Activation : u32 { NONE = 0, RELU = 1, GELU_ERF = 2, GELU_TANH = 3, SILU = 4 };

// How rows are grouped, by their numbers in `Group`, or that entries of the batch name their matrices.
enum Group : u32 { UNGROUPED = 0, CONTIGUOUS = 1, MASKED = 2, ALONG_K = 3, BY_INDEX = 4 };

// Of a group: its first row (of contiguous ones) or first k (of those along k), its rows or k, and its first row of tiles.
struct GroupEntry {
    u32 first, size, tile;
};

// How far the matrices of A and of B that an entry of the batch names lie behind the first ones: bytes, or places along the
// last axis of a map. Both are `NO_MATRIX` where an index of either named none.
struct MatrixPair {
    u64 a, b;
};
constexpr u64 NO_MATRIX = 0xffffffffffffffff;

// Matrices of a batch: address of the first element, and strides in elements.
struct Matrices {
    u64 at;
    i64 batch[4];
    i64 row, column;
    u32 dtype;
    u32 present;
};

struct MatmulArgs {
    Matrices a, b, bias, c, gate, residual, out, preactivation;
    // Accumulators of a cut tile, as f32, or 0: what earlier links summed, and what later ones go on with.
    u64 state;
    // First tile, and how many; `cuda/tile/place.h` says which part of the output each is.
    u64 first_tile, tiles;
    u32 batch[4];
    u32 m, n, k;
    u32 tiles_m, tiles_n;
    // The part of k of this launch, whole chunks but for the end of k.
    u32 k_from, k_to;
    f32 alpha, beta;
    u32 activation;
    // 1: odd columns of B gate the even ones, and the output, gate and residual have half the columns.
    u32 interleaved;
    // How many groups, and which (a `Group`); `m` and `k` are the most that one has.
    u32 group, group_count;
    u32 padding;
    // The list of groups, in executor memory: a `GroupEntry` each, and of contiguous ones another for the rows of none. By
    // index a `MatrixPair` of each entry of the batch, of which those of the launch's are there.
    u64 groups;
};

static_assert(sizeof(MatmulArgs) == 616, "as in kernels/src/matmul.rs");
