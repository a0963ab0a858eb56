// Products on Hopper: one warpgroup's thread brings tiles by the copy engine into a ring, two others multiply them by wgmma
// and end them, tile after tile of what the launch was given. For f16 and bf16, each operand dense along K or along its
// other axis. `kernels/src/matmul_sm90.rs` lists the rows and when they may run.
//
// Order of each output: one wgmma after the other along k, 16 at a time, in f32. All forms have it. Where a launch splits K,
// that is the order inside a split, and `matmul_merge.cu` adds the splits' sums.
#pragma once

#include "cuda/tile/output.h"
#include "cuda/tile/ring.h"
#include "cuda/tile/tail.h"
#include "cuda/tile/warpgroups.h"

// The launch, and the maps of its operands.
struct MatmulSm90Args {
    TensorMap a, b;
    // Of the output, where the copy engine takes it: then it is dense and of 16 bits, and the epilogue has alpha alone.
    TensorMap out;
    MatmulArgs matmul;
    // Bit i: operand's axis i of the batch is not broadcast. Maps have the batch's last three axes; that of a side
    // whose matrices indices name has those as the last, and no bits.
    u32 spread_a, spread_b;
    // Whether the engine takes the output.
    u32 stores_boxes;
    // Splits of K, and elements of k in each but the last, or 0: then a launch covers `k_from` to `k_to`. The sums of a split
    // go to the launch's state: by tiles, the splits of a tile one after the other, rows of the left side.
    u32 splits, split_k;
    u32 padding;
};

static_assert(sizeof(MatmulSm90Args) == 1024, "as in kernels/src/matmul_sm90.rs");

