// The model's side of `cuda/ptx/mbarrier.h`: PTX ISA 8.7, section 9.7.13.15. House rule, stricter than the hardware's:
// a block expects the bytes of its own copies before they land, so that a count below zero is an error at once. Those of a
// peer in the cluster may land before; then the arrival that expects them has not been, and no phase ends (`tma.h` holds
// copies to both).
#pragma once

#include "cuda/types.h"
#include "host/world.h"

namespace model {

inline Barrier* barrier_at(u32 address, const Where& where) {
    for (Barrier& barrier : world->barriers) {
        if (barrier.address == address) {
            return &barrier;
        }
    }
    world->report.error("barrier", where, "no barrier at 0x%x", address);
    return nullptr;
}

// Ends the phase when both counts are there.
inline void settle(Barrier& barrier) {
    if (barrier.arrivals == 0 && barrier.bytes == 0) {
        barrier.phase++;
        barrier.arrivals = barrier.expected;
        for (size_t agent = 0; agent < barrier.passed.size(); agent++) {
            if (barrier.passed[agent] > barrier.arriving[agent]) {
                world->report.error("phase-lag", Where::current(),
                                    "phase %u of 0x%x ended, and who ended it does not know that agent %zu saw the one before",
                                    barrier.phase - 1, barrier.address, agent);
            }
            barrier.passed[agent] = 0;
        }
        // Its own tick: what copies wrote in the phase that ends.
        const size_t self = world->shared->warps() + static_cast<size_t>(&barrier - world->barriers.data());
        barrier.arriving[world->shared->agent(static_cast<u32>(self))] = barrier.phase;
        join(barrier.arrived, barrier.arriving);
    }
}

inline void arrive_at(u32 address, u32 bytes, const Where& where) {
    World& w = *world;
    Barrier* barrier = barrier_at(address, where);
    if (barrier == nullptr) {
        return;
    }
    w.shared->release(w.running / LANES, barrier->arriving);
    barrier->bytes += bytes;
    barrier->arrivals--;
    settle(*barrier);
}

}  // namespace model

DEVICE void init_barrier(u32 barrier, u32 arrivals, const model::Where& where = model::Where::current()) {
    model::World& w = *model::world;
    if (w.shared->at(barrier, 8, where) == nullptr || w.barriers.size() == model::MAX_BARRIERS || arrivals == 0) {
        w.report.error("barrier", where, "0x%x for %u arrivals, after %zu others", barrier, arrivals, w.barriers.size());
        return;
    }
    model::Barrier made;
    made.address = barrier;
    made.expected = made.arrivals = arrivals;
    made.initialised_by = w.running;
    made.arriving = made.arrived = made.passed = w.shared->no_ticks();
    w.shared->write(barrier, 8, w.toucher(where));
    w.barriers.push_back(made);
}

DEVICE void fence_barriers() {
    for (model::Barrier& barrier : model::world->barriers) {
        barrier.fenced |= barrier.initialised_by == model::world->running;
    }
}

DEVICE void arrive(u32 barrier, const model::Where& where = model::Where::current()) { model::arrive_at(barrier, 0, where); }

DEVICE void arrive_expecting(u32 barrier, u32 bytes, const model::Where& where = model::Where::current()) {
    model::arrive_at(barrier, bytes, where);
}

DEVICE void wait_barrier(u32 barrier, u32 parity, const model::Where& where = model::Where::current()) {
    model::World& w = *model::world;
    model::Barrier* at = model::barrier_at(barrier, where);
    if (at == nullptr) {
        return;
    }
    // Reading the barrier's word: its making must be known here.
    w.shared->read(barrier, 8, w.toucher(where));
    model::Thread& self = w.thread();
    self.barrier = barrier;
    self.parity = parity;
    model::wait_until(
        [](const model::Thread& t) {
            for (const model::Barrier& b : model::world->barriers) {
                if (b.address == t.barrier) {
                    return b.phase % 2 != t.parity;
                }
            }
            return true;
        },
        "a barrier in shared memory", where);
    model::Barrier& passed = *model::barrier_at(barrier, where);
    const u32 warp = w.running / model::LANES, agent = w.shared->agent(warp);
    w.shared->acquire(warp, passed.arrived);
    passed.passed[agent] = w.shared->clock(warp).ticks[agent];
}

DEVICE void fence_async() { model::world->shared->fence(model::world->running); }
