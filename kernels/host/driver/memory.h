// Memory of the model driver's device: the host's own, each allocation between pages that fault, filled with what
// tells that nobody wrote it, and counted against a small total. `driver.cpp` calls it.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "host/driver/status.h"
#include "host/global.h"

namespace model {

constexpr u64 TOTAL_MEMORY = 256ull << 20;
constexpr u64 GRANULARITY = 2ull << 20;  // Of mapped memory, as on today's cards.
constexpr u64 GUARD = 64ull << 10;       // On both sides of an allocation.

class Memory {
  public:
    u64 free_bytes() const { return TOTAL_MEMORY - used_; }

    // What kernels and copies may touch.
    const Ranges& ranges() const { return ranges_; }

    Status allocate(u64 bytes, u64& at) {
        if (bytes == 0) {
            return INVALID_VALUE;
        }
        if (bytes > free_bytes()) {
            return OUT_OF_MEMORY;
        }
        const u64 whole = round_up(bytes, u64(sysconf(_SC_PAGESIZE)));
        void* base = mmap(nullptr, whole + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED || mprotect(static_cast<u8*>(base) + GUARD, whole, PROT_READ | PROT_WRITE) != 0) {
            return OUT_OF_MEMORY;
        }
        at = reinterpret_cast<u64>(base) + GUARD;
        std::fill_n(reinterpret_cast<u32*>(at), whole / 4, UNWRITTEN);
        allocations_[at] = bytes;
        ranges_.add(at, bytes);
        used_ += bytes;
        return SUCCESS;
    }

    Status free(u64 at) {
        const auto found = allocations_.find(at);
        if (found == allocations_.end()) {
            return INVALID_VALUE;
        }
        const u64 whole = round_up(found->second, u64(sysconf(_SC_PAGESIZE)));
        munmap(reinterpret_cast<void*>(at - GUARD), whole + 2 * GUARD);
        used_ -= found->second;
        ranges_.remove(at);
        allocations_.erase(found);
        return SUCCESS;
    }

    // Addresses without memory.
    Status reserve(u64 bytes, u64 alignment, u64& at) {
        if (bytes == 0 || bytes % GRANULARITY != 0 || (alignment & (alignment - 1)) != 0) {
            return INVALID_VALUE;
        }
        const u64 step = alignment < GRANULARITY ? GRANULARITY : alignment;
        void* base = mmap(nullptr, bytes + step, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) {
            return OUT_OF_MEMORY;
        }
        at = round_up(reinterpret_cast<u64>(base), step);
        reservations_[at] = {bytes, base, bytes + step};
        return SUCCESS;
    }

    Status unreserve(u64 at, u64 bytes) {
        const auto found = reservations_.find(at);
        if (found == reservations_.end() || found->second.bytes != bytes || any_mapped(at, bytes)) {
            return INVALID_VALUE;
        }
        munmap(found->second.base, found->second.whole);
        reservations_.erase(found);
        return SUCCESS;
    }

    // Memory without addresses.
    Status create(u64 bytes, u64& handle) {
        if (bytes == 0 || bytes % GRANULARITY != 0) {
            return INVALID_VALUE;
        }
        if (bytes > free_bytes()) {
            return OUT_OF_MEMORY;
        }
        const int file = memfd_create("leasehold-model", MFD_CLOEXEC);
        void* at = MAP_FAILED;
        if (file >= 0 && ftruncate(file, off_t(bytes)) == 0) {
            at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        }
        if (at == MAP_FAILED) {
            close(file);
            return OUT_OF_MEMORY;
        }
        std::fill_n(static_cast<u32*>(at), bytes / 4, UNWRITTEN);
        munmap(at, bytes);
        handle = ++last_handle_;
        pieces_[handle] = {file, bytes, 0, false};
        used_ += bytes;
        return SUCCESS;
    }

    // The memory goes when nothing maps it any more.
    Status release(u64 handle) {
        const auto found = pieces_.find(handle);
        if (found == pieces_.end() || found->second.released) {
            return INVALID_VALUE;
        }
        found->second.released = true;
        drop(found->first);
        return SUCCESS;
    }

