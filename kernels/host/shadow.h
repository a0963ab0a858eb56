// Shared memory of a block with a shadow: what each four bytes were last used for, and by whom. Finds accesses out of
// bounds, misaligned, of what was never written, of what a copy is still writing, and races.
//
// Races are found by happens-before, whatever order was run: each agent has a clock of all agents, barriers join them
// (FastTrack, Flanagan and Freund 2009). Agents are the warps of a cluster's blocks, and the barriers that count bytes: what
// the copy engine writes is known to whoever waited for its barrier, and to nobody else. Lanes of a warp are one agent;
// between two of them only `sync_warp` or a barrier orders, which a count of both tells.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "host/report.h"

namespace model {

constexpr uint32_t SHARED_BASE = 0x400;  // Where dynamic shared memory begins on Hopper, as reported; not yet calibrated.
constexpr uint32_t LANES = 32;
constexpr uint32_t MAX_BARRIERS = 32;

// Progress of every agent, as far as it is known.
using Ticks = std::vector<uint32_t>;

inline void join(Ticks& into, const Ticks& from) {
    for (size_t i = 0; i < into.size(); i++) {
        into[i] = std::max(into[i], from[i]);
    }
}

// What a warp knows.
struct Clock {
    Ticks ticks;
    // Times that this warp's lanes were ordered.
    uint32_t lanes_ordered = 0;
};

// The agents of a cluster: of each block its warps, then its barriers. The warps have clocks.
struct Agents {
    Agents(uint32_t blocks, uint32_t warps_of_block) : warps(warps_of_block), clocks(blocks * warps_of_block) {
        for (uint32_t i = 0; i < clocks.size(); i++) {
            clocks[i].ticks.assign(blocks * per_block(), 0);
            clocks[i].ticks[first(i / warps) + i % warps] = 1;
        }
    }
    uint32_t per_block() const { return warps + MAX_BARRIERS; }
    uint32_t first(uint32_t block) const { return block * per_block(); }
    Ticks none() const { return Ticks(clocks.front().ticks.size(), 0); }

    uint32_t warps;
    std::vector<Clock> clocks;
};

// Who touches: a warp, a lane of it, and the line that says so.
struct Toucher {
    uint32_t warp, lane;
    const Where& where;
};

class Shadow {
  public:
    // Of a block of the cluster whose agents these are.
    Shadow(uint32_t bytes, Agents& agents, uint32_t block, Report& report)
        : bytes_(bytes, 0xff), cells_((bytes + 3) / 4), reads_(cells_.size() * agents.warps), agents_(agents), block_(block),
          writes_(agents.warps * LANES), fenced_(agents.warps * LANES), report_(report) {}

    uint32_t warps() const { return agents_.warps; }

    // A warp's clock, and an agent's place in all clocks.
    Clock& clock(uint32_t warp) { return agents_.clocks[block_ * warps() + warp]; }
    uint32_t agent(uint32_t own) const { return agents_.first(block_) + own; }

    // Whether a warp, of whichever block, knows who last wrote here.
    bool knows(uint32_t address, const Clock& clock) {
        const Cell& cell = cells_[(address - SHARED_BASE) / 4];
        return cell.written && cell.tick <= clock.ticks[agent(cell.writer)];
    }

    // The bytes behind an address, if they are inside and aligned to their size.
    uint8_t* at(uint32_t address, uint32_t size, const Where& where) {
        const uint32_t offset = address - SHARED_BASE;
        if (address < SHARED_BASE || offset > bytes_.size() || size > bytes_.size() - offset) {
            report_.error("shared-bounds", where, "%u bytes at 0x%x of %zu", size, address, bytes_.size());
            return nullptr;
        }
        if (address % size != 0) {
            report_.error("shared-alignment", where, "%u bytes at 0x%x", size, address);
            return nullptr;
        }
        return &bytes_[offset];
    }

