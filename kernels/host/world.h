// The state of a launch on the model: of each block that runs a world, its threads and warps, and what the blocks of a
// cluster share. The surface (`host/ptx`) reads and changes it; `launch.h` drives it. One world at a time a host thread.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "host/fiber.h"
#include "host/report.h"
#include "host/shadow.h"

namespace model {

// When asynchronous work becomes visible: as late as the rules allow, at once, or as it is drawn; the last two mix copies
// and products. Early copies hide a missing wait, late ones hide an overwrite: test with several.
enum class Order : uint32_t { Late = 0, Early = 1, Seeded = 2, LateCopies = 3, LateProducts = 4 };

struct Config {
    Order order;
    uint32_t blocks, threads, shared_bytes;
    uint64_t seed;
};

// A copy that a thread has started and not waited for.
struct Copy {
    uint32_t shared, bytes, group;
    const uint8_t* global;
    bool done;
};

// A box on its way from shared memory to a tensor. What it reads, it keeps until it writes.
struct Store {
    uint32_t shared, bytes, group;
    bool read;
    std::vector<uint8_t> kept;
    std::function<void(Store&)> take, put;
};

struct Thread {
    Context context;
    bool ended = false;
    // What it waits for, and the words that say so if it never comes.
    bool (*ready)(const Thread&) = nullptr;
    const char* waits_for = "";
    Where where;
    uint64_t ticket = 0;
    // Groups of copies: those committed, and what is on its way.
    uint32_t groups = 0;
    std::vector<Copy> copies;
    // The same of boxes to a tensor.
    uint32_t store_groups = 0;
    std::vector<Store> stores;
    // Barrier and parity of the phase it waits for; products it waits for.
    uint32_t barrier = 0, parity = 0, products = 0;
    // Whether a fence stands between what it did to its sums and the next product.
    bool fenced = false;
};

// A box on its way, whose bytes count at a barrier.
struct Box {
    uint32_t barrier, bytes;
    std::function<void()> run;
};

// A barrier that counts arrivals and bytes.
struct Barrier {
    uint32_t address = 0, expected = 0, arrivals = 0, phase = 0, initialised_by = 0;
    int64_t bytes = 0;
    bool fenced = false;
    // What those who arrived in this phase know, and what those of the phases before knew.
    Ticks arriving, arrived;
    // Of each agent, when it passed a wait for the phase before: who ends the phase must know, or it may miss it.
    Ticks passed;
};

// A product of a warpgroup, and what it reads.
struct Span {
    uint32_t address, bytes, first_warp, warps;
};
struct Product {
    uint32_t posted = 0;
    uint64_t a = 0, b = 0;
    // Which of each thread's sums it adds to.
    size_t sums = 0;
    // Of each thread, where A comes from registers: read when the product runs.
    std::vector<const uint32_t*> fragments;
    std::vector<Span> reads;
    std::function<void()> run;
};

// Sums that products add to, and where their thread has them: nowhere, once it has them back. How many products there were
// with the last that adds to them.
struct Sums {
    float* owner;
    std::vector<float> values;
    uint32_t last;
};

// A warpgroup's products: those of the open group, and the committed groups in order. Its threads' sums are kept here
// while products run.
struct Warpgroup {
    std::vector<std::shared_ptr<Product>> all;
    // Of each thread: products it has posted, and how many of them each of its groups ends with.
    std::vector<uint32_t> posted = std::vector<uint32_t>(128);
    std::vector<std::vector<uint32_t>> groups = std::vector<std::vector<uint32_t>>(128);
    std::vector<std::vector<Sums>> sums = std::vector<std::vector<Sums>>(128);
    // Products that ran.
    uint32_t done = 0;
};

// A barrier of the block by its number: threads that came, their warps, those that wait, what the others knew when they came,
// and how often all had come.
struct Named {
    uint32_t arrived = 0;
    std::vector<uint32_t> warps, waiting;
    Ticks known;
    uint64_t met = 0;
};

// A warp's meeting: lanes post what they bring, and the last one acts for all.
struct Warp {
    const void* posted[LANES] = {};
    void* results[LANES] = {};
    uint32_t count = 0;
    const char* meeting = "";
    uint64_t met = 0;
};

struct World;

// What the blocks of a cluster share. One block alone is a cluster too.
struct Cluster {
    Agents agents;
    std::vector<std::unique_ptr<World>> blocks;
    std::function<void()> kernel;
    Report& report;
    uint64_t& random;
    // Threads at the cluster's barrier, and how often all were.
    uint32_t arrived = 0;
    uint64_t met = 0;
};

struct World {
    World(const Config& with, Cluster& of, uint32_t number, uint32_t place)
        : config(with), cluster(of), report(of.report), block(number), rank(place), threads(with.threads),
          warps(with.threads / LANES), shared(std::make_unique<Shadow>(with.shared_bytes, of.agents, place, of.report)),
          warpgroups(with.threads / 128), signals(of.agents.none()), alive(with.threads) {}

