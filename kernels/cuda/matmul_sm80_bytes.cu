// Products of 8-bit values on every NVIDIA GPU from compute capability 8.0: a ring of cp.async copies, ldmatrix, and
// mma.sync. i8 by i8 is summed in i32; floats of 8 bits in f32, as they are where the architecture multiplies them, else as
// f16, which holds all of them. A block computes one tile of the output; operands lie dense along K, or anyhow, as no
// instruction transposes bytes.
// `kernels/src/matmul_sm80_bytes.rs` lists the rows; layouts that wgmma does not take come here on Hopper, too.
//
// Order of each output: of i8 whole numbers, in any order. Else, and of i8 where scales cover 128 of k, chunks of 128 along
// k from left to right: one mma after the other from zero, floats 16 (as f16) or 32 at a time in f32, then as in
// `matmul_sm90_fp8.cu`.
#pragma once

#include "cuda/tile/copies.h"
#include "cuda/tile/scaled.h"
#include "cuda/tile/swizzle.h"

namespace matmul_sm80_bytes {

constexpr u32 PIECE = 16;  // Elements, and bytes, of a copy.
constexpr u32 LANES = 32;
constexpr u32 K_STEP = 32;

// What operands are: whole numbers; floats that become f16; floats that the instruction takes.
enum class Values { I8, AsF16, Fp8 };

template <u32 TILE_, u32 STAGES_, u32 WARPS_M_, u32 WARPS_N_, bool GATHERED_, Values VALUES_>
struct Shape {
    static constexpr u32 TILE = TILE_, BLOCK_K = 64, STAGES = STAGES_;
    static constexpr u32 WARPS_M = WARPS_M_, WARPS_N = WARPS_N_;
    static constexpr u32 THREADS = WARPS_M * WARPS_N * LANES;
    static constexpr Values VALUES = VALUES_;
    // Whether elements lie anyhow; whether they are i8.
    static constexpr bool GATHERED = GATHERED_, WHOLE = VALUES == Values::I8;
    static constexpr u32 SIDE_BYTES = TILE * BLOCK_K, RING_BYTES = STAGES * 2 * SIDE_BYTES;
    // Sums on their way to the epilogue: rows of f32, and eight more, so that four of them meet no bank twice.
    static constexpr u32 SUM_ROW = (TILE + 8) * 4, SUM_BYTES = TILE * SUM_ROW;
    static constexpr u32 SHARED_BYTES = RING_BYTES > SUM_BYTES ? RING_BYTES : SUM_BYTES;
    // Of a warp: rows and columns, and blocks of 16 by 8 in them.
    static constexpr u32 WARP_M = TILE / WARPS_M, WARP_N = TILE / WARPS_N;
    static constexpr u32 BLOCKS_M = WARP_M / 16, BLOCKS_N = WARP_N / 8;
    static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "a warp loads B by pairs of blocks");
    static_assert(CHUNK_K % BLOCK_K == 0 && BLOCK_K % K_STEP == 0, "a chunk is whole stages");
};

// One side of the product: rows of A or columns of B of a tile, along k.
template <class S>
struct Side {
    static constexpr u32 PIECES = S::TILE * S::BLOCK_K / PIECE, PER_ROW = S::BLOCK_K / PIECE;
    static_assert(PIECES % S::THREADS == 0, "every thread starts as many copies");

    u64 at;
    // From one outer index, and from one k, to the next.
    i64 outer_step, k_step;
    // Outer indices from the tile's first on, and the end of k.
    u32 outer, k_end;

    static DEVICE_MEMBER u32 offset(u32 outer, u32 k) { return swizzled<PER_ROW>(outer, k / PIECE); }

    DEVICE_MEMBER u64 address(u32 outer_index, u32 k) const {
        return at + (u64)((i64)outer_index * outer_step + (i64)k * k_step);
    }

    // Starts to bring the tile of k into a stage; past the ends come zeros. Where K is not dense neighbours along the other
    // axis are neighbours.
    DEVICE_MEMBER void copy(u32 stage, u32 k) const {
#pragma unroll
        for (u32 i = 0; i < PIECES / S::THREADS; i++) {
            const u32 piece = thread_index() + i * S::THREADS;
            const u32 o = S::GATHERED ? piece % S::TILE : piece / PER_ROW;
            const u32 p = (S::GATHERED ? piece / S::TILE : piece % PER_ROW) * PIECE;
            const u32 left = o < outer && k + p < k_end ? k_end - k - p : 0, n = left < PIECE ? left : PIECE;
            const u32 to = stage + offset(o, p);
            if constexpr (S::GATHERED) {
                gather(to, o, k + p, n);
            } else {
                // Where nothing is read, the address is still a valid one.
                copy_async16(to, n > 0 ? address(o, k + p) : at, n);
            }
        }
    }

