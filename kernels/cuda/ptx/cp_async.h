// Copies from global to shared memory that a thread starts and later waits for.
#pragma once

#include "cuda/types.h"

// Starts a copy of 16 bytes, of which `bytes` are read and the rest are zeros. Both addresses are multiples of 16.
DEVICE void copy_async16(u32 shared, u64 global, u32 bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}

// The copies that this thread started since the last commit become one group.
DEVICE void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `PENDING` of this thread's groups are on their way.
template <u32 PENDING>
DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
