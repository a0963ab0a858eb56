// A ring of stages in shared memory that one thread of a block has the copy engine fill and warps of others empty.
#pragma once

#include "cuda/ptx.h"

// Stages of STAGE_BYTES from the beginning of shared memory on; at BARRIERS each has a barrier that its bytes fill and one
// that its readers empty.
template <u32 STAGES, u32 STAGE_BYTES, u32 BARRIERS>
struct Ring {
    u32 base = shared_base();
    u32 stage = 0;
    // Parity of the phase that a reader waits for.
    u32 phase = 0;

    DEVICE_MEMBER u32 at() const { return base + stage * STAGE_BYTES; }
    DEVICE_MEMBER u32 full() const { return base + BARRIERS + stage * 16; }
    DEVICE_MEMBER u32 empty() const { return full() + 8; }
    DEVICE_MEMBER void next() {
        stage++;
        if (stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }

    // One thread, before any other looks: `readers` warps empty a stage.
    static DEVICE_MEMBER void init(u32 readers) {
        Ring ring;
        for (u32 i = 0; i < STAGES; i++, ring.next()) {
            init_barrier(ring.full(), 1);
            init_barrier(ring.empty(), readers);
        }
        fence_barriers();
    }
};