    DEVICE_MEMBER void gather(u32 to, u32 outer_index, u32 k, u32 n) const {
        u32 words[PIECE / 4] = {};
#pragma unroll
        for (u32 i = 0; i < PIECE; i++) {
            const u32 v = i < n ? load_global_u8(address(outer_index, k + i)) : 0;
            words[i / 4] |= v << i % 4 * 8;
        }
        store_shared(to, u32x4{words[0], words[1], words[2], words[3]});
    }
};

// Two floats of 8 bits, the first two of a word or the last, as f16: exactly, and what is no number stays none.
DEVICE u32 halves_of(u32 dtype, u32 word, bool last) {
    const u32 spread = last ? (word >> 8 & 0xff00) | (word & 0xff000000) : (word << 8 & 0xff00) | (word << 16 & 0xff000000);
    if (dtype == F8E5M2) {
        return spread;
    }
    // The exponent's bias differs by 8, and all ones are no number.
    const u32 size = (spread & 0x7f007f00) >> 1, none = (size + 0x00800080) & 0x40004000;
    constexpr u32 BY_256 = 0x5c005c00;
    return product_of_f16_pairs(size | (spread & 0x80008000), BY_256) | none >> 1;
}

template <class S>
struct Block {
    // Of the chunk that is multiplied: whole numbers, or floats.
    i32 counts[S::BLOCKS_M][S::BLOCKS_N][4] = {};
    f32 part[S::BLOCKS_M][S::BLOCKS_N][4] = {};
    // Of the chunks before.
    f32 sums[S::BLOCKS_M][S::BLOCKS_N][4] = {};
    const MatmulArgs& args;
    const MatmulScaling& scaling;
    const Part& tile;
    // This warp's rows and columns of a tile.
    u32 row, column, lane;

    DEVICE_MEMBER Block(const MatmulScaledArgs& all, const Part& of) : args(all.matmul), scaling(all.scaling), tile(of) {
        const u32 warp = thread_index() / LANES;
        row = warp / S::WARPS_N * S::WARP_M;
        column = warp % S::WARPS_N * S::WARP_N;
        lane = thread_index() % LANES;
    }

    // Calls f(i, j, e) for every sum.
    template <class F>
    static DEVICE_MEMBER void each(F f) {
#pragma unroll
        for (u32 i = 0; i < S::BLOCKS_M; i++) {
#pragma unroll
            for (u32 j = 0; j < S::BLOCKS_N; j++) {
#pragma unroll
                for (u32 e = 0; e < 4; e++) {
                    f(i, j, e);
                }
            }
        }
    }

    DEVICE_MEMBER u32 row_of(u32 i, u32 e) const { return row + 16 * i + fragment::sum_row(lane, e); }
    DEVICE_MEMBER u32 column_of(u32 j, u32 e) const { return column + 8 * j + fragment::sum_column(lane, e); }

    // Whether chunks are scaled and added in f32, or whole numbers counted to the end.
    DEVICE_MEMBER bool is_promoted() const {
        return !S::WHOLE || scaling.a.covers == SCALED_CHUNKS || scaling.b.covers == SCALED_CHUNKS;
    }

    // Four matrices of 8 rows by 16 bytes: 16 outer indices by 32 of k, those of k first where `K_FIRST`, as B wants them.
    template <bool K_FIRST>
    DEVICE_MEMBER void load(u32 (&out)[4], u32 at, u32 outer, u32 k) const {
        const u32 matrix = lane / 8;
        const u32 second_outer = K_FIRST ? matrix / 2 : matrix % 2, second_k = K_FIRST ? matrix % 2 : matrix / 2;
        load_matrices(out, at + Side<S>::offset(outer + 8 * second_outer + lane % 8, k + PIECE * second_k));
    }

