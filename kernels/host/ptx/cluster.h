// The model's side of `cuda/ptx/cluster.h`: PTX ISA 8.7, sections 9.7.13.4 (barrier.cluster), 9.7.8.22 (mapa) and 9.7.13.15.13
// (mbarrier.arrive on another block's barrier).
#pragma once

#include "cuda/types.h"
#include "host/ptx/mbarrier.h"
#include "host/world.h"

DEVICE u32 cluster_rank() { return model::world->rank; }

DEVICE void sync_cluster(const model::Where& where = model::Where::current()) {
    model::Cluster& cluster = model::world->cluster;
    u32 threads = 0;
    for (const auto& block : cluster.blocks) {
        threads += static_cast<u32>(block->threads.size());
    }
    if (++cluster.arrived < threads) {
        model::world->thread().ticket = cluster.met;
        const auto all_met = [](const model::Thread& t) { return model::world->cluster.met != t.ticket; };
        model::wait_until(all_met, "the cluster's barrier", where);
        return;
    }
    cluster.arrived = 0;
    cluster.met++;
    model::Ticks all = cluster.agents.none();
    const auto each = [&](auto f) {
        for (const auto& block : cluster.blocks) {
            for (u32 warp = 0; warp < block->warps.size(); warp++) {
                f(*block->shared, warp);
            }
        }
    };
    each([&](model::Shadow& shared, u32 warp) { shared.release(warp, all); });
    each([&](model::Shadow& shared, u32 warp) { shared.acquire(warp, all); });
}

DEVICE void arrive_at(u32 barrier, u32 rank, const model::Where& where = model::Where::current()) {
    model::World& from = *model::world;
    if (rank >= from.cluster.blocks.size()) {
        from.report.error("cluster", where, "an arrival at block %u of %zu", rank, from.cluster.blocks.size());
        return;
    }
    model::World& to = *from.cluster.blocks[rank];
    const u32 warp = from.running / model::LANES;
    model::Clock& clock = from.shared->clock(warp);
    const model::In in(to);
    model::Barrier* at = model::barrier_at(barrier, where);
    if (at == nullptr) {
        return;
    }
    if (!to.shared->knows(barrier, clock)) {
        to.report.error("race", where, "an arrival at 0x%x of block %u, which may not have made it yet", barrier, to.block);
    }
    if (to.alive == 0) {
        to.report.error("cluster-exit", where, "an arrival at block %u, which has ended", to.block);
    }
    if (&to != &from) {
        to.signals[from.shared->agent(warp)] = clock.ticks[from.shared->agent(warp)];
    }
    from.shared->release(warp, at->arriving);
    at->arrivals--;
    model::settle(*at);
}
