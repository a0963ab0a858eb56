// Products on every NVIDIA GPU from compute capability 8.0: a ring of cp.async copies, ldmatrix, and mma.sync, for f16,
// bf16, and f32 that is rounded to tf32. A block computes one tile of the output; rows of an operand lie dense along K or
// along the other axis, a gathered form takes any strides. `kernels/src/matmul.rs` lists the rows; unaligned shapes of
// Hopper come here too.
//
// Order of each output: one mma after the other along k, 16 at a time, of tf32 8, in f32.
#pragma once

#include "cuda/tile/copies.h"
#include "cuda/tile/finish.h"
#include "cuda/tile/swizzle.h"

namespace matmul_sm80 {

// How an operand's elements lie.
enum class Major {
    // Dense along K, 16-byte aligned.
    K,
    // Dense along M (of A) or N (of B), 16-byte aligned.
    Outer,
    // Anyhow: every element by itself.
    Gathered,
};

constexpr u32 LANES = 32;

template <u32 M, u32 N, u32 STAGES_, u32 WARPS_M_, u32 WARPS_N_, Major A_, Major B_, u32 DTYPE_>
struct Shape {
    // Bytes of an element. Of f32 there are half as many in whatever holds 16 bits: stages, copies, fragments.
    static constexpr u32 ELEMENT = DTYPE_ == F32 ? 4 : 2;
    static constexpr u32 BLOCK_M = M, BLOCK_N = N, BLOCK_K = 64 / ELEMENT, K_STEP = 32 / ELEMENT, STAGES = STAGES_;
    static constexpr u32 WARPS_M = WARPS_M_, WARPS_N = WARPS_N_;
    static constexpr u32 THREADS = WARPS_M * WARPS_N * LANES;
    static constexpr Major A = A_, B = B_;
    static constexpr u32 DTYPE = DTYPE_;
    static constexpr u32 A_BYTES = BLOCK_M * BLOCK_K * ELEMENT, B_BYTES = BLOCK_N * BLOCK_K * ELEMENT;
    // Sums on their way to the epilogue: rows of f32, and eight more, so that four of them meet no bank twice.
    static constexpr u32 SUM_ROW = (BLOCK_N + 8) * 4;
    static constexpr u32 RING_BYTES = STAGES * (A_BYTES + B_BYTES), SUM_BYTES = BLOCK_M * SUM_ROW;
    static constexpr u32 SHARED_BYTES = RING_BYTES > SUM_BYTES ? RING_BYTES : SUM_BYTES;
    // Of a warp: rows and columns, and blocks of 16 by 8 in them.
    static constexpr u32 WARP_M = BLOCK_M / WARPS_M, WARP_N = BLOCK_N / WARPS_N;
    static constexpr u32 BLOCKS_M = WARP_M / 16, BLOCKS_N = WARP_N / 8;
    static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "a warp loads B by pairs of blocks");
    static_assert(BLOCK_M % 64 == 0 && BLOCK_N % 64 == 0, "rows of whole lines where K is not dense");
};

// One side of the product: rows of A or columns of B of a tile, along k.
template <u32 OUTER, u32 BLOCK_K, u32 ELEMENT, u32 THREADS, Major MAJOR>
struct Side {
    static constexpr u32 CHUNK = 16 / ELEMENT;  // Elements of a copy.
    static constexpr u32 CHUNKS = OUTER * BLOCK_K / CHUNK;
    static_assert(CHUNKS % THREADS == 0, "every thread starts as many copies");

    static DEVICE_MEMBER constexpr Major major() { return MAJOR; }

    u64 at;
    // Elements from one outer index, and from one k, to the next.
    i64 outer_step, k_step;
    // Outer indices from the tile's first on, and the end of k.
    u32 outer, k_end;

    // The first outer index and the first k of a chunk.
    struct Place {
        u32 outer, k;
    };
    static DEVICE_MEMBER Place place(u32 chunk) {
        if constexpr (MAJOR == Major::Outer) {
            return {chunk % (OUTER / CHUNK) * CHUNK, chunk / (OUTER / CHUNK)};
        } else {
            return {chunk / (BLOCK_K / CHUNK), chunk % (BLOCK_K / CHUNK) * CHUNK};
        }
    }

    static DEVICE_MEMBER u32 offset(u32 outer, u32 k) {
        if constexpr (MAJOR == Major::Outer) {
            return ELEMENT == 4 ? swizzled_pairs<OUTER / CHUNK>(k, outer / CHUNK) + outer % CHUNK * ELEMENT
                                : swizzled<OUTER / CHUNK>(k, outer / CHUNK);
        } else {
            return swizzled<BLOCK_K / CHUNK>(outer, k / CHUNK);
        }
    }

