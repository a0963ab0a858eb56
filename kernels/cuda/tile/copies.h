// The ring that products by mma.sync are brought through: stages of shared memory, filled by cp.async of all threads while
// another is multiplied.
#pragma once

#include "cuda/ptx.h"

// For each step in turn `multiply(stage, step)`; `copy(stage, step)` starts what it needs STAGES - 1 steps ahead. A stage is
// overwritten only after the barrier that follows its last use.
template <u32 STAGES, class Copy, class Multiply>
DEVICE void through_stages(u32 steps, Copy copy, Multiply multiply) {
    static_assert(STAGES >= 2, "one stage is multiplied while another arrives");
    const auto fetch = [&](u32 step) {
        if (step < steps) {
            copy(step % STAGES, step);
        }
        // A group without copies keeps the count of groups that of steps.
        commit_copies();
    };
    for (u32 step = 0; step < STAGES - 1; step++) {
        fetch(step);
    }
    for (u32 step = 0; step < steps; step++) {
        wait_copies<STAGES - 2>();
        // Everybody's copies of this step have arrived, and everybody is done with the step before.
        sync_block();
        fetch(step + STAGES - 1);
        multiply(step % STAGES, step);
    }
}
