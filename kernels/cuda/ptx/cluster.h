// Blocks of a cluster, which run at one time and reach each other's shared memory. Which are one is said where a kernel is
// compiled (`KERNEL_OF_CLUSTER`).
#pragma once

#include "cuda/types.h"

// A block's number in its cluster.
DEVICE u32 cluster_rank() {
    u32 x;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(x));
    return x;
}

// All threads of all blocks; orders what they did to shared memory.
DEVICE void sync_cluster() {
    asm volatile(
        "barrier.cluster.arrive.release.aligned;\n"
        "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Arrives at the barrier that lies at this address in the block of a number: for those who have only read, since it hands on
// nothing that the thread wrote to others than its own block. No block may end before all that is signalled to it has come.
DEVICE void arrive_at(u32 barrier, u32 rank) {
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
        "}" ::"r"(barrier), "r"(rank) : "memory");
}