    Config config;
    Cluster& cluster;
    Report& report;
    // Number in the grid, and in the cluster.
    uint32_t block, rank;
    uint32_t running = 0;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::unique_ptr<Shadow> shared;
    // The block's barriers by their numbers.
    std::vector<Named> named = std::vector<Named>(16);
    // Barriers in shared memory, boxes on their way, and products.
    std::vector<Barrier> barriers;
    std::vector<Box> boxes;
    std::vector<Warpgroup> warpgroups;
    // Of each agent of another block, when it last signalled a barrier here; and this block's threads that have not ended.
    Ticks signals;
    uint32_t alive;
    Context host;

    Thread& thread() { return threads[running]; }
    Toucher toucher(const Where& where) const { return {running / LANES, running % LANES, where}; }

    bool early_copies() {
        return is_early(Order::LateProducts);
    }
    bool early_products() {
        return is_early(Order::LateCopies);
    }

    // Whether what this order has early, the other being late, comes at once.
    bool is_early(Order but_late) {
        return config.order == Order::Early || config.order == but_late || (config.order == Order::Seeded && draw(2) == 0);
    }

    // xorshift64*, for seeded orders.
    uint32_t draw(uint32_t below) {
        uint64_t& random = cluster.random;
        random ^= random >> 12, random ^= random << 25, random ^= random >> 27;
        return static_cast<uint32_t>((random * 0x2545f4914f6cdd1dull) >> 33) % below;
    }
};

inline thread_local World* world = nullptr;

// The world of another block of the cluster, for as long as this lives.
class In {
  public:
    explicit In(World& other) : back_(world) { world = &other; }
    In(const In&) = delete;
    ~In() { world = back_; }

  private:
    World* back_;
};

// Lets others run until `ready` says that this thread may go on.
inline void wait_until(bool (*ready)(const Thread&), const char* what, const Where& where) {
    Thread& self = world->thread();
    if (ready(self)) {
        return;
    }
    self.ready = ready;
    self.waits_for = what;
    self.where = where;
    switch_to(self.context, world->host);
}

// The lanes of a warp meet: each brings `in` and receives `out`; the last to come calls `act` on all of them.
template <class In, class Out, class F>
void meet(const char* name, const In& in, Out& out, const Where& where, F act) {
    const uint32_t lane = world->running % LANES;
    Warp& warp = world->warps[world->running / LANES];
    if (warp.count == 0) {
        warp.meeting = name;
    } else if (warp.meeting != name) {
        world->report.error("divergent", where, "lane %u is at %s, others of its warp at %s", lane, name, warp.meeting);
    }
    warp.posted[lane] = &in;
    warp.results[lane] = &out;
    if (++warp.count == LANES) {
        const In* ins[LANES];
        Out* outs[LANES];
        for (uint32_t i = 0; i < LANES; i++) {
            ins[i] = static_cast<const In*>(warp.posted[i]);
            outs[i] = static_cast<Out*>(warp.results[i]);
        }
        act(ins, outs);
        warp.count = 0;
        warp.met++;
        return;
    }
    world->thread().ticket = warp.met;
    wait_until([](const Thread& t) { return world->warps[world->running / LANES].met != t.ticket; }, name, where);
}

}  // namespace model
