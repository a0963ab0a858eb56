// Products on Hopper: one warpgroup's thread brings tiles by the copy engine into a ring, two others multiply them by wgmma
// and end them, tile after tile of what the launch was given. For f16 and bf16, each operand dense along K or along its
// other axis. `kernels/src/matmul.rs` lists the rows and when they may run.
//
// Order of each output: one wgmma after the other along k, 16 at a time, in f32.
#pragma once

#include "cuda/tile/descriptor.h"
#include "cuda/tile/output.h"
#include "cuda/tile/place.h"

// The launch, and the maps of its operands.
struct MatmulSm90Args {
    TensorMap a, b;
    // Of the output, where the copy engine takes it: then it is dense and of 16 bits, and the epilogue has alpha alone.
    TensorMap out;
    MatmulArgs matmul;
    // Bit i: operand's axis i of the batch is not broadcast. Maps have the batch's last three axes.
    u32 spread_a, spread_b;
    // Whether the engine takes the output.
    u32 stores_boxes;
    u32 padding[3];
};

static_assert(sizeof(MatmulSm90Args) == 1024, "as in kernels/src/matmul.rs");

namespace matmul_sm90 {

constexpr u32 ELEMENT = 2;  // Bytes.
constexpr u32 SPAN = descriptor::ROW / ELEMENT;
using output::WARPGROUP;
constexpr u32 K_STEP = 16;

template <u32 N, u32 STAGES_, bool A_OUTER_, bool B_OUTER_, u32 DTYPE_>
struct Shape {
    static constexpr u32 CONSUMERS = 2, BLOCK_M = 64 * CONSUMERS, BLOCK_N = N, BLOCK_K = SPAN;
    static constexpr u32 STAGES = STAGES_, DTYPE = DTYPE_;
    static constexpr bool A_OUTER = A_OUTER_, B_OUTER = B_OUTER_;
    static constexpr u32 THREADS = (1 + CONSUMERS) * WARPGROUP;
    // Registers a thread: the launch gives all the same, then the producer's go to the consumers.
    static constexpr u32 PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
    static_assert(PRODUCER_REGISTERS + CONSUMERS * CONSUMER_REGISTERS <= 65536 / WARPGROUP, "registers of a multiprocessor");
    static constexpr u32 A_BYTES = BLOCK_M * BLOCK_K * ELEMENT, B_BYTES = BLOCK_N * BLOCK_K * ELEMENT;
    static constexpr u32 STAGE_BYTES = A_BYTES + B_BYTES, RING_BYTES = STAGES * STAGE_BYTES;
    static constexpr u32 BARRIERS = RING_BYTES + CONSUMERS * output::BYTES;
    static constexpr u32 SHARED_BYTES = BARRIERS + 2 * STAGES * 8;
    static_assert(SHARED_BYTES <= 227 * 1024, "shared memory of a block");
    static_assert(A_BYTES % 1024 == 0 && B_BYTES % 1024 == 0, "the swizzle repeats every 1024 bytes");
};

// The ring: its stages, and of each a barrier that its bytes fill and one that its readers empty.
template <class S>
struct Ring {
    u32 base = shared_base();
    u32 stage = 0;
    // Parity of the phase that a consumer waits for.
    u32 phase = 0;

