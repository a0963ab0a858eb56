// Which global memory a kernel may touch, and what of it nobody wrote. The model driver says so of its device's memory
// (`host/driver`); without it all memory is the kernel's, and the sanitizer watches. `host/ptx` asks before each access.
#pragma once

#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>

#include "host/report.h"
#include "host/world.h"

namespace model {

// Ranges of addresses that do not overlap.
class Ranges {
  public:
    void add(uint64_t at, uint64_t bytes) { ends_[at] = at + bytes, last_ = {}; }
    void remove(uint64_t at) { ends_.erase(at), last_ = {}; }

    // Whether all bytes are inside, of one range or of several that touch.
    bool cover(uint64_t at, uint64_t bytes) const {
        if (at >= last_.from && bytes <= last_.end - last_.from && at - last_.from <= last_.end - last_.from - bytes) {
            return true;
        }
        while (bytes > 0) {
            const auto after = ends_.upper_bound(at);
            if (after == ends_.begin() || std::prev(after)->second <= at) {
                return false;
            }
            last_ = {std::prev(after)->first, std::prev(after)->second};
            const uint64_t inside = last_.end - at < bytes ? last_.end - at : bytes;
            at += inside, bytes -= inside;
        }
        return true;
    }

  private:
    struct Range {
        uint64_t from = 0, end = 0;
    };
    std::map<uint64_t, uint64_t> ends_;
    // Most accesses fall where the last one did.
    mutable Range last_;
};

// What a kernel of this thread may touch; null is everything.
inline thread_local const Ranges* reachable = nullptr;

// What stands in each word of scratch that no launch has written: a NaN that nothing computes, and no index, count or claim.
// Tests fill with it what a launch is given of its own; it outlives a launch that leaves some of it.
constexpr uint32_t UNWRITTEN = 0x7fa5c0de;

// The bytes at an address that may be read and written, at most 64; where none are, a place that nobody reads, of zeros.
inline void* touched(uint64_t at, uint32_t bytes, const Where& where) {
    if (reachable == nullptr || reachable->cover(at, bytes)) {
        return reinterpret_cast<void*>(at);
    }
    world->report.error("global-bounds", where, "%u bytes at 0x%llx, of no allocation", bytes,
                        static_cast<unsigned long long>(at));
    alignas(64) static thread_local uint8_t nowhere[64];
    memset(nowhere, 0, sizeof nowhere);
    return nowhere;
}

// The same of bytes that are read, whole words of which were written.
inline const void* seen(uint64_t at, uint32_t bytes, const Where& where) {
    const void* from = touched(at, bytes, where);
    for (uint32_t i = 0; at % 4 == 0 && i + 4 <= bytes; i += 4) {
        if (memcmp(static_cast<const uint8_t*>(from) + i, &UNWRITTEN, 4) == 0) {
            world->report.error("global-uninitialised", where, "read of 0x%llx, never written",
                                static_cast<unsigned long long>(at + i));
        }
    }
    return from;
}

}  // namespace model