    void read(uint32_t address, uint32_t size, const Toucher& who) {
        const Clock& clock = this->clock(who.warp);
        each(address, size, [&](Cell& cell, uint32_t* reads, uint32_t cell_at) {
            if (!cell.written) {
                report_.error("shared-uninitialised", who.where, "read of 0x%x, never written", cell_at);
            } else if (cell.copy_of != 0) {
                report_.error("copy-in-flight", who.where, "read of 0x%x before the copy of thread %u was waited for",
                              cell_at, cell.copy_of - 1);
            } else if (unordered(cell, who, clock)) {
                report_.error("race", who.where, "read of 0x%x by warp %u lane %u, written by warp %u lane %u", cell_at,
                              who.warp, who.lane, cell.writer, cell.writer_lane);
            }
            const uint32_t now = clock.ticks[agent(who.warp)];
            cell.reader_lane = reads[who.warp] == now && cell.reader_lane != who.lane &&
                                       cell.read_order == clock.lanes_ordered
                                   ? MANY
                                   : static_cast<uint8_t>(who.lane);
            cell.read_order = clock.lanes_ordered;
            reads[who.warp] = now;
        });
    }

    // A write, or the start of the copy of a thread (its number and one).
    void write(uint32_t address, uint32_t size, const Toucher& who, uint32_t copy_of = 0) {
        const Clock& clock = this->clock(who.warp);
        each(address, size, [&](Cell& cell, uint32_t* reads, uint32_t cell_at) {
            check_write(cell, who, unordered(cell, who, clock), cell_at);
            for (uint32_t warp = 0; warp < warps(); warp++) {
                const uint32_t known = clock.ticks[agent(warp)];
                const bool later = warp != who.warp && reads[warp] > known;
                const bool lane = warp == who.warp && reads[warp] != 0 && reads[warp] == known &&
                                  cell.reader_lane != who.lane && cell.read_order == clock.lanes_ordered;
                if (later || lane) {
                    tell_read(cell_at, who, warp);
                }
            }
            cell.copy_of = copy_of;
            stamp(cell, who);
        });
    }

    // The start of a copy by a thread of another block of the cluster, whose warp has this clock.
    void write_from(uint32_t address, uint32_t size, const Toucher& who, const Clock& clock, uint32_t copy_of) {
        each(address, size, [&](Cell& cell, uint32_t* reads, uint32_t cell_at) {
            check_write(cell, who, cell.tick > clock.ticks[agent(cell.writer)], cell_at);
            for (uint32_t warp = 0; warp < warps(); warp++) {
                if (reads[warp] > clock.ticks[agent(warp)]) {
                    tell_read(cell_at, who, warp);
                }
            }
            cell.copy_of = copy_of;
            cell.written = true;
        });
    }

    // A copy's bytes became visible to the thread that started it.
    void land(uint32_t address, uint32_t size, const Toucher& who) {
        each(address, size, [&](Cell& cell, uint32_t*, uint32_t) {
            cell.copy_of = 0;
            stamp(cell, who);
        });
    }

    // Bytes that the copy engine wrote, in the phase of a barrier that this tick names.
    void land_box(uint32_t address, uint32_t size, uint32_t barrier, uint32_t tick) {
        each(address, size, [&](Cell& cell, uint32_t*, uint32_t) {
            cell.copy_of = 0;
            cell.written = true;
            cell.writer = static_cast<uint8_t>(warps() + barrier);
            cell.tick = tick;
        });
    }

    // A product of the warpgroup, or a box that leaves, begins to read on behalf of each of these warps.
    void begin_read(uint32_t address, uint32_t size, const Toucher& who, uint32_t first_warp, uint32_t count) {
        for (uint32_t i = 0; i < count; i++) {
            read(address, size, {first_warp + i, who.lane, who.where});
        }
        each(address, size, [&](Cell& cell, uint32_t*, uint32_t cell_at) {
            cell.readers++;
            // By hand written bytes are theirs to see only behind the writer's own fence.
            if (cell.written && cell.writer < warps() && cell.sequence > fenced_[cell.writer * LANES + cell.writer_lane]) {
                report_.error("proxy-fence", who.where, "product or box reads 0x%x, written by warp %u lane %u without a fence",
                              cell_at, cell.writer, cell.writer_lane);
            }
        });
    }