    DEVICE_MEMBER u32 a() const { return base + stage * S::STAGE_BYTES; }
    DEVICE_MEMBER u32 b() const { return a() + S::A_BYTES; }
    DEVICE_MEMBER u32 full() const { return base + S::BARRIERS + stage * 16; }
    DEVICE_MEMBER u32 empty() const { return full() + 8; }
    DEVICE_MEMBER void next() {
        stage++;
        if (stage == S::STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

template <class S, class F>
DEVICE void each_tile(const MatmulArgs& args, F f) {
    for (u64 i = block_index(); i < args.tiles; i += block_count()) {
        f(part_of<S::BLOCK_M, S::BLOCK_N>(args, place_of(args, args.first_tile + i)));
    }
}

// Boxes of a stage: along K they are as wide as the swizzle, and as tall as the tile; dense along the other axis, as many
// boxes of 64 by BLOCK_K lie one behind the other.
template <class S, bool OUTER, u32 ROWS>
DEVICE void bring(const TensorMap& map, u32 to, u32 barrier, u32 outer, u32 k, const u32 (&batch)[3]) {
    if constexpr (OUTER) {
#pragma unroll
        for (u32 i = 0; i < ROWS / SPAN; i++) {
            const i32 at[5] = {(i32)(outer + i * SPAN), (i32)k, (i32)batch[2], (i32)batch[1], (i32)batch[0]};
            copy_box(to + i * SPAN * S::BLOCK_K * ELEMENT, map, barrier, at);
        }
    } else {
        const i32 at[5] = {(i32)k, (i32)outer, (i32)batch[2], (i32)batch[1], (i32)batch[0]};
        copy_box(to, map, barrier, at);
    }
}

// Coordinates of an entry in the last three axes of the batch; 0 along those that an operand repeats.
DEVICE void coordinates(u32 (&at)[3], const MatmulArgs& args, u32 entry, u32 spread) {
#pragma unroll
    for (i32 axis = 2; axis >= 0; axis--) {
        at[axis] = spread >> axis & 1 ? entry % args.batch[axis + 1] : 0;
        entry /= args.batch[axis + 1];
    }
}

template <class S>
DEVICE void produce(const MatmulSm90Args& all) {
    const MatmulArgs& args = all.matmul;
    Ring<S> ring;
    each_tile<S>(args, [&](const Part& part) {
        u32 batch_a[3], batch_b[3];
        coordinates(batch_a, args, part.entry, all.spread_a);
        coordinates(batch_b, args, part.entry, all.spread_b);
        for (u32 k = part.k_from; k < part.k_to; k += S::BLOCK_K) {
            // Every consumer warp has left this stage's last tile; a new ring passes.
            wait_barrier(ring.empty(), ring.phase ^ 1);
            arrive_expecting(ring.full(), S::STAGE_BYTES);
            bring<S, S::A_OUTER, S::BLOCK_M>(all.a, ring.a(), ring.full(), part.row, k, batch_a);
            bring<S, S::B_OUTER, S::BLOCK_N>(all.b, ring.b(), ring.full(), part.column, k, batch_b);
            ring.next();
        }
    });
}

template <class S>
struct Consumer {
    static constexpr u32 SUMS = S::BLOCK_N / 2;

    f32 sums[SUMS];
    // Which consumer this warpgroup is, and this thread of it.
    u32 number, thread = thread_index() % WARPGROUP;

    explicit DEVICE_MEMBER Consumer(u32 n) : number(n) {}

    // Descriptors of a step of 16 along k: along K it lies 32 bytes on, else 16 rows of the swizzle.
    template <bool OUTER>
    static DEVICE_MEMBER u64 matrix(u32 tile, u32 first, u32 k) {
        constexpr u32 BLOCK = SPAN * S::BLOCK_K * ELEMENT;
        const u32 at = OUTER ? tile + first / SPAN * BLOCK + k * descriptor::ROW : tile + first * descriptor::ROW + k * ELEMENT;
        return descriptor::of(at, BLOCK);
    }

    DEVICE_MEMBER void multiply(u64 a, u64 b) {
        if constexpr (S::DTYPE == BF16) {
            wgmma_bf16<S::A_OUTER, S::B_OUTER>(sums, a, b);
        } else {
            wgmma_f16<S::A_OUTER, S::B_OUTER>(sums, a, b);
        }
    }

    // Adds the products of the launch's k. A stage is given back one step later, when its products are done.
    DEVICE_MEMBER void run(Ring<S>& ring, const Part& part) {
        u32 last_empty = 0;
        for (u32 k = part.k_from; k < part.k_to; k += S::BLOCK_K) {
            // The bytes of both operands are here.
            wait_barrier(ring.full(), ring.phase);
            wgmma_fence();
#pragma unroll
            for (u32 step = 0; step < S::BLOCK_K; step += K_STEP) {
                const u64 a = matrix<S::A_OUTER>(ring.a(), 64 * number, step), b = matrix<S::B_OUTER>(ring.b(), 0, step);
                multiply(a, b);
            }
            wgmma_commit();
            wgmma_wait<1>();
            release(last_empty);
            last_empty = ring.empty();
            ring.next();
        }
        wgmma_wait<0>();
        release(last_empty);
    }

    // One arrival a warp: what the others of its warpgroup read is done when their own wait is.
    DEVICE_MEMBER void release(u32 empty) {
        if (empty != 0 && thread % 32 == 0) {
            arrive(empty);
        }
    }

    // Where a cut tile's sums lie: the same register of all threads together.
    DEVICE_MEMBER u64 carried(u64 state, u32 sum) const {
        return state + (u64)((sum * S::CONSUMERS + number) * WARPGROUP + thread) * 4;
    }

    // What earlier links summed, or zeros: defined without a branch, which would make wgmma wait for each other.
    DEVICE_MEMBER void load(u64 state, bool is) {
#pragma unroll
        for (u32 i = 0; i < SUMS; i++) {
            sums[i] = load_global_f32_if(is, carried(state, i));
        }
    }

    DEVICE_MEMBER void store(u64 state) const {
#pragma unroll
        for (u32 i = 0; i < SUMS; i++) {
            store_global_f32(carried(state, i), sums[i]);
        }
    }
};

template <class S>
DEVICE void consume(const MatmulSm90Args& all, u32 number) {
    const MatmulArgs& args = all.matmul;
    const output::Output<S::BLOCK_N> out(shared_base() + S::RING_BYTES + number * output::BYTES, number);
    Ring<S> ring;
    each_tile<S>(args, [&](const Part& part) {
        Consumer<S> consumer(number);
        consumer.load(args.state, args.k_from > 0);
        consumer.run(ring, part);
        if (args.k_to < args.k) {
            return consumer.store(args.state);
        }
        const u32 row = part.row + 64 * number;
        if (all.stores_boxes) {
            output::Corner corner{row, part.column, {}};
            coordinates(corner.batch, args, part.entry, 7);
            out.store(consumer.sums, all.out, args, corner);
        } else {
            out.finish(consumer.sums, Epilogue(args, part.entry), args, part, row);
        }
    });
    out.wait();
}

template <class S>
DEVICE void run(const MatmulSm90Args& args) {
    const u32 warpgroup = first_lane(thread_index() / WARPGROUP);
    if (thread_index() == 0) {
        Ring<S> ring;
        for (u32 i = 0; i < S::STAGES; i++, ring.next()) {
            init_barrier(ring.full(), 1);
            init_barrier(ring.empty(), S::CONSUMERS * WARPGROUP / 32);
        }
        fence_barriers();
    }
    // The barriers are there.
    sync_block();
    if (warpgroup == 0) {
        give_registers<S::PRODUCER_REGISTERS>();
        if (first_lane(thread_index() / 32) == 0 && elected()) {
            produce<S>(args);
        }
    } else {
        take_registers<S::CONSUMER_REGISTERS>();
        consume<S>(args, warpgroup - 1);
    }
}

}  // namespace matmul_sm90
