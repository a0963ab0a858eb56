// Runs a kernel on the model: cluster after cluster, the threads of its blocks in turns until all have ended, or until none
// can go on. Tests call `launch` through the entry points that they generate.
#pragma once

#include "host/products.h"
#include "host/world.h"

namespace model {

inline void thread_entry() {
    World& w = *world;
    arrived(w.thread().context, w.host);
    w.cluster.kernel();
    // Looked up again: the kernel has run on and off since.
    Thread& self = world->thread();
    self.ended = true;
    switch_to(self.context, world->host, true);
}

inline void tell_deadlock(World& w) {
    const In in(w);
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

// One asynchronous operation of a block runs, if any can: `run_cluster` calls it when no thread can go on.
inline bool run_one(World& w) {
    const In in(w);
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
    const In in(w);
    for (uint32_t agent = 0; agent < w.signals.size(); agent++) {
        bool known = w.signals[agent] == 0;
        for (uint32_t warp = 0; warp < w.warps.size(); warp++) {
            known |= w.shared->clock(warp).ticks[agent] >= w.signals[agent];
        }
        if (!known) {
            w.report.error("cluster-exit", Where::current(), "block %u ended and did not wait for all that its peers signal",
                           w.block);
            break;
        }
    }
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
    for (uint32_t i = 0; i < w.named.size(); i++) {
        if (w.named[i].arrived > 0) {
            w.report.error("exit-with-arrivals", Where::current(), "%u threads came to barrier %u, and nobody met there",
                           w.named[i].arrived, i);
        }
    }
    if (!w.boxes.empty()) {
        w.report.error("exit-with-copies", Where::current(), "%zu boxes on their way", w.boxes.size());
    }
    for (const Warpgroup& group : w.warpgroups) {
        if (group.done < group.all.size()) {
            w.report.error("exit-with-products", Where::current(), "%zu products not waited for",
                           group.all.size() - group.done);
        }
    }
}

// Lets each thread of a block that can go on do so, once.
inline bool run_threads(World& w) {
    world = &w;
    const uint32_t threads = w.config.threads;
    // From a drawn thread on, so that seeds try different interleavings.
    const uint32_t first = w.config.order == Order::Seeded ? w.draw(threads) : 0;
    bool moved = false;
    for (uint32_t i = 0; i < threads; i++) {
        w.running = (first + i) % threads;
        Thread& t = w.thread();
        if (t.ended || (t.ready != nullptr && !t.ready(t))) {
            continue;
        }
        t.ready = nullptr;
        moved = true;
        switch_to(w.host, t.context);
        w.alive -= t.ended ? 1 : 0;
    }
    return moved;
}

inline void run_cluster(Cluster& cluster) {
    const auto any = [&](auto f) {
        bool is = false;
        for (const std::unique_ptr<World>& w : cluster.blocks) {
            is |= f(*w);
        }
        return is;
    };
    const auto one = [&] {
        for (const std::unique_ptr<World>& w : cluster.blocks) {
            if (run_one(*w)) {
                return true;
            }
        }
        return false;
    };
    while (any([](const World& w) { return w.alive > 0; })) {
        if (!any(run_threads) && !one()) {
            return any([](World& w) { return tell_deadlock(w), true; }), void();
        }
    }
    any([](World& w) { return check_exit(w), true; });
}

// Runs all blocks, so many a cluster; what went wrong is in the text, whose count is returned.
inline uint32_t launch(const Config& config, std::function<void()> kernel, char* text, uint32_t room, uint32_t of_cluster = 1) {
    Report report;
    uint64_t random = config.seed | 1;
    if (config.blocks % of_cluster != 0) {
        report.error("grid", Where::current(), "%u blocks, of clusters of %u", config.blocks, of_cluster);
    }
    std::vector<Stack> stacks(config.threads * of_cluster);
    for (uint32_t first = 0; first < config.blocks && report.count() == 0; first += of_cluster) {
        Cluster cluster{Agents(of_cluster, config.threads / LANES), {}, kernel, report, random};
        for (uint32_t rank = 0; rank < of_cluster; rank++) {
            World& w = *cluster.blocks.emplace_back(std::make_unique<World>(config, cluster, first + rank, rank));
            for (uint32_t i = 0; i < config.threads; i++) {
                prepare(w.threads[i].context, stacks[rank * config.threads + i], thread_entry);
            }
        }
        run_cluster(cluster);
    }
    world = nullptr;
    if (room > 0) {
        snprintf(text, room, "%s", report.text().c_str());
    }
    return report.count();
}

}  // namespace model