    DEVICE_MEMBER u64 address(u32 outer_index, u32 k) const {
        return at + (u64)(((i64)outer_index * outer_step + (i64)k * k_step) * ELEMENT);
    }

    // Starts to bring the tile of k into a stage; past the ends come zeros.
    DEVICE_MEMBER void copy(u32 stage, u32 k) const {
#pragma unroll
        for (u32 i = 0; i < CHUNKS / THREADS; i++) {
            const Place p = place(thread_index() + i * THREADS);
            const u32 to = stage + offset(p.outer, p.k);
            if constexpr (MAJOR == Major::Gathered) {
                gather(to, p.outer, k + p.k);
            } else {
                const u32 left = MAJOR == Major::K ? rest(p.outer < outer ? k_end : 0, k + p.k)
                                                   : rest(k + p.k < k_end ? outer : 0, p.outer);
                // Where nothing is read, the address is still a valid one.
                copy_async16(to, left > 0 ? address(p.outer, k + p.k) : at, left * ELEMENT);
            }
        }
    }

    // Elements of a chunk at `from` before `end`.
    static DEVICE_MEMBER u32 rest(u32 end, u32 from) {
        const u32 n = end > from ? end - from : 0;
        return n < CHUNK ? n : CHUNK;
    }

    DEVICE_MEMBER void gather(u32 to, u32 outer_index, u32 k) const {
        u32 words[4];
        const u32 left = rest(outer_index < outer ? k_end : 0, k);
#pragma unroll
        for (u32 i = 0; i < CHUNK; i++) {
            if constexpr (ELEMENT == 4) {
                words[i] = i < left ? load_global_u32(address(outer_index, k + i)) : 0;
            } else {
                const u32 v = i < left ? load_global_u16(address(outer_index, k + i)) : 0;
                words[i / 2] = i % 2 == 0 ? v : words[i / 2] | v << 16;
            }
        }
        store_shared(to, u32x4{words[0], words[1], words[2], words[3]});
    }
};

template <class S>
struct Block {
    using SideA = Side<S::BLOCK_M, S::BLOCK_K, S::ELEMENT, S::THREADS, S::A>;
    using SideB = Side<S::BLOCK_N, S::BLOCK_K, S::ELEMENT, S::THREADS, S::B>;

    f32 sums[S::BLOCKS_M][S::BLOCKS_N][4] = {};
    u32 warp_row, warp_column, lane;

    DEVICE_MEMBER Block() {
        const u32 warp = thread_index() / LANES;
        warp_row = warp / S::WARPS_N * S::WARP_M;
        warp_column = warp % S::WARPS_N * S::WARP_N;
        lane = thread_index() % LANES;
    }

    // Four matrices of 8 outer indices by 16 bytes along k, two by two: those of k first where `K_FIRST`, as B wants them.
    template <class Side, bool K_FIRST>
    DEVICE_MEMBER void load(u32 (&out)[4], u32 tile, u32 outer, u32 k) const {
        const u32 matrix = lane / 8;
        const u32 second_outer = K_FIRST ? matrix / 2 : matrix % 2, second_k = K_FIRST ? matrix % 2 : matrix / 2;
        if constexpr (S::DTYPE == F32) {
            load_words<Side, K_FIRST>(out, tile, outer, k);
        } else if constexpr (Side::major() == Major::Outer) {
            load_matrices_transposed(out, tile + Side::offset(outer + 8 * second_outer, k + 8 * second_k + lane % 8));
        } else {
            load_matrices(out, tile + Side::offset(outer + 8 * second_outer + lane % 8, k + 8 * second_k));
        }
    }

    // The same of words, which no load transposes; rounded here, once.
    template <class Side, bool K_FIRST>
    DEVICE_MEMBER void load_words(u32 (&out)[4], u32 tile, u32 outer, u32 k) const {
        if constexpr (Side::major() != Major::Outer) {
            const u32 matrix = lane / 8;
            const u32 second_outer = K_FIRST ? matrix / 2 : matrix % 2, second_k = K_FIRST ? matrix % 2 : matrix / 2;
            load_matrices(out, tile + Side::offset(outer + 8 * second_outer + lane % 8, k + 4 * second_k));
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            if constexpr (Side::major() == Major::Outer) {
                const u32 second_outer = K_FIRST ? i / 2 : i % 2, second_k = K_FIRST ? i % 2 : i / 2;
                out[i] = load_shared_u32(tile + Side::offset(outer + 8 * second_outer + lane / 4, k + 4 * second_k + lane % 4));
            }
            out[i] = tf32_of(f32_of_bits(out[i]));
        }
    }