namespace matmul_sm90 {

constexpr u32 ELEMENT = 2;  // Bytes.
constexpr u32 K_STEP = 16;

// How the consumers share the work.
enum class Form {
    // Both multiply the rows of one tile.
    Cooperative,
    // Each has tiles of its own, and ends one while the other multiplies.
    PingPong,
    // As the first, B's columns on wgmma's rows and A's few rows on its columns.
    Swapped,
};

// wgmma's left side has LEFT rows of a block's tile, its right side RIGHT columns, which the blocks of a cluster share.
template <Form FORM_, u32 LEFT_, u32 RIGHT_, u32 STAGES_, u32 CLUSTER_, bool A_OUTER, bool B_OUTER, u32 DTYPE_>
struct Shape {
    static constexpr Form FORM = FORM_;
    static constexpr bool SWAPPED = FORM == Form::Swapped, PING_PONG = FORM == Form::PingPong;
    // Whether tiles may be of groups: in the forms where nobody runs ahead of a peer whose tile has no products.
    static constexpr bool TAKES_GROUPS = FORM == Form::Cooperative && CLUSTER_ == 1;
    static constexpr u32 LEFT = LEFT_, RIGHT = RIGHT_, STAGES = STAGES_, CLUSTER = CLUSTER_, DTYPE = DTYPE_;
    static constexpr bool LEFT_OUTER = SWAPPED ? B_OUTER : A_OUTER, RIGHT_OUTER = SWAPPED ? A_OUTER : B_OUTER;
    static constexpr u32 SPAN = descriptor::ROW / ELEMENT, BLOCK_K = SPAN;
    static constexpr u32 CONSUMERS = 2;
    using Warpgroups = ::Warpgroups<CONSUMERS, 40, 232>;
    static constexpr u32 THREADS = Warpgroups::THREADS;
    // Blocks of 64 rows that a consumer multiplies.
    static constexpr u32 BLOCKS = LEFT / 64 / (PING_PONG ? 1 : CONSUMERS), SUMS = RIGHT / 2;
    static_assert(BLOCKS * SUMS <= 128, "sums of a thread");
    static constexpr u32 LEFT_BYTES = LEFT * BLOCK_K * ELEMENT, RIGHT_BYTES = RIGHT * BLOCK_K * ELEMENT;
    static constexpr u32 STAGE_BYTES = LEFT_BYTES + RIGHT_BYTES, RING_BYTES = STAGES * STAGE_BYTES;
    static constexpr u32 BARRIERS = RING_BYTES + CONSUMERS * output::BYTES, TURNS = BARRIERS + 2 * STAGES * 8;
    static constexpr u32 SHARED_BYTES = TURNS + (PING_PONG ? CONSUMERS * 8 : 0);
    // The tile of the output that a cluster computes.
    static constexpr u32 BLOCK_M = SWAPPED ? RIGHT : CLUSTER * LEFT, BLOCK_N = SWAPPED ? CLUSTER * LEFT : RIGHT;
    using Stages = Ring<STAGES, STAGE_BYTES, BARRIERS, 0, CLUSTER>;
    static_assert(SHARED_BYTES <= SHARED_MOST, "shared memory of a block");
    static_assert(LEFT_BYTES % 1024 == 0 && RIGHT_BYTES % 1024 == 0, "the swizzle repeats every 1024 bytes");
    static_assert(!SWAPPED || !RIGHT_OUTER, "rows of A are dense along K where they are few");
};

// A tile as a block sees it: its part of the output and of k, its first row of either side, and which of the launch's splits
// it is.
struct Tile {
    Part part;
    u32 left, right;
    u64 split;
};

// The block's tiles. Blocks of a cluster are given the same, and take the rows of the left side in turn. Splits are walked one
// after the other, each over all tiles: what runs at one time shares rows and columns, not sums.
template <class S, class F>
DEVICE void each_tile(const MatmulSm90Args& all, F f) {
    const MatmulArgs& args = all.matmul;
    const u32 rank = S::Stages::rank();
    const u64 count = args.tiles * (all.splits > 0 ? all.splits : 1);
    for (u64 i = block_index() / S::CLUSTER; i < count; i += block_count() / S::CLUSTER) {
        const u32 split = all.splits > 0 ? (u32)(i / args.tiles) : 0;
        const u64 nth = i - split * args.tiles;
        const Part part = part_of<S::BLOCK_M, S::BLOCK_N>(args, place_of(args, args.first_tile + nth));
        const u32 left = S::SWAPPED ? part.column : part.row, right = S::SWAPPED ? part.row : part.column;
        Tile tile{part, left + rank * S::LEFT, right, 0};
        if (all.splits > 0) {
            // Groups are never split, nor is what indices name.
            tile.part.k_from = split * all.split_k;
            tile.part.k_to = split + 1 < all.splits ? tile.part.k_from + all.split_k : args.k;
            tile.split = nth * all.splits + split;
        }
        f(tile);
    }
}

template <class S>
DEVICE void produce(const MatmulSm90Args& all) {
    const MatmulArgs& args = all.matmul;
    const TensorMap &left = S::SWAPPED ? all.b : all.a, &right = S::SWAPPED ? all.a : all.b;
    typename S::Stages ring;
    each_tile<S>(all, [&](const Tile& tile) {
        u32 batch_left[3], batch_right[3];
        const Part& part = tile.part;
        coordinates(batch_left, args, part.entry, S::SWAPPED ? all.spread_b : all.spread_a, S::SWAPPED ? part.b : part.a);
        coordinates(batch_right, args, part.entry, S::SWAPPED ? all.spread_a : all.spread_b, S::SWAPPED ? part.a : part.b);
        for (u32 k = part.k_from; k < part.k_to; k += S::BLOCK_K) {
            // Every consumer warp, of all blocks that share, has left this stage's last tile; a new ring passes.
            wait_barrier(ring.empty(), ring.phase ^ 1);
            arrive_expecting(ring.full(), S::STAGE_BYTES);
            const u32 to_left = ring.at(), to_right = to_left + S::LEFT_BYTES;
            bring_side<S, S::LEFT_OUTER, S::LEFT, false>(left, to_left, ring.full(), tile.left, k, batch_left);
            bring_side<S, S::RIGHT_OUTER, S::RIGHT, true>(right, to_right, ring.full(), tile.right, k, batch_right);
            ring.next();
        }
    });
    ring.end();
}

template <class S>
struct Consumer {
    f32 sums[S::BLOCKS][S::SUMS];
    // Which consumer this warpgroup is, and this thread of it.
    u32 number, thread = thread_index() % WARPGROUP;

    explicit DEVICE_MEMBER Consumer(u32 n) : number(n) {}

    // The tile's blocks of 64 rows: its own are some of them.
    DEVICE_MEMBER u32 first_block() const { return S::PING_PONG ? 0 : number * S::BLOCKS; }

