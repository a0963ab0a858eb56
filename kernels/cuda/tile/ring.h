// The ring that operands are brought through on Hopper, tile after tile: stages in shared memory that one thread has the copy
// engine fill and warps of others empty; and the boxes of a product's stage, for a block or all of its cluster.
#pragma once

#include "cuda/tile/descriptor.h"
#include "cuda/tile/place.h"

// Stages of STAGE_BYTES from AT in shared memory on; at BARRIERS each has a barrier that its bytes fill and one that its
// readers empty. Where CLUSTER blocks are one, each has such a ring, and what it brings to the rings of all is read by all.
template <u32 STAGES, u32 STAGE_BYTES, u32 BARRIERS, u32 AT = 0, u32 CLUSTER = 1>
struct Ring {
    u32 base = shared_base();
    u32 stage = 0;
    // Parity of the phase that a reader waits for.
    u32 phase = 0;

    DEVICE_MEMBER u32 at() const { return base + AT + stage * STAGE_BYTES; }
    DEVICE_MEMBER u32 full() const { return base + BARRIERS + stage * 16; }
    DEVICE_MEMBER u32 empty() const { return full() + 8; }
    DEVICE_MEMBER void next() {
        stage++;
        if (stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }

    // Leaves out stages that others read.
    DEVICE_MEMBER void skip(u32 stages) {
        stage += stages;
        phase ^= stage / STAGES % 2;
        stage %= STAGES;
    }

    // One thread, before any other looks: `readers` warps of each block empty a stage.
    static DEVICE_MEMBER void init(u32 readers) {
        Ring ring;
        for (u32 i = 0; i < STAGES; i++, ring.next()) {
            init_barrier(ring.full(), 1);
            init_barrier(ring.empty(), CLUSTER * readers);
        }
        fence_barriers();
    }

    // All threads, behind `init`.
    static DEVICE_MEMBER void meet() {
        // The barriers are there, in all blocks that signal each other.
        if constexpr (CLUSTER > 1) {
            sync_cluster();
        } else {
            sync_block();
        }
    }

    // A warp has left the stage that this barrier is of, if there `is` one.
    static DEVICE_MEMBER void release(u32 empty, bool is = true) {
        const u32 lane = thread_index() % 32;
        if (is && lane < CLUSTER) {
            // One arrival a warp at every block that fills this stage: what the others of its warpgroup read is done when their
            // own wait is.
            if constexpr (CLUSTER > 1) {
                arrive_at(empty, lane);
            } else {
                arrive(empty);
            }
        }
    }

    // Who fills the ring, behind its last stage.
    DEVICE_MEMBER void end() {
        if constexpr (CLUSTER > 1) {
            // All that the peers signal here has come: the block may end.
            for (u32 i = 0; i < STAGES; i++, next()) {
                wait_barrier(empty(), phase ^ 1);
            }
        }
    }

    // This block's number among those that share.
    static DEVICE_MEMBER u32 rank() { return CLUSTER > 1 ? cluster_rank() : 0; }
};

// Coordinates of an entry in the last three axes of the batch, 0 along those that an operand repeats; or of the matrix that
// lies `behind` along the last of them.
DEVICE void coordinates(u32 (&at)[3], const MatmulArgs& args, u32 entry, u32 spread, u64 behind = 0) {
#pragma unroll
    for (i32 axis = 2; axis >= 0; axis--) {
        at[axis] = spread >> axis & 1 ? entry % args.batch[axis + 1] : 0;
        entry /= args.batch[axis + 1];
    }
    at[2] += (u32)behind;
}

// Boxes of a stage: along K they are as wide as the swizzle, and as tall as the part of the tile; dense along the other
// axis, as many boxes of 64 by BLOCK_K lie one behind the other. They go to this block, or to all of the cluster.
template <class S, bool OUTER, u32 ROWS, bool TO_ALL>
DEVICE void bring(const TensorMap& map, u32 to, u32 barrier, u32 outer, u32 k, const u32 (&batch)[3]) {
    const auto copy = [&](u32 shared, u32 first, u32 second) {
        const i32 at[5] = {(i32)first, (i32)second, (i32)batch[2], (i32)batch[1], (i32)batch[0]};
        if constexpr (TO_ALL) {
            copy_box_to((1 << S::CLUSTER) - 1, shared, map, barrier, at);
        } else {
            copy_box(shared, map, barrier, at);
        }
    };
    if constexpr (OUTER) {
#pragma unroll
        for (u32 i = 0; i < ROWS; i += S::SPAN) {
            copy(to + i * descriptor::ROW, outer + i, k);
        }
    } else {
        copy(to, k, outer);
    }
}

// One side of a stage, ROWS of it; of a side that the cluster's blocks share, each brings its part to all.
template <class S, bool OUTER, u32 ROWS, bool IS_SHARED>
DEVICE void bring_side(const TensorMap& map, u32 to, u32 barrier, u32 outer, u32 k, const u32 (&batch)[3]) {
    if constexpr (IS_SHARED && S::CLUSTER > 1) {
        constexpr u32 PART = ROWS / S::CLUSTER;
        static_assert(PART % S::SPAN == 0, "parts are whole boxes, and begin where the swizzle does");
        const u32 first = cluster_rank() * PART;
        bring<S, OUTER, PART, true>(map, to + first * descriptor::ROW, barrier, outer + first, k, batch);
    } else {
        bring<S, OUTER, ROWS, false>(map, to, barrier, outer, k, batch);
    }
}
