// Copies of boxes of a tensor between global and shared memory by the copy engine. One thread starts each; what lies
// outside the tensor reads as zeros and is not written. Both ends are swizzled as the map says.
#pragma once

#include "cuda/types.h"

// What the driver makes of a tensor's address, sizes, strides, box and swizzle.
struct alignas(64) TensorMap {
    u64 words[16];
};

// Brings the box at a place of a tensor of five axes, the dense one first; its bytes count at the barrier.
DEVICE void copy_box(u32 shared, const TensorMap& map, u32 barrier, const i32 (&at)[5]) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(shared),
        "l"(&map), "r"(barrier), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
        : "memory");
}
