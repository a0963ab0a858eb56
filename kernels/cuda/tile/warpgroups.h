// How a block on Hopper shares its work: one thread of the first warpgroup produces, it brings tiles; the other warpgroups
// consume, they multiply them. Every kernel of wgmma is split here.
#pragma once

#include "cuda/ptx.h"

constexpr u32 WARPGROUP = 128;  // Threads.

// Of a block, by the tables of compute capability 9.0: bytes of shared memory that it may ask for, and registers.
constexpr u32 SHARED_MOST = 227 * 1024, REGISTERS_MOST = 65536;

// Registers a thread: the launch gives all the same, in eights, then the producer's go to the consumers. Who asks for more
// than the block was given waits for ever.
template <u32 CONSUMERS, u32 OF_PRODUCER, u32 OF_CONSUMER>
struct Warpgroups {
    static constexpr u32 THREADS = (1 + CONSUMERS) * WARPGROUP;
    static constexpr u32 GIVEN = REGISTERS_MOST / THREADS / 8 * 8;
    static_assert(OF_PRODUCER + CONSUMERS * OF_CONSUMER <= (1 + CONSUMERS) * GIVEN, "registers of a block");

    // One thread produces; `consume` is given the number of its warpgroup among the consumers. All threads call this.
    template <class P, class C>
    static DEVICE_MEMBER void run(P produce, C consume) {
        const u32 warpgroup = first_lane(thread_index() / WARPGROUP);
        if (warpgroup == 0) {
            give_registers<OF_PRODUCER>();
            if (first_lane(thread_index() / 32) == 0 && elected()) {
                produce();
            }
        } else {
            take_registers<OF_CONSUMER>();
            consume(warpgroup - 1);
        }
    }
};