    // Descriptors of a step of 16 along k: along K it lies 32 bytes on, else 16 rows of the swizzle.
    template <bool OUTER>
    static DEVICE_MEMBER u64 matrix(u32 tile, u32 first, u32 k) {
        constexpr u32 BLOCK = S::SPAN * S::BLOCK_K * ELEMENT;
        const u32 at = OUTER ? first / S::SPAN * BLOCK + k * descriptor::ROW : first * descriptor::ROW + k * ELEMENT;
        return descriptor::of(tile + at, BLOCK);
    }

    DEVICE_MEMBER void multiply(u32 block, u64 left, u64 right) {
        if constexpr (S::DTYPE == BF16) {
            wgmma_bf16<S::LEFT_OUTER, S::RIGHT_OUTER>(sums[block], left, right);
        } else {
            wgmma_f16<S::LEFT_OUTER, S::RIGHT_OUTER>(sums[block], left, right);
        }
    }

    // Zeros over the k of a stage that are of the next group. Both consumers together.
    DEVICE_MEMBER void clear(u32 stage, u32 k) const {
        constexpr u32 THREADS = S::CONSUMERS * WARPGROUP;
        const u32 of_both = number * WARPGROUP + thread;
        tail::clear<S::LEFT, THREADS, S::LEFT_OUTER>(stage, k, of_both);
        tail::clear<S::RIGHT, THREADS, S::RIGHT_OUTER>(stage + S::LEFT_BYTES, k, of_both);
        // The zeros of both are there.
        sync_threads<3, THREADS>();
    }

    // Adds the products of the tile's k; a last stage that `is_shared` has k of the next group too. A stage is given back one
    // step later, when its products are done.
    template <class F>
    DEVICE_MEMBER void run(typename S::Stages& ring, const Tile& tile, bool is_shared, F all_started) {
        u32 last_empty = 0;
        for (u32 k = tile.part.k_from; k < tile.part.k_to; k += S::BLOCK_K) {
            // The bytes of both operands are here.
            wait_barrier(ring.full(), ring.phase);
            if constexpr (S::TAKES_GROUPS) {
                if (is_shared && tile.part.k_to - k < S::BLOCK_K) {
                    clear(ring.at(), tile.part.k_to - k);
                }
            }
            wgmma_fence();
#pragma unroll
            for (u32 step = 0; step < S::BLOCK_K; step += K_STEP) {
                const u64 right = matrix<S::RIGHT_OUTER>(ring.at() + S::LEFT_BYTES, 0, step);
#pragma unroll
                for (u32 block = 0; block < S::BLOCKS; block++) {
                    multiply(block, matrix<S::LEFT_OUTER>(ring.at(), 64 * (first_block() + block), step), right);
                }
            }
            wgmma_commit();
            wgmma_wait<1>();
            ring.release(last_empty, last_empty != 0);
            last_empty = ring.empty();
            ring.next();
        }
        all_started();
        wgmma_wait<0>();
        ring.release(last_empty, last_empty != 0);
    }

    // Which of the blocks of 64 rows of a tile, of all blocks that compute it.
    DEVICE_MEMBER u32 of_tile(u32 block) const { return S::Stages::rank() * (S::LEFT / 64) + first_block() + block; }

    // Where a cut tile's sums lie: the same register of all threads together.
    DEVICE_MEMBER u64 carried(u64 state, u32 i) const {
        // One base and constant distances, which the loads hold.
        return state + (u64)(of_tile(0) * S::SUMS * WARPGROUP + thread) * 4 + (u64)(i * WARPGROUP * 4);
    }

    // What earlier links summed, or zeros: defined without a branch, which would make wgmma wait for each other.
    DEVICE_MEMBER void load(u64 state, bool is) {
#pragma unroll
        for (u32 i = 0; i < S::BLOCKS * S::SUMS; i++) {
            sums[i / S::SUMS][i % S::SUMS] = load_global_f32_if(is, carried(state, i));
        }
    }

    DEVICE_MEMBER void store(u64 state) const {
#pragma unroll
        for (u32 i = 0; i < S::BLOCKS * S::SUMS; i++) {
            store_global_f32(carried(state, i), sums[i / S::SUMS][i % S::SUMS]);
        }
    }