    Status map(u64 at, u64 bytes, u64 handle) {
        const auto found = pieces_.find(handle);
        if (found == pieces_.end() || found->second.released || bytes != found->second.bytes || !reserved(at, bytes) ||
            at % GRANULARITY != 0 || any_mapped(at, bytes)) {
            return INVALID_VALUE;
        }
        if (mmap(reinterpret_cast<void*>(at), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, found->second.file, 0) == MAP_FAILED) {
            return MAP_FAILURE;
        }
        found->second.mapped++;
        mappings_[at] = {bytes, handle};
        return SUCCESS;
    }

    // Of whole mappings; memory may be touched from now on, or no longer.
    Status set_access(u64 at, u64 bytes, bool is) {
        for (u64 end = at + bytes; at < end;) {
            const auto found = mappings_.find(at);
            if (found == mappings_.end() || found->second.bytes > end - at) {
                return INVALID_VALUE;
            }
            const u64 length = found->second.bytes;
            if (mprotect(reinterpret_cast<void*>(at), length, is ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) {
                return UNKNOWN;
            }
            ranges_.remove(at);
            if (is) {
                ranges_.add(at, length);
            }
            at += length;
        }
        return SUCCESS;
    }

    Status unmap(u64 at, u64 bytes) {
        const u64 end = at + bytes;
        for (u64 i = at; i < end; i += mappings_[i].bytes) {
            const auto found = mappings_.find(i);
            if (found == mappings_.end() || found->second.bytes > end - i) {
                return INVALID_VALUE;
            }
        }
        while (at < end) {
            const Mapping mapping = mappings_[at];
            mmap(reinterpret_cast<void*>(at), mapping.bytes, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
            ranges_.remove(at);
            mappings_.erase(at);
            pieces_[mapping.handle].mapped--;
            drop(mapping.handle);
            at += mapping.bytes;
        }
        return SUCCESS;
    }

    // The host's memory that copies need not stage.
    Status pin(u64 bytes, void*& at) {
        if (bytes == 0 || posix_memalign(&at, 4096, bytes) != 0) {
            return bytes == 0 ? INVALID_VALUE : OUT_OF_MEMORY;
        }
        pinned_.add(reinterpret_cast<u64>(at), bytes);
        pins_[at] = bytes;
        return SUCCESS;
    }

    Status unpin(void* at) {
        if (pins_.erase(at) == 0) {
            return INVALID_VALUE;
        }
        pinned_.remove(reinterpret_cast<u64>(at));
        ::free(at);
        return SUCCESS;
    }

    bool is_pinned(const void* at, u64 bytes) const { return pinned_.cover(reinterpret_cast<u64>(at), bytes); }

  private:
    struct Reservation {
        u64 bytes;
        void* base;
        u64 whole;
    };
    struct Piece {
        int file;
        u64 bytes;
        u32 mapped;
        bool released;
    };
    struct Mapping {
        u64 bytes, handle;
    };

    static u64 round_up(u64 x, u64 to) { return (x + to - 1) / to * to; }

    bool reserved(u64 at, u64 bytes) const {
        const auto after = reservations_.upper_bound(at);
        if (after == reservations_.begin()) {
            return false;
        }
        const u64 from = at - std::prev(after)->first, whole = std::prev(after)->second.bytes;
        return from < whole && bytes <= whole - from;
    }

    bool any_mapped(u64 at, u64 bytes) const {
        const auto after = mappings_.lower_bound(at + bytes);
        return after != mappings_.begin() && std::prev(after)->first + std::prev(after)->second.bytes > at;
    }

    void drop(u64 handle) {
        const Piece& piece = pieces_[handle];
        if (piece.released && piece.mapped == 0) {
            close(piece.file);
            used_ -= piece.bytes;
            pieces_.erase(handle);
        }
    }

    u64 used_ = 0, last_handle_ = 0;
    Ranges ranges_, pinned_;
    std::map<u64, u64> allocations_;
    std::map<u64, Reservation> reservations_;
    std::map<u64, Piece> pieces_;
    std::map<u64, Mapping> mappings_;
    std::map<void*, u64> pins_;
};

}  // namespace model
