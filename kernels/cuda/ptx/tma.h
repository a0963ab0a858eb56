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

// Takes the box at a place from shared memory, which the writers fenced by `fence_async`. It belongs to the group of the
// thread's next `commit_stores`.
DEVICE void store_box(const TensorMap& map, u32 shared, const i32 (&at)[5]) {
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(&map),
        "r"(shared), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
        : "memory");
}

DEVICE void commit_stores() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until at most `PENDING` of this thread's committed groups have yet to read shared memory.
template <u32 PENDING>
DEVICE void wait_stores_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}