    // Adds the product of a stage.
    DEVICE_MEMBER void multiply(u32 at_a, u32 at_b) {
#pragma unroll
        for (u32 k = 0; k < S::BLOCK_K; k += K_STEP) {
            u32 a[S::BLOCKS_M][4], b[S::BLOCKS_N / 2][4];
#pragma unroll
            for (u32 i = 0; i < S::BLOCKS_M; i++) {
                load<false>(a[i], at_a, row + 16 * i, k);
            }
#pragma unroll
            for (u32 j = 0; j < S::BLOCKS_N / 2; j++) {
                load<true>(b[j], at_b, column + 16 * j, k);
            }
            if constexpr (S::WHOLE) {
                multiply_whole(a, b);
            } else if constexpr (S::VALUES == Values::AsF16) {
                multiply_halves<0>(a, b);
                multiply_halves<1>(a, b);
            } else {
                multiply_floats(a, b);
            }
        }
    }

    // Calls f for the sums of every block, with its sides.
    template <class T, class F>
    static DEVICE_MEMBER void each_block(T (&sums)[S::BLOCKS_M][S::BLOCKS_N][4], const u32 (&a)[S::BLOCKS_M][4],
                                         const u32 (&b)[S::BLOCKS_N / 2][4], F f) {
#pragma unroll
        for (u32 i = 0; i < S::BLOCKS_M; i++) {
#pragma unroll
            for (u32 j = 0; j < S::BLOCKS_N; j++) {
                const u32 pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                f(sums[i][j], a[i], pair);
            }
        }
    }

    DEVICE_MEMBER void multiply_whole(const u32 (&a)[S::BLOCKS_M][4], const u32 (&b)[S::BLOCKS_N / 2][4]) {
        each_block(counts, a, b, [](i32(&d)[4], const u32(&x)[4], const u32(&y)[2]) { mma_i8(d, x, y); });
    }

    DEVICE_MEMBER void multiply_floats(const u32 (&a)[S::BLOCKS_M][4], const u32 (&b)[S::BLOCKS_N / 2][4]) {
        switch ((args.a.dtype == F8E5M2 ? 2 : 0) + (args.b.dtype == F8E5M2 ? 1 : 0)) {
        case 0: each_block(part, a, b, [](f32(&d)[4], const u32(&x)[4], const u32(&y)[2]) { mma_e4m3_e4m3(d, x, y); }); break;
        case 1: each_block(part, a, b, [](f32(&d)[4], const u32(&x)[4], const u32(&y)[2]) { mma_e4m3_e5m2(d, x, y); }); break;
        case 2: each_block(part, a, b, [](f32(&d)[4], const u32(&x)[4], const u32(&y)[2]) { mma_e5m2_e4m3(d, x, y); }); break;
        default: each_block(part, a, b, [](f32(&d)[4], const u32(&x)[4], const u32(&y)[2]) { mma_e5m2_e5m2(d, x, y); });
        }
    }

    // The first or the last 16 of a step's k. A lane has four neighbours of them where f16 has two and two: A and B alike.
    template <u32 HALF>
    DEVICE_MEMBER void multiply_halves(const u32 (&a)[S::BLOCKS_M][4], const u32 (&b)[S::BLOCKS_N / 2][4]) {
        u32 right[S::BLOCKS_N][2];
#pragma unroll
        for (u32 j = 0; j < S::BLOCKS_N; j++) {
            const u32 word = b[j / 2][j % 2 * 2 + HALF];
            right[j][0] = halves_of(args.b.dtype, word, false);
            right[j][1] = halves_of(args.b.dtype, word, true);
        }
#pragma unroll
        for (u32 i = 0; i < S::BLOCKS_M; i++) {
            const u32 upper = a[i][2 * HALF], lower = a[i][2 * HALF + 1];
            const u32 left[4] = {halves_of(args.a.dtype, upper, false), halves_of(args.a.dtype, lower, false),
                                 halves_of(args.a.dtype, upper, true), halves_of(args.a.dtype, lower, true)};
#pragma unroll
            for (u32 j = 0; j < S::BLOCKS_N; j++) {
                mma_f16(part[i][j], left, right[j]);
            }
        }
    }

