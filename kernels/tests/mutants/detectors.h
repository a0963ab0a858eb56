// Small kernels, each of which makes one mistake or does not: what mutants of the table's kernels do not bring about.
// `detectors.rs` builds the program and reads what it says.
#pragma once

#include "host/launch.h"

#include "cuda/ptx.h"
#include "cuda/tile/descriptor.h"

namespace detectors {

constexpr u32 SHARED_BYTES = 32 << 10;
// A barrier behind two tiles of 64 rows of 128 bytes.
constexpr u32 TILE_BYTES = 64 * 128, BARRIER = 2 * TILE_BYTES;

alignas(1024) inline u8 memory[TILE_BYTES];

inline u64 global() { return reinterpret_cast<u64>(memory); }
inline u32 shared(u32 at) { return shared_base() + at; }
inline bool is_first() { return thread_index() == 0; }

// Eight rows of boxes of `columns` 16-bit elements.
inline TensorMap map_of(u32 columns) {
    return {global(), {64, 64, 1, 1, 1}, {128, 0, 0, 0}, {columns, 8, 1, 1, 1}, 2, 0, {}};
}
inline const TensorMap MAP = map_of(64), NARROW = map_of(32);

inline void make_barrier(u32 arrivals) {
    if (is_first()) {
        init_barrier(shared(BARRIER), arrivals);
        fence_barriers();
    }
    sync_cluster();
}

// A box in shared memory.
inline void box_at(const TensorMap& map, u32 at) {
    make_barrier(1);
    if (is_first()) {
        arrive_expecting(shared(BARRIER), model::bytes_of(map));
        copy_box(shared(at), map, shared(BARRIER), {0, 0, 0, 0, 0});
    }
    wait_barrier(shared(BARRIER), 0);
}
inline void box_off_its_swizzle(bool wrong) { box_at(MAP, wrong ? 128 : 0); }
inline void box_of_narrow_rows(bool wrong) { box_at(wrong ? NARROW : MAP, 0); }

inline void box_to_no_block(bool wrong) {
    make_barrier(1);
    if (is_first()) {
        arrive_expecting(shared(BARRIER), model::bytes_of(MAP));
        if (cluster_rank() == 0) {
            copy_box_to(wrong ? 1 << 2 : 3, shared(0), MAP, shared(BARRIER), {0, 0, 0, 0, 0});
        }
    }
    wait_barrier(shared(BARRIER), 0);
    sync_cluster();
}

inline void arrival_at_no_block(bool wrong) {
    make_barrier(1);
    if (is_first()) {
        arrive_at(shared(BARRIER), wrong ? 2 : 1 - cluster_rank());
    }
    wait_barrier(shared(BARRIER), 0);
    sync_cluster();
}

inline void copy(u64 from, u32 bytes) {
    copy_async16(shared(16 * thread_index()), from, bytes);
    commit_copies();
    wait_copies<0>();
}
inline void copy_of_too_much(bool wrong) { copy(global(), wrong ? 17 : 16); }
inline void copy_off_alignment(bool wrong) { copy(global() + (wrong ? 8 : 16), 16); }

inline void read_off_alignment(bool wrong) { load_global_u32(global() + (wrong ? 2 : 4)); }

inline void read_of_no_allocation(bool wrong) {
    static model::Ranges ranges;
    ranges.add(global(), sizeof memory);
    model::reachable = &ranges;
    load_global_u32(global() + (wrong ? sizeof memory : 0));
    model::reachable = nullptr;
}

// Words that no launch wrote; this one does first, unless.
inline void words_of_scratch(bool wrong, void (*read)(u64)) {
    alignas(16) u32 words[4] = {model::UNWRITTEN, 0, 0, model::UNWRITTEN};
    const u64 at = reinterpret_cast<u64>(words);
    if (!wrong) {
        store_global_u32x4(at, {1, 2, 3, 4});
    }
    read(at);
}
inline void read_of_scratch(bool wrong) { words_of_scratch(wrong, [](u64 at) { load_global_u32(at); }); }
inline void copy_of_scratch(bool wrong) { words_of_scratch(wrong, [](u64 at) { copy(at, 16); }); }
inline void exchange_of_scratch(bool wrong) { words_of_scratch(wrong, [](u64 at) { exchange_global_u32(at, 5); }); }

inline void write_behind_the_end(bool wrong) {
    if (is_first()) {
        store_shared_u32(shared(wrong ? SHARED_BYTES : SHARED_BYTES - 4), 1);
    }
}
inline void write_before_the_beginning(bool wrong) {
    if (is_first()) {
        store_shared_u32(shared(wrong ? -4u : 0), 1);
    }
}
inline void write_over_the_end(bool wrong) {
    if (is_first()) {
        store_shared(shared(SHARED_BYTES - (wrong ? 8 : 16)), u32x4{});
    }
}
inline void write_off_alignment(bool wrong) {
    if (is_first()) {
        store_shared_u32(shared(wrong ? 2 : 4), 1);
    }
}

inline void lanes_apart(bool wrong) {
    if (wrong && thread_index() == 31) {
        sync_warp();
    } else {
        shuffle_xor(1, 1);
    }
}

// One of two arrivals.
inline void arrival_missing(bool wrong) {
    make_barrier(2);
    if (thread_index() < (wrong ? 1 : 2)) {
        arrive(shared(BARRIER));
    }
    wait_barrier(shared(BARRIER), 0);
}

// A product of zeros, with A's tile where this thread says, and what it does to its sums before it waits.
template <class F>
void multiply(u32 a, F touch) {
    for (u32 i = thread_index(); i < 2 * TILE_BYTES / 16; i += 128) {
        store_shared(shared(16 * i), u32x4{});
    }
    fence_async();
    sync_block();
    f32 sums[32];
    for (u32 i = 0; i < 32; i++) {
        sums[i] = static_cast<f32>(i);
    }
    wgmma_fence();
    wgmma_bf16<false, false>(sums, descriptor::of(shared(a), 0), descriptor::of(shared(TILE_BYTES), 0));
    wgmma_commit();
    touch(sums);
    wgmma_wait<0>();
    store_global_f32(global() + 4 * thread_index(), sums[thread_index() % 32]);
}
inline void products_apart(bool wrong) {
    multiply(wrong && thread_index() == 77 ? 1024 : 0, [](f32*) {});
}
inline void sums_written(bool wrong) {
    multiply(0, [=](f32* sums) { sums[3] = wrong ? 1.0f : sums[3]; });
}
inline void sums_scaled(bool wrong) {
    multiply(0, [=](f32* sums) {
        for (u32 i = 0; wrong && i < 32; i++) {
            sums[i] *= 0.5f;
        }
    });
}
inline void sums_added_to(bool wrong) {
    multiply(0, [=](f32* sums) { sums[31] = wrong ? sums[31] + 1.0f : sums[31]; });
}
inline void sums_moved(bool wrong) {
    multiply(0, [=](f32* sums) { sums[0] = sums[wrong ? 1 : 0]; });
}

inline void nothing(bool) {}

struct Case {
    const char *detector, *name;
    void (*kernel)(bool);
    u32 threads = 32, cluster = 1, odd_blocks = 0;
};

inline const Case CASES[] = {
    {"box", "off its swizzle", box_off_its_swizzle},
    {"box", "of narrow rows", box_of_narrow_rows},
    {"cluster", "box", box_to_no_block, 32, 2},
    {"cluster", "arrival", arrival_at_no_block, 32, 2},
    {"copy-size", "copy", copy_of_too_much},
    {"global-alignment", "copy", copy_off_alignment},
    {"global-alignment", "read", read_off_alignment},
    {"global-bounds", "read", read_of_no_allocation},
    {"global-uninitialised", "read", read_of_scratch},
    {"global-uninitialised", "copy", copy_of_scratch},
    {"global-uninitialised", "exchange", exchange_of_scratch},
    {"shared-bounds", "behind", write_behind_the_end},
    {"shared-bounds", "before", write_before_the_beginning},
    {"shared-bounds", "over", write_over_the_end},
    {"shared-alignment", "write", write_off_alignment},
    {"divergent", "lanes", lanes_apart},
    {"deadlock-barrier", "arrival", arrival_missing},
    {"wgmma-divergent", "products", products_apart, 128},
    {"wgmma-sums", "written", sums_written, 128},
    {"wgmma-sums", "scaled", sums_scaled, 128},
    {"wgmma-sums", "added to", sums_added_to, 128},
    {"wgmma-sums", "moved", sums_moved, 128},
    {"grid", "half a cluster", nothing, 32, 2, 1},
};

// A line for each finding: detector, case, whether the mistake was made, and what was found.
inline int run() {
    for (const Case& of : CASES) {
        for (const bool wrong : {false, true}) {
            char text[1 << 14];
            const u32 blocks = 2 * of.cluster + (wrong ? of.odd_blocks : 0);
            const model::Config config{model::Order::Late, blocks, of.threads, SHARED_BYTES, 1};
            model::launch(config, [=] { of.kernel(wrong); }, text, sizeof text, of.cluster);
            const char* state = wrong ? "wrong" : "right";
            for (const char* line = strtok(text, "\n"); line != nullptr; line = strtok(nullptr, "\n")) {
                printf("%s\t%s\t%s\t%s\n", of.detector, of.name, state, line);
            }
            printf("%s\t%s\t%s\t\n", of.detector, of.name, state);
        }
    }
    return 0;
}

}  // namespace detectors
