// Who a thread is, and how threads meet. One instruction a function.
#pragma once

#include "cuda/types.h"

DEVICE u32 thread_index() {
    u32 x;
    asm("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

DEVICE u32 block_index() {
    u32 x;
    asm("mov.u32 %0, %%ctaid.x;" : "=r"(x));
    return x;
}

DEVICE u32 block_count() {
    u32 x;
    asm("mov.u32 %0, %%nctaid.x;" : "=r"(x));
    return x;
}

// All threads of the block; orders what they did to shared memory.
DEVICE void sync_block() {
    asm volatile("bar.sync 0;" ::: "memory");
}

// All lanes of the warp; orders what they did to shared memory.
DEVICE void sync_warp() {
    asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");
}

// The value of the lane whose number differs by `mask`.
DEVICE u32 shuffle_xor(u32 value, u32 mask) {
    u32 out;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(out) : "r"(value), "r"(mask));
    return out;
}

// The value of a lane, which each names for itself.
DEVICE u32 shuffle_from(u32 value, u32 lane) {
    u32 out;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(out) : "r"(value), "r"(lane));
    return out;
}

// The value of the first lane, which the compiler then knows to be the same for the warp.
DEVICE u32 first_lane(u32 value) {
    u32 out;
    asm volatile("shfl.sync.idx.b32 %0, %1, 0, 0x1f, 0xffffffff;" : "=r"(out) : "r"(value));
    return out;
}

// The same value. What is computed from it in a loop is computed there each time, and takes no registers around it.
DEVICE u32 anew(u32 value) {
    u32 out;
    asm volatile("mov.b32 %0, %1;" : "=r"(out) : "r"(value));
    return out;
}

// Threads that meet at a barrier of the block by its number, which is not 0. Orders what they did to shared memory.
template <u32 NUMBER, u32 THREADS>
DEVICE void sync_threads() {
    asm volatile("bar.sync %0, %1;" ::"n"(NUMBER), "n"(THREADS) : "memory");
}

// Threads that count at a barrier of the block and do not wait for those that meet there. What they did to shared memory is
// seen by those.
template <u32 NUMBER, u32 THREADS>
DEVICE void arrive_threads() {
    asm volatile("bar.arrive %0, %1;" ::"n"(NUMBER), "n"(THREADS) : "memory");
}

// One lane of the warp, the same for all who ask together.
DEVICE bool elected() {
    u32 is;
    asm volatile(
        "{\n"
        ".reg .pred is;\n"
        "elect.sync _|is, 0xffffffff;\n"
        "selp.b32 %0, 1, 0, is;\n"
        "}" : "=r"(is));
    return is != 0;
}

// A warpgroup gives registers back, or takes more: so many a thread from now on.
template <u32 REGISTERS>
DEVICE void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <u32 REGISTERS>
DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
