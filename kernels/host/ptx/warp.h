// The model's side of `cuda/ptx/warp.h`.
#pragma once

#include <algorithm>

#include "cuda/types.h"
#include "host/world.h"

DEVICE u32 thread_index() { return model::world->running; }

DEVICE u32 block_index() { return model::world->block; }

DEVICE u32 block_count() { return model::world->config.blocks; }

namespace model {

// A thread comes to a barrier of the block by its number, and waits there or not. Whole warps come, as the hardware counts.
// Whether it was the last.
inline bool come_to(u32 number, u32 threads, bool waits, const Where& where) {
    World& w = *world;
    Named& barrier = w.named[number];
    const u32 warp = w.running / LANES;
    const auto add = [](std::vector<u32>& warps, u32 warp) {
        if (std::find(warps.begin(), warps.end(), warp) == warps.end()) {
            warps.push_back(warp);
        }
    };
    if (barrier.arrived == 0) {
        barrier.known = w.shared->no_ticks();
    }
    barrier.arrived++;
    add(barrier.warps, warp);
    if (waits) {
        add(barrier.waiting, warp);
    } else {
        w.shared->release(warp, barrier.known);
    }
    if (barrier.arrived < threads) {
        return false;
    }
    if (barrier.warps.size() * LANES != threads) {
        w.report.error("barrier", where, "%zu warps are among the %u threads at barrier %u", barrier.warps.size(), threads,
                       number);
    }
    w.shared->meet(barrier.waiting, barrier.known);
    const uint64_t met = barrier.met + 1;
    barrier = Named();
    barrier.met = met;
    return true;
}

// Threads meet at a barrier of the block by its number.
inline void meet_at(u32 number, u32 threads, const Where& where) {
    World& w = *world;
    w.thread().barrier = number;
    w.thread().ticket = w.named[number].met;
    if (come_to(number, threads, true, where)) {
        return;
    }
    wait_until([](const Thread& t) { return world->named[t.barrier].met != t.ticket; }, "a barrier of the block", where);
}

}  // namespace model

DEVICE void sync_block(const model::Where& where = model::Where::current()) {
    model::meet_at(0, static_cast<u32>(model::world->threads.size()), where);
}

template <u32 NUMBER, u32 THREADS>
DEVICE void sync_threads(const model::Where& where = model::Where::current()) {
    static_assert(NUMBER > 0 && NUMBER < 16 && THREADS % model::LANES == 0, "a barrier of the block, of whole warps");
    model::meet_at(NUMBER, THREADS, where);
}

template <u32 NUMBER, u32 THREADS>
DEVICE void arrive_threads(const model::Where& where = model::Where::current()) {
    static_assert(NUMBER > 0 && NUMBER < 16 && THREADS % model::LANES == 0, "a barrier of the block, of whole warps");
    model::come_to(NUMBER, THREADS, false, where);
}

DEVICE void sync_warp(const model::Where& where = model::Where::current()) {
    u32 in = 0, out = 0;
    model::meet("sync_warp", in, out, where, [](const u32**, u32**) {
        model::world->shared->order_lanes(model::world->running / model::LANES);
    });
}

DEVICE u32 shuffle_xor(u32 value, u32 mask, const model::Where& where = model::Where::current()) {
    struct In {
        u32 value, mask;
    } in{value, mask};
    u32 out = 0;
    model::meet("shuffle_xor", in, out, where, [](const In** ins, u32** outs) {
        for (u32 i = 0; i < model::LANES; i++) {
            *outs[i] = ins[(i ^ ins[i]->mask) % model::LANES]->value;
        }
    });
    return out;
}

DEVICE u32 shuffle_from(u32 value, u32 lane, const model::Where& where = model::Where::current()) {
    struct In {
        u32 value, lane;
    } in{value, lane};
    u32 out = 0;
    model::meet("shuffle_from", in, out, where, [](const In** ins, u32** outs) {
        for (u32 i = 0; i < model::LANES; i++) {
            *outs[i] = ins[ins[i]->lane % model::LANES]->value;
        }
    });
    return out;
}

DEVICE u32 first_lane(u32 value, const model::Where& where = model::Where::current()) {
    u32 out = 0;
    model::meet("first_lane", value, out, where, [](const u32** ins, u32** outs) {
        for (u32 i = 0; i < model::LANES; i++) {
            *outs[i] = *ins[0];
        }
    });
    return out;
}

DEVICE u32 anew(u32 value) { return value; }

// A lane by the seed: nothing may lean on its number.
DEVICE bool elected(const model::Where& where = model::Where::current()) {
    u32 in = 0, out = 0;
    model::meet("elected", in, out, where, [](const u32**, u32** outs) {
        const u32 lane = static_cast<u32>((model::world->config.seed * 7 + 5) % model::LANES);
        for (u32 i = 0; i < model::LANES; i++) {
            *outs[i] = i == lane ? 1 : 0;
        }
    });
    return out != 0;
}

// Registers are the compiler's business; that their sum fits is asserted where they are named.
template <u32 REGISTERS>
DEVICE void give_registers() {
    static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256, "registers of a thread");
}

template <u32 REGISTERS>
DEVICE void take_registers() {
    static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256, "registers of a thread");
}
