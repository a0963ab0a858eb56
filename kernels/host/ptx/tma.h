// The model's side of `cuda/ptx/tma.h`: PTX ISA 8.7, section 9.7.9.27. A map holds what the driver was given, so that a copy
// can be done by the letter: boxes with zeros outside the tensor, their rows swizzled by absolute shared address. A box that
// leaves is read when its thread waits for that, and is there when the kernel has ended; or at once.
#pragma once

#include <cstring>

#include "cuda/types.h"
#include "host/global.h"
#include "host/ptx/mbarrier.h"
#include "host/world.h"

// As `kernels/src/map.rs` writes it: the arguments of cuTensorMapEncodeTiled.
struct alignas(64) TensorMap {
    u64 at;
    u64 sizes[5];
    // Bytes from one index to the next, of all axes but the dense first.
    u64 strides[4];
    u32 box[5];
    u32 element;
    // Halvings of the swizzle's span: 0 for 128 bytes, 3 for none.
    u32 narrower;
    u32 padding[5];
};
static_assert(sizeof(TensorMap) == 128, "as the driver's");

namespace model {

// The swizzles: of 128 bytes, bits 4 to 6 change with bits 7 to 9; each narrower one has a bit less (PTX ISA 8.7, section
// 5.5.7).
constexpr u32 swizzled(u32 address, u32 narrower) { return address ^ (address >> 7 & (7u >> narrower)) << 4; }

// Each element of a box: where it lies in shared memory, and in the tensor, or 0 outside of it.
template <class F>
void each_of_box(const TensorMap& map, u32 shared, const i32 (&at)[5], F f) {
    const u32 row_bytes = map.box[0] * map.element, rows = map.box[1] * map.box[2] * map.box[3] * map.box[4];
    for (u32 row = 0; row < rows; row++) {
        i64 where[5];
        u32 rest = row;
        for (u32 axis = 1; axis < 5; axis++) {
            where[axis] = at[axis] + static_cast<i64>(rest % map.box[axis]);
            rest /= map.box[axis];
        }
        bool inside = true;
        u64 line = map.at;
        for (u32 axis = 1; axis < 5; axis++) {
            inside &= where[axis] >= 0 && static_cast<u64>(where[axis]) < map.sizes[axis];
            line += static_cast<u64>(where[axis]) * map.strides[axis - 1];
        }
        for (u32 i = 0; i < map.box[0]; i++) {
            const i64 x = at[0] + static_cast<i64>(i);
            const bool is = inside && x >= 0 && static_cast<u64>(x) < map.sizes[0];
            const u32 in_shared = swizzled(shared + row * row_bytes + i * map.element, map.narrower);
            f(in_shared, is ? line + static_cast<u64>(x) * map.element : 0);
        }
    }
}

inline u32 bytes_of(const TensorMap& map) {
    return map.box[0] * map.box[1] * map.box[2] * map.box[3] * map.box[4] * map.element;
}

inline void run_box(const TensorMap& map, u32 shared, const i32 (&at)[5], const Where& origin) {
    each_of_box(map, shared, at, [&](u32 in_shared, u64 in_tensor) {
        u8* to = world->shared->at(in_shared, map.element, origin);
        memset(to, 0, map.element);
        if (in_tensor != 0) {
            memcpy(to, touched(in_tensor, map.element, origin), map.element);
        }
    });
}

// Whether a box fits in shared memory there. A swizzle repeats after eight of its spans; without one 128 bytes do.
inline bool is_place(const TensorMap& map, u32 shared, const Where& where) {
    World& w = *world;
    const u32 bytes = bytes_of(map), span = 128u >> map.narrower;
    if (w.shared->at(shared, 128, where) == nullptr || w.shared->at(shared + bytes - 128, 128, where) == nullptr) {
        return false;
    }
    if ((map.narrower < 3 && map.box[0] * map.element != span) || shared % (map.narrower < 3 ? 8 * span : 128) != 0) {
        w.report.error("box", where, "rows of %u bytes to 0x%x", map.box[0] * map.element, shared);
        return false;
    }
    return true;
}

// A box that leaves has read shared memory: it may be written again.
inline void take(Store& store) {
    if (!store.read) {
        store.read = true;
        store.take(store);
        world->shared->end_read(store.shared, store.bytes, world->running / LANES, 1);
    }
}

struct Coordinates {
    i32 at[5];
};

// Starts to bring a box to a block of the cluster, which may be the running thread's own.
inline void start_box(World& to, u32 shared, const TensorMap& map, u32 barrier, const i32 (&at)[5], const Where& where) {
    World& from = *world;
    const Toucher who = from.toucher(where);
    const Clock& clock = from.shared->clock(who.warp);
    const bool is_own = &from == &to;
    const In in(to);
    const u32 bytes = bytes_of(map);
    Barrier* counts = barrier_at(barrier, where);
    if (counts == nullptr || !is_place(map, shared, where)) {
        return;
    }
    if (!counts->fenced) {
        to.report.error("barrier-unfenced", where, "0x%x was made without a fence", barrier);
    }
    if (is_own) {
        to.shared->write(shared, bytes, who, from.running + 1);
    } else {
        if (!to.shared->knows(barrier, clock)) {
            to.report.error("race", where, "a box to block %u, which may not have made 0x%x yet", to.block, barrier);
        }
        to.shared->write_from(shared, bytes, who, clock, from.running + 1);
    }
    memset(to.shared->at(shared, 128, where), 0xff, bytes);
    const u32 index = static_cast<u32>(counts - to.barriers.data());
    Coordinates place;
    memcpy(place.at, at, sizeof place.at);
    Box box{barrier, bytes, [=, &map] {
        World& here = *world;
        run_box(map, shared, place.at, where);
        Barrier& b = here.barriers[index];
        here.shared->land_box(shared, bytes, index, b.phase + 1);
        b.bytes -= bytes;
        // Before its own thread expects them, bytes of a peer may come, but no phase may end by that.
        if (b.bytes < 0 && (is_own || b.arrivals == 0)) {
            here.report.error("barrier-bytes", where, "%lld bytes too many at 0x%x", static_cast<long long>(-b.bytes), barrier);
        }
        if (here.alive == 0) {
            here.report.error("cluster-exit", where, "a box came to block %u, which has ended", here.block);
        }
        settle(b);
    }};
    if (to.early_copies()) {
        box.run();
    } else {
        to.boxes.push_back(std::move(box));
    }
}

}  // namespace model