    // Adds the chunk that ends, scaled, and begins another.
    DEVICE_MEMBER void promote(u32 chunk) {
        const SideScales of_a(scaling.a, args.batch, tile.entry), of_b(scaling.b, args.batch, tile.entry);
        f32 a[S::BLOCKS_M][2], b[S::BLOCKS_N][2];
#pragma unroll
        for (u32 i = 0; i < 2 * S::BLOCKS_M; i++) {
            a[i / 2][i % 2] = of_a.of_chunk(tile.row + row_of(i / 2, i % 2 * 2), tile.owned, chunk);
        }
#pragma unroll
        for (u32 j = 0; j < 2 * S::BLOCKS_N; j++) {
            b[j / 2][j % 2] = of_b.of_chunk(tile.column + column_of(j / 2, j % 2), args.n, chunk);
        }
        each([&](u32 i, u32 j, u32 e) {
            const f32 x = S::WHOLE ? (f32)counts[i][j][e] : part[i][j][e];
            sums[i][j][e] = fma(x, a[i][e / 2] * b[j][e % 2], sums[i][j][e]);
            counts[i][j][e] = 0;
            part[i][j][e] = 0.0f;
        });
    }

    // Adds the products of the launch's k.
    DEVICE_MEMBER void run(const Side<S>& a, const Side<S>& b) {
        const u32 from = tile.k_from, steps = (tile.k_to - from + S::BLOCK_K - 1) / S::BLOCK_K;
        const auto at = [&](u32 stage) { return shared_base() + stage * 2 * S::SIDE_BYTES; };
        const auto copy = [&](u32 stage, u32 step) {
            a.copy(at(stage), from + step * S::BLOCK_K);
            b.copy(at(stage) + S::SIDE_BYTES, from + step * S::BLOCK_K);
        };
        through_stages<S::STAGES>(steps, copy, [&](u32 stage, u32 step) {
            multiply(at(stage), at(stage) + S::SIDE_BYTES);
            // Launches begin at whole chunks, and so do groups along K.
            const u32 end = args.k_from + (step + 1) * S::BLOCK_K;
            if (is_promoted() && (end % CHUNK_K == 0 || step + 1 == steps)) {
                promote((end - 1) / CHUNK_K);
            }
        });
    }

    // The sums of this thread from or to memory that a cut tile carries them in: the same register of all threads lies
    // together.
    DEVICE_MEMBER void carry(bool load) {
        u64 at = args.state + (u64)thread_index() * 4;
        each([&](u32 i, u32 j, u32 e) {
            if (!load) {
                store_global_u32(at, is_promoted() ? bits_of(sums[i][j][e]) : (u32)counts[i][j][e]);
            } else if (is_promoted()) {
                sums[i][j][e] = load_global_f32(at);
            } else {
                counts[i][j][e] = (i32)load_global_u32(at);
            }
            at += S::THREADS * 4;
        });
    }

    // All sums through shared memory, by rows, to the epilogue.
    DEVICE_MEMBER void finish() {
        // Everybody is done with the last stage, where the sums go.
        sync_block();
        each([&](u32 i, u32 j, u32 e) {
            if (e % 2 == 0) {
                const f32 x = is_promoted() ? sums[i][j][e] : (f32)counts[i][j][e];
                const f32 y = is_promoted() ? sums[i][j][e + 1] : (f32)counts[i][j][e + 1];
                store_shared(shared_base() + row_of(i, e) * S::SUM_ROW + column_of(j, e) * 4, x, y);
            }
        });
        // Everybody's sums are there.
        sync_block();
        const ScaledEpilogue epilogue(args, scaling, tile.entry);
        epilogue.write<S::TILE, S::TILE, S::THREADS>(tile, shared_base(), S::SUM_ROW, thread_index(), tile.row, tile.column);
    }
};

template <class S>
DEVICE void run(const MatmulScaledArgs& all) {
    const MatmulArgs& args = all.matmul;
    const Part tile = part_of<S::TILE, S::TILE>(args, place_of(args, args.first_tile + block_index()));
    const Matrix of_a = matrix_of(args.a, args.batch, tile.entry, tile.a);
    const Matrix of_b = matrix_of(args.b, args.batch, tile.entry, tile.b);
    const Side<S> a{address_of(of_a, tile.row, 0), args.a.row, args.a.column, tile.rows(), tile.k_to};
    const Side<S> b{address_of(of_b, 0, tile.column), args.b.column, args.b.row, args.n - tile.column, tile.k_to};

    Block<S> block(all, tile);
    if (args.k_from > 0) {
        block.carry(true);
    }
    block.run(a, b);
    if (args.k_to < args.k) {
        return block.carry(false);
    }
    block.finish();
}

}  // namespace matmul_sm80_bytes