    // The sums of a split, for `matmul_merge.cu`: row by row.
    DEVICE_MEMBER void store_part(u64 state, u64 split) const {
        const u64 at = state + split * (S::CLUSTER * S::LEFT * S::RIGHT * 4);
#pragma unroll
        for (u32 block = 0; block < S::BLOCKS; block++) {
#pragma unroll
            for (u32 i = 0; i < S::SUMS; i += 2) {
                const u32 r = of_tile(block) * 64 + fragment::wgmma_row(thread, i), c = fragment::wgmma_column(thread, i);
                const f32 x = sums[block][i], y = sums[block][i + 1];
                store_global_u32x2(at + (u64)(r * S::RIGHT + c) * 4, {bits_of(x), bits_of(y)});
            }
        }
    }

    DEVICE_MEMBER void finish(const MatmulSm90Args& all, const Tile& tile) {
        const MatmulArgs& args = all.matmul;
        const output::Output<S::RIGHT, S::SWAPPED> out(shared_base() + S::RING_BYTES + number * output::BYTES, number);
#pragma unroll
        for (u32 block = 0; block < S::BLOCKS; block++) {
            const u32 left = tile.left + 64 * (first_block() + block);
            const u32 row = S::SWAPPED ? tile.right : left, column = S::SWAPPED ? left : tile.right;
            if (all.stores_boxes) {
                output::Corner corner{row, column, {}};
                coordinates(corner.batch, args, tile.part.entry, 7);
                out.store(sums[block], all.out, args, corner);
            } else {
                out.finish(sums[block], Epilogue(args, tile.part.entry), args, tile.part, row, column);
            }
        }
    }
};

// Whose turn it is to multiply, where the consumers have tiles of their own: a barrier of each, at which the other's warps
// arrive. The first consumer begins. Turns keep more than the tensor cores busy: a consumer skips the other's stages, and only
// behind them a parity tells the phase that it waits for from the one before.
template <class S>
struct Turns {
    u32 number, turn = 0;

    DEVICE_MEMBER u32 barrier(u32 of) const { return shared_base() + S::TURNS + of * 8; }
    // The other has started all products of the tile before: it has seen every stage of it filled.
    DEVICE_MEMBER void wait() {
        wait_barrier(barrier(number), (turn + number + 1) % 2);
        turn++;
    }
    DEVICE_MEMBER void pass() const {
        if (thread_index() % 32 == 0) {
            arrive(barrier(1 - number));
        }
    }
};

template <class S>
DEVICE void consume(const MatmulSm90Args& all, u32 number) {
    const MatmulArgs& args = all.matmul;
    typename S::Stages ring;
    Turns<S> turns{number};
    u32 others = number;
    each_tile<S>(all, [&](const Tile& tile) {
        if (S::PING_PONG && others > 0) {
            // The other consumer's.
            others--;
            return ring.skip((tile.part.k_to - tile.part.k_from + S::BLOCK_K - 1) / S::BLOCK_K);
        }
        others = 1;
        Consumer<S> consumer(number);
        consumer.load(args.state, all.splits == 0 && args.k_from > 0);
        if constexpr (S::PING_PONG) {
            turns.wait();
        }
        consumer.run(ring, tile, args.group == ALONG_K, [&] {
            if constexpr (S::PING_PONG) {
                turns.pass();
            }
        });
        if (all.splits > 0) {
            consumer.store_part(args.state, tile.split);
        } else if (args.k_to < args.k) {
            consumer.store(args.state);
        } else {
            consumer.finish(all, tile);
        }
    });
    output::wait();
}

template <class S>
DEVICE void make_barriers() {
    if constexpr (S::PING_PONG) {
        for (u32 i = 0; i < S::CONSUMERS; i++) {
            init_barrier(shared_base() + S::TURNS + i * 8, WARPGROUP / 32);
        }
    }
    // Of a cooperative tile both consumers' warps leave a stage, of one of its own a consumer's alone.
    S::Stages::init((S::PING_PONG ? 1 : S::CONSUMERS) * WARPGROUP / 32);
}

template <class S>
DEVICE void run(const MatmulSm90Args& args) {
    if (thread_index() == 0) {
        make_barriers<S>();
    }
    S::Stages::meet();
    S::Warpgroups::run([&] { produce<S>(args); }, [&](u32 number) { consume<S>(args, number); });
}

}  // namespace matmul_sm90
