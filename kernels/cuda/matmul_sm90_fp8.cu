// Products of 8-bit floats on Hopper: one thread brings tiles by the copy engine into a ring, one or two warpgroups multiply
// them by wgmma, tile after tile of what the launch was given. Both operands are dense along K: wgmma of 8 bits knows no
// other layout. `kernels/src/matmul_sm90_fp8.rs` lists the rows and when they may run.
//
// Order of each output: chunks of 128 along k from left to right. A chunk is one wgmma after the other, 32 at a time, from
// zero; its sum is multiplied by the scales of its row and column (first with each other) and added in f32, rounded once.
#pragma once

#include "cuda/tile/descriptor.h"
#include "cuda/tile/output.h"
#include "cuda/tile/ring.h"
#include "cuda/tile/scaled.h"
#include "cuda/tile/warpgroups.h"

// The launch, and the maps of its operands.
struct MatmulSm90Fp8Args {
    TensorMap a, b;
    // Of the output, where the copy engine takes it: then it is dense and of 16 bits, no scale covers all of k, and the
    // epilogue has alpha alone.
    TensorMap out;
    MatmulScaledArgs scaled;
    // Bit i: operand's axis i of the batch is not broadcast. Maps have the batch's last three axes; that of a side
    // whose matrices indices name has those as the last, and no bits.
    u32 spread_a, spread_b;
    // Whether the engine takes the output.
    u32 stores_boxes;
    u32 padding;
};

static_assert(sizeof(MatmulSm90Fp8Args) == 1216, "as in kernels/src/matmul_sm90_fp8.rs");

namespace matmul_sm90_fp8 {

constexpr u32 K_STEP = 32;

// WAVES times 64 rows are a warpgroup's. Blocks of a cluster have N columns each, side by side, and share the rows of A.
// BY_COLUMNS: each column of B has scales along k of its own.
template <u32 CONSUMERS_, u32 WAVES_, u32 N, u32 STAGES_, u32 CLUSTER_, u32 A_, u32 B_, bool BY_COLUMNS_>
struct Shape {
    static constexpr u32 CONSUMERS = CONSUMERS_, WAVES = WAVES_, CLUSTER = CLUSTER_;
    static constexpr u32 BLOCK_M = 64 * WAVES * CONSUMERS, BLOCK_N = N, STAGES = STAGES_;
    static constexpr u32 A = A_, B = B_;
    static constexpr bool BY_COLUMNS = BY_COLUMNS_;
    using Warpgroups = ::Warpgroups<CONSUMERS, 24, 240>;
    static constexpr u32 THREADS = Warpgroups::THREADS;
    static constexpr u32 A_BYTES = BLOCK_M * CHUNK_K, B_BYTES = BLOCK_N * CHUNK_K;
    static constexpr u32 STAGE_BYTES = A_BYTES + B_BYTES, RING_BYTES = STAGES * STAGE_BYTES;
    // Sums of a warp on their way to the epilogue, eight rows at a time: of f32, and eight more, so that four of them meet
    // no bank twice. Or boxes of a warpgroup's.
    static constexpr u32 SUM_ROW = (BLOCK_N + 8) * 4, SUM_BYTES = 8 * SUM_ROW, STAGED = WARPGROUP / 32 * SUM_BYTES;
    static_assert(STAGED >= BLOCK_N / output::BOX * output::BOX_BYTES && BLOCK_N <= 2 * output::BOX, "boxes fit");
    static_assert(STAGED % 1024 == 0, "the swizzle of boxes repeats every 1024 bytes");
    static constexpr u32 BARRIERS = RING_BYTES + CONSUMERS * STAGED;
    static constexpr u32 SHARED_BYTES = BARRIERS + 2 * STAGES * 8;
    static_assert(SHARED_BYTES <= SHARED_MOST, "shared memory of a block");
    static_assert(SCALE_COLUMNS % BLOCK_N == 0, "one scale of 128 columns covers a tile");
    static_assert(CHUNK_K == descriptor::ROW, "a chunk is a row of the swizzle");
    // Rows after which the swizzle repeats.
    static constexpr u32 SPAN = descriptor::EIGHT_ROWS / descriptor::ROW;
    using Stages = Ring<STAGES, STAGE_BYTES, BARRIERS, 0, CLUSTER>;
};

// Blocks of a cluster are given the same tiles, and take their columns in turn. Of groups along K the end is none of a box's:
// they are not multiplied here.
template <class S, class F>
DEVICE void each_tile(const MatmulArgs& args, F f) {
    const u32 rank = S::Stages::rank();
    for (u64 i = block_index() / S::CLUSTER; i < args.tiles; i += block_count() / S::CLUSTER) {
        Part part = part_of<S::BLOCK_M, S::CLUSTER * S::BLOCK_N>(args, place_of(args, args.first_tile + i));
        part.column += rank * S::BLOCK_N;
        f(part);
    }
}

template <class S>
DEVICE void produce(const MatmulSm90Fp8Args& all) {
    const MatmulArgs& args = all.scaled.matmul;
    typename S::Stages ring;
    each_tile<S>(args, [&](const Part& part) {
        u32 batch_a[3], batch_b[3];
        coordinates(batch_a, args, part.entry, all.spread_a, part.a);
        coordinates(batch_b, args, part.entry, all.spread_b, part.b);
        for (u32 k = part.k_from; k < part.k_to; k += CHUNK_K) {
            // Every consumer warp has left this stage's last tile; a new ring passes.
            wait_barrier(ring.empty(), ring.phase ^ 1);
            arrive_expecting(ring.full(), S::STAGE_BYTES);
            bring_side<S, false, S::BLOCK_M, true>(all.a, ring.at(), ring.full(), part.row, k, batch_a);
            bring_side<S, false, S::BLOCK_N, false>(all.b, ring.at() + S::A_BYTES, ring.full(), part.column, k, batch_b);
            ring.next();
        }
    });
    ring.end();
}

template <class S>
struct Consumer {
    static constexpr u32 SUMS = S::BLOCK_N / 2;

