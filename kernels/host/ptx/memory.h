// The model's side of `cuda/ptx/memory.h`. Global memory is the host's own: the sanitizer watches it, or a driver.
#pragma once

#include <cstring>

#include "cuda/types.h"
#include "host/global.h"
#include "host/world.h"

DEVICE u32 shared_base() { return model::SHARED_BASE; }

namespace model {

template <class T>
void store(u32 at, const T& v, const Where& where) {
    World& w = *world;
    if (u8* bytes = w.shared->at(at, sizeof v, where)) {
        w.shared->write(at, sizeof v, w.toucher(where));
        memcpy(bytes, &v, sizeof v);
    }
}

template <class T>
T load(u32 at, const Where& where) {
    World& w = *world;
    T v;
    memset(&v, 0xff, sizeof v);
    if (const u8* bytes = w.shared->at(at, sizeof v, where)) {
        w.shared->read(at, sizeof v, w.toucher(where));
        memcpy(&v, bytes, sizeof v);
    }
    return v;
}

// A global address, which must be a multiple of its element's size.
inline void check_global(u64 at, u32 size, const Where& where) {
    if (at % size != 0) {
        world->report.error("global-alignment", where, "%u bytes at 0x%llx", size, at);
    }
}

template <class T>
T load_global(u64 at, const Where& where) {
    check_global(at, sizeof(T), where);
    T v;
    memcpy(&v, seen(at, sizeof v, where), sizeof v);
    return v;
}

template <class T>
void store_global(u64 at, T v, const Where& where) {
    check_global(at, sizeof v, where);
    memcpy(touched(at, sizeof v, where), &v, sizeof v);
}

}  // namespace model

DEVICE void store_shared(u32 at, u32x4 v, const model::Where& where = model::Where::current()) {
    model::store(at, v, where);
}

DEVICE void store_shared(u32 at, f32 x, f32 y, const model::Where& where = model::Where::current()) {
    const struct {
        f32 x, y;
    } pair{x, y};
    model::store(at, pair, where);
}

DEVICE void store_shared_u32(u32 at, u32 v, const model::Where& where = model::Where::current()) {
    model::store(at, v, where);
}

DEVICE void store_shared_f32(u32 at, f32 v, const model::Where& where = model::Where::current()) {
    model::store(at, v, where);
}

DEVICE u32 load_shared_u32(u32 at, const model::Where& where = model::Where::current()) {
    return model::load<u32>(at, where);
}

DEVICE u32x4 load_shared_u32x4(u32 at, const model::Where& where = model::Where::current()) {
    return model::load<u32x4>(at, where);
}

DEVICE f32 load_shared_f32(u32 at, const model::Where& where = model::Where::current()) {
    return model::load<f32>(at, where);
}

DEVICE u8 load_global_u8(u64 at, const model::Where& where = model::Where::current()) {
    return model::load_global<u8>(at, where);
}

DEVICE u16 load_global_u16(u64 at, const model::Where& where = model::Where::current()) {
    return model::load_global<u16>(at, where);
}

DEVICE u32 load_global_u32(u64 at, const model::Where& where = model::Where::current()) {
    return model::load_global<u32>(at, where);
}

DEVICE u32x2 load_global_u32x2(u64 at, const model::Where& where = model::Where::current()) {
    return model::load_global<u32x2>(at, where);
}

DEVICE u32x4 load_global_u32x4(u64 at, const model::Where& where = model::Where::current()) {
    return model::load_global<u32x4>(at, where);
}

DEVICE f32 load_global_f32(u64 at, const model::Where& where = model::Where::current()) {
    return model::load_global<f32>(at, where);
}

DEVICE void store_global_u8(u64 at, u8 v, const model::Where& where = model::Where::current()) {
    model::store_global(at, v, where);
}

DEVICE void store_global_u16(u64 at, u16 v, const model::Where& where = model::Where::current()) {
    model::store_global(at, v, where);
}

DEVICE void store_global_u32(u64 at, u32 v, const model::Where& where = model::Where::current()) {
    model::store_global(at, v, where);
}

DEVICE void store_global_u32x2(u64 at, u32x2 v, const model::Where& where = model::Where::current()) {
    model::store_global(at, v, where);
}

DEVICE void store_global_u32x4(u64 at, u32x4 v, const model::Where& where = model::Where::current()) {
    model::store_global(at, v, where);
}

DEVICE void store_global_f32(u64 at, f32 v, const model::Where& where = model::Where::current()) {
    model::store_global(at, v, where);
}

DEVICE f32 load_global_f32_if(bool is, u64 at, const model::Where& where = model::Where::current()) {
    return is ? load_global_f32(at, where) : 0.0f;
}

DEVICE u32 exchange_global_u32(u64 at, u32 v, const model::Where& where = model::Where::current()) {
    const u32 before = load_global_u32(at, where);
    store_global_u32(at, v, where);
    return before;
}

DEVICE void max_global_u32(u64 at, u32 v, const model::Where& where = model::Where::current()) {
    const u32 before = load_global_u32(at, where);
    store_global_u32(at, before < v ? v : before, where);
}
