// The model's side of `cuda/ptx/warp.h`.
#pragma once

#include <algorithm>

#include "cuda/types.h"
#include "host/world.h"

DEVICE u32 thread_index() { return model::world->running; }

DEVICE u32 block_index() { return model::world->block; }

DEVICE u32 block_count() { return model::world->config.blocks; }

namespace model {

// Threads meet at a barrier of the block by its number. Whole warps come, as the hardware counts.
inline void meet_at(u32 number, u32 threads, const Where& where) {
    World& w = *world;
    std::vector<u32>& arrived = w.arrived[number];
    arrived.push_back(w.running);
    if (arrived.size() == threads) {
        std::vector<u32> warps;
        for (const u32 thread : arrived) {
            if (std::find(warps.begin(), warps.end(), thread / LANES) == warps.end()) {
                warps.push_back(thread / LANES);
            }
        }
        if (warps.size() * LANES != threads) {
            w.report.error("barrier", where, "%zu warps are among the %u threads at barrier %u", warps.size(), threads, number);
        }
        arrived.clear();
        w.met[number]++;
        w.shared->meet(warps);
        return;
    }
    w.thread().barrier = number;
    w.thread().ticket = w.met[number];
    wait_until([](const Thread& t) { return world->met[t.barrier] != t.ticket; }, "a barrier of the block", where);
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
