// The model's side of `cuda/ptx/cp_async.h`. A copy's bytes are poisoned when it starts and arrive when the order says so:
// at the wait that covers it, or at once. Until that wait nobody may touch them.
#pragma once

#include <cstring>

#include "cuda/types.h"
#include "host/global.h"
#include "host/world.h"

namespace model {

inline void arrive(Copy& copy, const Where& where) {
    if (u8* to = world->shared->at(copy.shared, 16, where); to != nullptr && !copy.done) {
        memset(to, 0, 16);
        if (copy.bytes > 0) {
            memcpy(to, copy.global, copy.bytes);
        }
        copy.done = true;
    }
}

}  // namespace model

DEVICE void copy_async16(u32 shared, u64 global, u32 bytes, const model::Where& where = model::Where::current()) {
    model::World& w = *model::world;
    if (bytes > 16) {
        w.report.error("copy-size", where, "%u bytes of 16", bytes);
        return;
    }
    if (global % 16 != 0) {
        w.report.error("global-alignment", where, "16 bytes at 0x%llx", global);
    }
    u8* to = w.shared->at(shared, 16, where);
    if (to == nullptr) {
        return;
    }
    w.shared->write(shared, 16, w.toucher(where), w.running + 1);
    memset(to, 0xff, 16);
    // What is not read need not be there.
    const void* from = bytes == 0 ? nullptr : model::seen(global, bytes, where);
    w.thread().copies.push_back({shared, bytes, w.thread().groups, static_cast<const u8*>(from), false});
    const bool early = w.config.order == model::Order::Early || (w.config.order == model::Order::Seeded && w.draw(2) == 0);
    if (early) {
        model::arrive(w.thread().copies.back(), where);
    }
}

DEVICE void commit_copies() { model::world->thread().groups++; }

template <u32 PENDING>
DEVICE void wait_copies(const model::Where& where = model::Where::current()) {
    model::World& w = *model::world;
    model::Thread& self = w.thread();
    std::vector<model::Copy> rest;
    for (model::Copy& copy : self.copies) {
        // Covered: committed, and not among the newest groups.
        if (copy.group + PENDING < self.groups) {
            model::arrive(copy, where);
            w.shared->land(copy.shared, 16, w.toucher(where));
        } else {
            rest.push_back(copy);
        }
    }
    self.copies = std::move(rest);
}