    const MatmulArgs& args;
    const MatmulScaling& scaling;
    const Part& tile;
    // Which consumer this warpgroup is, and this thread of it.
    u32 number, thread = thread_index() % WARPGROUP;
    f32 sums[S::WAVES][SUMS];
    // Of the chunk that is multiplied.
    f32 part[SUMS] = {};

    DEVICE_MEMBER Consumer(const MatmulScaledArgs& all, const Part& of, u32 n)
        : args(all.matmul), scaling(all.scaling), tile(of), number(n) {}

    // The first row of a wave, and of its rows those of this thread's sum i.
    DEVICE_MEMBER u32 first_row(u32 wave) const { return tile.row + (number * S::WAVES + wave) * 64; }
    DEVICE_MEMBER u32 row(u32 wave, u32 i) const { return first_row(wave) + fragment::wgmma_row(thread, i); }
    DEVICE_MEMBER u32 column(u32 i) const { return tile.column + fragment::wgmma_column(thread, i); }

    template <bool ADDS>
    DEVICE_MEMBER void multiply(u64 a, u64 b) {
        if constexpr (S::A == F8E4M3 && S::B == F8E4M3) {
            wgmma_e4m3_e4m3<ADDS>(part, a, b);
        } else if constexpr (S::A == F8E4M3) {
            wgmma_e4m3_e5m2<ADDS>(part, a, b);
        } else if constexpr (S::B == F8E4M3) {
            wgmma_e5m2_e4m3<ADDS>(part, a, b);
        } else {
            wgmma_e5m2_e5m2<ADDS>(part, a, b);
        }
    }

    // Starts the products of a wave's chunk, whose tiles lie at `a` and `b`: a step along k lies as many bytes on.
    DEVICE_MEMBER void start(u32 a, u32 b) {
        wgmma_fence();
        multiply<false>(descriptor::of(a, 0), descriptor::of(b, 0));
#pragma unroll
        for (u32 step = K_STEP; step < CHUNK_K; step += K_STEP) {
            multiply<true>(descriptor::of(a + step, 0), descriptor::of(b + step, 0));
        }
        wgmma_commit();
    }

    // Adds a wave's chunk, scaled. A thread's sums lie in two rows.
    DEVICE_MEMBER void promote(u32 wave, const f32 (&factors)[2], const SideScales& of_b, u32 chunk) {
#pragma unroll
        for (u32 i = 0; i < SUMS; i++) {
            f32 factor = factors[i / 2 % 2];
            if constexpr (S::BY_COLUMNS) {
                factor *= of_b.of_chunk(column(i), args.n, chunk);
            }
            sums[wave][i] = fma(part[i], factor, sums[wave][i]);
        }
    }

