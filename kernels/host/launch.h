// Runs a kernel on the model: block after block, its threads in turns until all have ended, or until none can go on.
// Tests call `launch` through the entry points that they generate.
#pragma once

#include "host/products.h"
#include "host/world.h"

namespace model {

inline void thread_entry() {
    World& w = *world;
    arrived(w.thread().context, w.host);
    w.kernel();
    // Looked up again: the kernel has run on and off since.
    Thread& self = world->thread();
    self.ended = true;
    switch_to(self.context, world->host, true);
}

inline void tell_deadlock(World& w) {
    for (uint32_t i = 0; i < w.threads.size(); i += LANES) {
        for (uint32_t j = i; j < i + LANES && j < w.threads.size(); j++) {
            const Thread& t = w.threads[j];
            if (!t.ended) {
                w.report.error("deadlock", t.where, "block %u thread %u waits for ever for %s", w.block, j,
                               t.waits_for);
                break;
            }
        }
    }
    for (const Barrier& b : w.barriers) {
        w.report.error("deadlock-barrier", Where::current(), "0x%x in phase %u lacks %u arrivals and %lld bytes", b.address,
                       b.phase, b.arrivals, static_cast<long long>(b.bytes));
    }
}

// One asynchronous operation runs, if any can: `run_block` calls it when no thread can go on.
inline bool run_one(World& w) {
    const size_t boxes = w.boxes.size();
    for (Warpgroup& group : w.warpgroups) {
        const bool ready = group.done < group.all.size() && group.all[group.done]->posted == 128;
        // What is late in this order comes last.
        const bool first = w.config.order == Order::Seeded ? w.draw(2) == 0 : w.config.order != Order::LateProducts;
        if (ready && (boxes == 0 || first)) {
            run_products(group, group.done + 1);
            return true;
        }
    }
    if (boxes == 0) {
        return false;
    }
    const size_t which = w.config.order == Order::Seeded ? w.draw(static_cast<uint32_t>(boxes)) : 0;
    const Box box = std::move(w.boxes[which]);
    w.boxes.erase(w.boxes.begin() + static_cast<std::ptrdiff_t>(which));
    box.run();
    return true;
}

inline void check_exit(World& w) {
    for (uint32_t i = 0; i < w.threads.size(); i++) {
        for (Store& store : w.threads[i].stores) {
            if (!store.read) {
                w.report.error("exit-with-stores", w.threads[i].where, "thread %u ended before its box from 0x%x was read", i,
                               store.shared);
            } else if (store.put) {
                store.put(store);
            }
        }
        if (!w.threads[i].copies.empty()) {
            w.report.error("exit-with-copies", w.threads[i].where, "thread %u ended with %zu copies on their way", i,
                           w.threads[i].copies.size());
        }
    }
    if (!w.boxes.empty()) {
        w.report.error("exit-with-copies", Where::current(), "%zu boxes on their way", w.boxes.size());
    }
    for (const Warpgroup& group : w.warpgroups) {
        if (group.done < group.all.size()) {
            w.report.error("exit-with-products", Where::current(), "%zu products not waited for", group.all.size() - group.done);
        }
    }
}

inline void run_block(World& w, std::vector<Stack>& stacks) {
    const uint32_t threads = w.config.threads;
    w.threads = std::vector<Thread>(threads);
    w.warps = std::vector<Warp>(threads / LANES);
    w.shared = std::make_unique<Shadow>(w.config.shared_bytes, threads / LANES, w.report);
    w.arrived.assign(16, {});
    w.barriers.clear();
    w.boxes.clear();
    w.warpgroups = std::vector<Warpgroup>(threads / 128);
    for (uint32_t i = 0; i < threads; i++) {
        prepare(w.threads[i].context, stacks[i], thread_entry);
    }
    uint32_t alive = threads;
    while (alive > 0) {
        bool moved = false;
        // From a drawn thread on, so that seeds try different interleavings.
        const uint32_t first = w.config.order == Order::Seeded ? w.draw(threads) : 0;
        for (uint32_t i = 0; i < threads; i++) {
            w.running = (first + i) % threads;
            Thread& t = w.thread();
            if (t.ended || (t.ready != nullptr && !t.ready(t))) {
                continue;
            }
            t.ready = nullptr;
            moved = true;
            switch_to(w.host, t.context);
            alive -= t.ended ? 1 : 0;
        }
        if (!moved && !run_one(w)) {
            return tell_deadlock(w);
        }
    }
    check_exit(w);
}

// Runs all blocks; what went wrong is in the text, whose count is returned.
inline uint32_t launch(const Config& config, std::function<void()> kernel, char* text, uint32_t room) {
    World w;
    w.config = config;
    w.kernel = std::move(kernel);
    w.random = config.seed | 1;
    std::vector<Stack> stacks(config.threads);
    world = &w;
    for (w.block = 0; w.block < config.blocks && w.report.count() == 0; w.block++) {
        run_block(w, stacks);
    }
    world = nullptr;
    if (room > 0) {
        snprintf(text, room, "%s", w.report.text().c_str());
    }
    return w.report.count();
}

}  // namespace model
