// Products of warpgroups on the model: posted by each of 128 threads, run in order when nothing else can go on or early by the
// launch's order, their sums out of the threads' reach until a wait covers them. `ptx/wgmma.h` posts, `launch.h` runs.
#pragma once

#include <cstring>

#include "host/world.h"

namespace model {

constexpr uint32_t SUM_POISON = 0x7fc5a5a5;  // A NaN that nothing computes.

// Runs products up to a number of them.
inline void run_products(Warpgroup& group, uint32_t to) {
    while (group.done < to && group.done < group.all.size() && group.all[group.done]->posted == 128) {
        Product& product = *group.all[group.done];
        product.run();
        for (const Span& span : product.reads) {
            world->shared->end_read(span.address, span.bytes, span.first_warp, span.warps);
        }
        group.done++;
    }
}

// A thread's sums go to the model, and poison stays behind.
inline void take_sums(Warpgroup& group, uint32_t thread, float* sums, uint32_t count, const Where& where) {
    Thread& self = world->thread();
    if (group.owners[thread] == sums) {
        return;
    }
    if (group.owners[thread] != nullptr) {
        world->report.error("wgmma-sums", where, "thread %u gives other sums while products of the last run", thread);
    }
    if (!self.fenced) {
        world->report.error("wgmma-unfenced", where, "thread %u changed its sums and did not fence", thread);
    }
    group.owners[thread] = sums;
    group.sums[thread].assign(sums, sums + count);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(&sums[i], &SUM_POISON, sizeof SUM_POISON);
    }
}

// A thread's sums come back.
inline void give_sums(Warpgroup& group, uint32_t thread, const Where& where) {
    float* sums = group.owners[thread];
    if (sums == nullptr) {
        return;
    }
    for (size_t i = 0; i < group.sums[thread].size(); i++) {
        uint32_t bits;
        memcpy(&bits, &sums[i], sizeof bits);
        if (bits != SUM_POISON) {
            world->report.error("wgmma-sums", where, "thread %u touched sum %zu while a product ran", thread, i);
        }
        sums[i] = group.sums[thread][i];
    }
    group.owners[thread] = nullptr;
    world->thread().fenced = false;
}

}  // namespace model