    // Adds the products of the launch's k. A stage is given back as soon as its last products are done.
    DEVICE_MEMBER void run(typename S::Stages& ring) {
        const SideScales of_a(scaling.a, args.batch, tile.entry), of_b(scaling.b, args.batch, tile.entry);
        const u32 end = first_lane(tile.k_to);
#pragma unroll 1
        for (u32 k = first_lane(tile.k_from); k < end; k += CHUNK_K) {
            const u32 chunk = k / CHUNK_K;
            // The bytes of both operands are here.
            wait_barrier(ring.full(), ring.phase);
#pragma unroll
            for (u32 wave = 0; wave < S::WAVES; wave++) {
                start(ring.at() + (number * S::WAVES + wave) * 64 * CHUNK_K, ring.at() + S::A_BYTES);
                // While they run: a tile's columns share what B has.
                const f32 shared = S::BY_COLUMNS ? 1.0f : of_b.of_chunk(tile.column, args.n, chunk);
                const f32 factors[2] = {of_a.of_chunk(row(wave, 0), tile.owned, chunk) * shared,
                                        of_a.of_chunk(row(wave, 2), tile.owned, chunk) * shared};
                wgmma_wait<0>();
                ring.release(ring.empty(), wave == S::WAVES - 1);
                promote(wave, factors, of_b, chunk);
            }
            ring.next();
        }
    }

    // Where a cut tile's sums lie: the same register of all threads together.
    DEVICE_MEMBER u64 carried(u32 i) const {
        const u32 place = ((S::Stages::rank() * S::WAVES * SUMS + i) * S::CONSUMERS + number) * WARPGROUP + thread;
        return args.state + (u64)place * 4;
    }

    // What earlier links summed, or zeros.
    DEVICE_MEMBER void load() {
#pragma unroll
        for (u32 i = 0; i < S::WAVES * SUMS; i++) {
            sums[i / SUMS][i % SUMS] = load_global_f32_if(args.k_from > 0, carried(i));
        }
    }

    DEVICE_MEMBER void store() const {
#pragma unroll
        for (u32 i = 0; i < S::WAVES * SUMS; i++) {
            store_global_f32(carried(i), sums[i / SUMS][i % SUMS]);
        }
    }

    // Where the warpgroup's sums are staged.
    DEVICE_MEMBER u32 staged() const { return shared_base() + S::RING_BYTES + number * S::STAGED; }

    DEVICE_MEMBER void store_boxes(const TensorMap& map) const {
        const output::Output<S::BLOCK_N, false> out(staged(), number);
#pragma unroll
        for (u32 wave = 0; wave < S::WAVES; wave++) {
            output::Corner corner{first_row(wave), tile.column, {}};
            coordinates(corner.batch, args, tile.entry, 7);
            out.store(sums[wave], map, args, corner);
        }
    }

    // A warp's eight rows of a wave's upper or lower half to shared memory.
    template <u32 LOT>
    DEVICE_MEMBER void stage(u32 to) const {
#pragma unroll
        for (u32 i = 2 * (LOT % 2); i < SUMS; i += 4) {
            const u32 r = fragment::wgmma_row(thread % 32, 0), c = fragment::wgmma_column(thread, i);
            store_shared(to + r * S::SUM_ROW + c * 4, sums[LOT / 2][i], sums[LOT / 2][i + 1]);
        }
    }

    // A warp's rows of a wave lie in two lots of eight. The loop is one, so that there is one copy of the epilogue.
    DEVICE_MEMBER void finish() const {
        const ScaledEpilogue epilogue(args, scaling, tile.entry);
        const u32 warp = thread / 32, staged = this->staged() + warp * S::SUM_BYTES;
#pragma unroll 1
        for (u32 lot = 0; lot < 2 * S::WAVES; lot++) {
            // The warp has read the lot before.
            sync_warp();
            switch (lot) {
            case 0: stage<0>(staged); break;
            case 1: stage<1>(staged); break;
            case 2: stage<2 % (2 * S::WAVES)>(staged); break;
            default: stage<3 % (2 * S::WAVES)>(staged);
            }
            // All of the lot is there.
            sync_warp();
            const u32 row = first_row(lot / 2) + 16 * warp + 8 * (lot % 2);
            epilogue.write<8, S::BLOCK_N, 32>(tile, staged, S::SUM_ROW, thread % 32, row, tile.column);
        }
    }
};

template <class S>
DEVICE void consume(const MatmulSm90Fp8Args& all, u32 number) {
    const MatmulArgs& args = all.scaled.matmul;
    typename S::Stages ring;
    each_tile<S>(args, [&](const Part& tile) {
        Consumer<S> consumer(all.scaled, tile, number);
        consumer.load();
        consumer.run(ring);
        if (args.k_to < args.k) {
            consumer.store();
        } else if (all.stores_boxes) {
            consumer.store_boxes(all.out);
        } else {
            consumer.finish();
        }
    });
    output::wait();
}

template <class S>
DEVICE void run(const MatmulSm90Fp8Args& args) {
    if (thread_index() == 0) {
        S::Stages::init(S::CONSUMERS * WARPGROUP / 32);
    }
    S::Stages::meet();
    S::Warpgroups::run([&] { produce<S>(args); }, [&](u32 number) { consume<S>(args, number); });
}

}  // namespace matmul_sm90_fp8