    // Adds the product of a stage.
    DEVICE_MEMBER void multiply(u32 tile_a, u32 tile_b) {
#pragma unroll
        for (u32 k = 0; k < S::BLOCK_K; k += S::K_STEP) {
            u32 a[S::BLOCKS_M][4], b[S::BLOCKS_N / 2][4];
#pragma unroll
            for (u32 i = 0; i < S::BLOCKS_M; i++) {
                load<SideA, false>(a[i], tile_a, warp_row + 16 * i, k);
            }
#pragma unroll
            for (u32 j = 0; j < S::BLOCKS_N / 2; j++) {
                load<SideB, true>(b[j], tile_b, warp_column + 16 * j, k);
            }
#pragma unroll
            for (u32 i = 0; i < S::BLOCKS_M; i++) {
#pragma unroll
                for (u32 j = 0; j < S::BLOCKS_N; j++) {
                    const u32 pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                    if constexpr (S::DTYPE == BF16) {
                        mma_bf16(sums[i][j], a[i], pair);
                    } else if constexpr (S::DTYPE == F32) {
                        mma_tf32(sums[i][j], a[i], pair);
                    } else {
                        mma_f16(sums[i][j], a[i], pair);
                    }
                }
            }
        }
    }

    // Adds the products of k from `from` to `to`.
    DEVICE_MEMBER void run(const SideA& a, const SideB& b, u32 from, u32 to) {
        const u32 base = shared_base();
        const auto at = [&](u32 stage) { return base + stage * (S::A_BYTES + S::B_BYTES); };
        const auto copy = [&](u32 stage, u32 step) {
            a.copy(at(stage), from + step * S::BLOCK_K);
            b.copy(at(stage) + S::A_BYTES, from + step * S::BLOCK_K);
        };
        through_stages<S::STAGES>((to - from + S::BLOCK_K - 1) / S::BLOCK_K, copy,
                                  [&](u32 stage, u32) { multiply(at(stage), at(stage) + S::A_BYTES); });
    }

    // The sums of this thread from or to memory that a cut tile carries them in: the same register of all threads lies
    // together.
    DEVICE_MEMBER void carry(u64 state, bool load) {
        u64 at = state + (u64)thread_index() * 4;
#pragma unroll
        for (u32 i = 0; i < S::BLOCKS_M; i++) {
#pragma unroll
            for (u32 j = 0; j < S::BLOCKS_N; j++) {
#pragma unroll
                for (u32 e = 0; e < 4; e++, at += S::THREADS * 4) {
                    if (load) {
                        sums[i][j][e] = load_global_f32(at);
                    } else {
                        store_global_f32(at, sums[i][j][e]);
                    }
                }
            }
        }
    }

    // All sums through shared memory, by rows, to the epilogue: one copy of its code, and neighbours write together.
    DEVICE_MEMBER void stage() const {
        // Everybody is done with the last stage, where the sums go.
        sync_block();
#pragma unroll
        for (u32 i = 0; i < S::BLOCKS_M; i++) {
#pragma unroll
            for (u32 j = 0; j < S::BLOCKS_N; j++) {
#pragma unroll
                for (u32 e = 0; e < 4; e += 2) {
                    const u32 r = warp_row + 16 * i + fragment::sum_row(lane, e);
                    const u32 c = warp_column + 8 * j + fragment::sum_column(lane, e);
                    store_shared(shared_base() + r * S::SUM_ROW + c * 4, sums[i][j][e], sums[i][j][e + 1]);
                }
            }
        }
        // Everybody's sums are there.
        sync_block();
    }
};

template <class S>
DEVICE void run(const MatmulArgs& args) {
    const Part part = part_of<S::BLOCK_M, S::BLOCK_N>(args, place_of(args, args.first_tile + block_index()));
    const Matrix of_a = matrix_of(args.a, args.batch, part.entry, part.a);
    const Matrix of_b = matrix_of(args.b, args.batch, part.entry, part.b);
    const typename Block<S>::SideA a{address_of(of_a, part.row, 0), args.a.row, args.a.column, part.rows(), part.k_to};
    const u32 columns = args.n - part.column;
    const typename Block<S>::SideB b{address_of(of_b, 0, part.column), args.b.column, args.b.row, columns, part.k_to};

    Block<S> block;
    if (args.k_from > 0) {
        block.carry(args.state, true);
    }
    block.run(a, b, part.k_from, part.k_to);
    if (args.k_to < args.k) {
        return block.carry(args.state, false);
    }
    block.stage();
    finish<S::BLOCK_M, S::BLOCK_N, S::THREADS>(args, part, shared_base(), S::SUM_ROW);
}

}  // namespace matmul_sm80