DEVICE void copy_box(u32 shared, const TensorMap& map, u32 barrier, const i32 (&at)[5],
                     const model::Where& where = model::Where::current()) {
    model::start_box(*model::world, shared, map, barrier, at, where);
}

DEVICE void copy_box_to(u16 blocks, u32 shared, const TensorMap& map, u32 barrier, const i32 (&at)[5],
                        const model::Where& where = model::Where::current()) {
    model::Cluster& cluster = model::world->cluster;
    if (blocks == 0 || blocks >> cluster.blocks.size() != 0) {
        model::world->report.error("cluster", where, "a box to blocks 0x%x of %zu", blocks, cluster.blocks.size());
        return;
    }
    for (u32 rank = 0; rank < cluster.blocks.size(); rank++) {
        if (blocks >> rank & 1) {
            model::start_box(*cluster.blocks[rank], shared, map, barrier, at, where);
        }
    }
}

DEVICE void store_box(const TensorMap& map, u32 shared, const i32 (&at)[5],
                      const model::Where& where = model::Where::current()) {
    model::World& w = *model::world;
    const u32 bytes = model::bytes_of(map);
    if (!model::is_place(map, shared, where)) {
        return;
    }
    w.shared->begin_read(shared, bytes, w.toucher(where), w.running / model::LANES, 1);
    model::Coordinates place;
    memcpy(place.at, at, sizeof place.at);
    const auto take = [=, &map](model::Store& store) {
        model::each_of_box(map, shared, place.at, [&](u32 in_shared, u64) {
            const u8* from = model::world->shared->at(in_shared, map.element, where);
            store.kept.insert(store.kept.end(), from, from + map.element);
        });
    };
    const auto put = [=, &map](model::Store& store) {
        const u8* from = store.kept.data();
        model::each_of_box(map, shared, place.at, [&](u32, u64 in_tensor) {
            if (in_tensor != 0) {
                memcpy(model::touched(in_tensor, map.element, where), from, map.element);
            }
            from += map.element;
        });
    };
    model::Thread& self = w.thread();
    self.stores.push_back({shared, bytes, self.store_groups, false, {}, take, put});
    if (w.early_copies()) {
        model::take(self.stores.back());
        put(self.stores.back());
        self.stores.back().put = nullptr;
    }
}

DEVICE void commit_stores() { model::world->thread().store_groups++; }

template <u32 PENDING>
DEVICE void wait_stores_read() {
    model::Thread& self = model::world->thread();
    for (model::Store& store : self.stores) {
        // Covered: committed, and not among the newest groups.
        if (store.group + PENDING < self.store_groups) {
            model::take(store);
        }
    }
}