    // It has read: from now on the warps' clocks say so.
    void end_read(uint32_t address, uint32_t size, uint32_t first_warp, uint32_t count) {
        each(address, size, [&](Cell& cell, uint32_t* reads, uint32_t) {
            cell.readers--;
            for (uint32_t i = 0; i < count; i++) {
                reads[first_warp + i] = clock(first_warp + i).ticks[agent(first_warp + i)];
            }
        });
    }

    // What a warp knows goes into a barrier, and what it does from now on is later.
    void release(uint32_t warp, Ticks& into) {
        model::join(into, clock(warp).ticks);
        clock(warp).ticks[agent(warp)]++;
    }

    // What a barrier knows.
    void acquire(uint32_t warp, const Ticks& from) {
        model::join(clock(warp).ticks, from);
        clock(warp).lanes_ordered++;
    }

    Ticks no_ticks() const { return agents_.none(); }

    // Warps wait for each other, and for those whose knowledge is given.
    void meet(const std::vector<uint32_t>& who, const Ticks& given) {
        Ticks all = no_ticks();
        model::join(all, given);
        for (const uint32_t warp : who) {
            release(warp, all);
        }
        for (const uint32_t warp : who) {
            acquire(warp, all);
        }
    }

    // A thread's writes so far are seen by copies and products that it starts, or that start after a barrier.
    void fence(uint32_t thread) { fenced_[thread] = writes_[thread]; }

    // The lanes of a warp wait for each other.
    void order_lanes(uint32_t warp) { clock(warp).lanes_ordered++; }

  private:
    static constexpr uint8_t MANY = 0xff;

    struct Cell {
        uint32_t tick = 0, order = 0, read_order = 0, copy_of = 0;
        // Products that read it now.
        uint32_t readers = 0;
        // Which of its writer's writes it was.
        uint32_t sequence = 0;
        uint8_t writer = 0, writer_lane = 0, reader_lane = 0;
        bool written = false;
    };

    void check_write(const Cell& cell, const Toucher& who, bool unordered, uint32_t cell_at) {
        if (cell.copy_of != 0) {
            report_.error("copy-in-flight", who.where, "write of 0x%x while the copy of thread %u writes it", cell_at,
                          cell.copy_of - 1);
        } else if (cell.readers > 0) {
            report_.error("race", who.where, "write of 0x%x while a product or a box reads it", cell_at);
        } else if (cell.written && unordered) {
            report_.error("race", who.where, "write of 0x%x by warp %u lane %u, written by warp %u lane %u", cell_at, who.warp,
                          who.lane, cell.writer, cell.writer_lane);
        }
    }

    void tell_read(uint32_t cell_at, const Toucher& who, uint32_t warp) {
        report_.error("race", who.where, "write of 0x%x by warp %u lane %u, read by warp %u", cell_at, who.warp, who.lane,
                      warp);
    }

    bool unordered(const Cell& cell, const Toucher& who, const Clock& clock) const {
        if (cell.writer != who.warp) {
            return cell.tick > clock.ticks[agent(cell.writer)];
        }
        return cell.writer_lane != who.lane && cell.order == clock.lanes_ordered;
    }

    void stamp(Cell& cell, const Toucher& who) {
        const Clock& clock = this->clock(who.warp);
        cell.written = true;
        cell.writer = static_cast<uint8_t>(who.warp);
        cell.writer_lane = static_cast<uint8_t>(who.lane);
        cell.tick = clock.ticks[agent(who.warp)];
        cell.order = clock.lanes_ordered;
        cell.sequence = ++writes_[who.warp * LANES + who.lane];
    }

    template <class F>
    void each(uint32_t address, uint32_t size, F touch) {
        const uint32_t first = (address - SHARED_BASE) / 4, end = (address - SHARED_BASE + size + 3) / 4;
        for (uint32_t i = first; i < end; i++) {
            touch(cells_[i], &reads_[i * warps()], SHARED_BASE + 4 * i);
        }
    }

    std::vector<uint8_t> bytes_;
    std::vector<Cell> cells_;
    // For each cell, the tick of each warp's last read.
    std::vector<uint32_t> reads_;
    Agents& agents_;
    uint32_t block_;
    // Of each thread: its writes, and how many of them are fenced.
    std::vector<uint32_t> writes_, fenced_;
    Report& report_;
};

}  // namespace model
