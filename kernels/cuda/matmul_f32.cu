// True f32 products on CUDA cores, any strides: tiles through shared memory, the next one on its way in registers while one
// is multiplied. A thread has TILE / 16 by TILE / 16 outputs.
//
// Order of each output: one multiply-add after the other along k, as in `matmul_reference`.
#pragma once

#include "cuda/tile/finish.h"
#include "cuda/tile/vector.h"

namespace matmul_f32 {

template <u32 TILE_>
struct Shape {
    static constexpr u32 TILE = TILE_, BLOCK_K = 16, THREADS = 256, ACROSS = 16;
    // Vectors of four outputs of a thread down or across, half a tile apart where there are two.
    static constexpr u32 PARTS = TILE / 64, APART = TILE / PARTS;
    // Rows of a side by k, with four more elements, so that a thread's stores down k fall on other banks.
    static constexpr u32 ROW = (TILE + 4) * 4, SIDE_BYTES = BLOCK_K * ROW, STAGE_BYTES = 2 * SIDE_BYTES;
    // Sums on their way to the epilogue.
    static constexpr u32 SUM_ROW = (TILE + 8) * 4, SUM_BYTES = TILE * SUM_ROW;
    static constexpr u32 SHARED_BYTES = 2 * STAGE_BYTES > SUM_BYTES ? 2 * STAGE_BYTES : SUM_BYTES;
    static_assert(TILE == 64 || TILE == 128, "one vector or two");
};

// One side of the product: rows of A or columns of B of a tile, along k.
template <class S>
struct Side {
    static constexpr u32 LOADS = S::TILE * S::BLOCK_K / 4 / S::THREADS;

    u64 at;
    i64 outer_step, k_step;
    // Outer indices from the tile's first on, and the end of k.
    u32 outer, k_end;
    u32 words[LOADS][4];

    // Whether a thread's four elements lie along k: as the operand does, for all threads alike.
    DEVICE_MEMBER bool is_along_k() const { return k_step == 1 && outer_step != 1; }

    // The first of the four: outer index, and k.
    struct Spot {
        u32 outer, k;
    };
    DEVICE_MEMBER Spot spot(u32 i) const {
        const u32 own = thread_index() + i * S::THREADS;
        constexpr u32 VECTORS_K = S::BLOCK_K / 4, VECTORS_OUTER = S::TILE / 4;
        return is_along_k() ? Spot{own / VECTORS_K, own % VECTORS_K * 4} : Spot{own % VECTORS_OUTER * 4, own / VECTORS_OUTER};
    }

    // Elements from `from` on before `end`, of four.
    static DEVICE_MEMBER u32 rest(u32 end, u32 from) { return from >= end ? 0 : end - from < 4 ? end - from : 4; }

    // Starts to bring the tile of k; past the ends come zeros.
    DEVICE_MEMBER void load(u32 k) {
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) {
            const Spot s = spot(i);
            const u64 from = at + (u64)(((i64)s.outer * outer_step + (i64)(k + s.k) * k_step) * 4);
            const u32 n = is_along_k() ? rest(s.outer < outer ? k_end : 0, k + s.k)
                                       : rest(k + s.k < k_end ? outer : 0, s.outer);
            load_bits<4, 4>(words[i], from, is_along_k() ? k_step : outer_step, n);
        }
    }

    DEVICE_MEMBER void store(u32 to) const {
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) {
            const Spot s = spot(i);
            const u32 place = to + s.k * S::ROW + s.outer * 4;
            if (is_along_k()) {
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
                    store_shared_u32(place + j * S::ROW, words[i][j]);
                }
            } else {
                store_shared(place, u32x4{words[i][0], words[i][1], words[i][2], words[i][3]});
            }
        }
    }
};

template <class S>
struct Block {
    f32 sums[S::PARTS * 4][S::PARTS * 4] = {};

    // Where sum i of a thread's rows, or of its columns, is in the tile.
    static DEVICE_MEMBER u32 row(u32 i) { return i / 4 * S::APART + thread_index() / S::ACROSS * 4 + i % 4; }
    static DEVICE_MEMBER u32 column(u32 i) { return i / 4 * S::APART + thread_index() % S::ACROSS * 4 + i % 4; }

    static DEVICE_MEMBER void fetch(f32 (&v)[S::PARTS * 4], u32 from, u32 first) {
#pragma unroll
        for (u32 part = 0; part < S::PARTS; part++) {
            const u32x4 words = load_shared_u32x4(from + (first + part * S::APART) * 4);
            v[part * 4] = f32_of_bits(words.x), v[part * 4 + 1] = f32_of_bits(words.y);
            v[part * 4 + 2] = f32_of_bits(words.z), v[part * 4 + 3] = f32_of_bits(words.w);
        }
    }

    DEVICE_MEMBER void multiply(u32 stage) {
#pragma unroll
        for (u32 k = 0; k < S::BLOCK_K; k++) {
            f32 a[S::PARTS * 4], b[S::PARTS * 4];
            fetch(a, stage + k * S::ROW, row(0));
            fetch(b, stage + S::SIDE_BYTES + k * S::ROW, column(0));
#pragma unroll
            for (u32 i = 0; i < S::PARTS * 4; i++) {
#pragma unroll
                for (u32 j = 0; j < S::PARTS * 4; j++) {
                    sums[i][j] = fma(a[i], b[j], sums[i][j]);
                }
            }
        }
    }

    // Adds the products of k from `from` to `to`. A stage is written a step after it was last read, with a barrier between.
    DEVICE_MEMBER void run(Side<S>& a, Side<S>& b, u32 from, u32 to) {
        const u32 steps = (to - from + S::BLOCK_K - 1) / S::BLOCK_K;
        if (steps > 0) {
            a.load(from), b.load(from);
        }
#pragma unroll 1
        for (u32 step = 0; step < steps; step++) {
            const u32 stage = shared_base() + step % 2 * S::STAGE_BYTES;
            a.store(stage), b.store(stage + S::SIDE_BYTES);
            // The stage is there, and everybody is done with the one before.
            sync_block();
            if (step + 1 < steps) {
                const u32 next = from + (step + 1) * S::BLOCK_K;
                a.load(next), b.load(next);
            }
            multiply(stage);
        }
    }

    // The sums from or to memory that a cut tile carries them in.
    DEVICE_MEMBER void carry(u64 state, bool load) {
        u64 at = state + (u64)thread_index() * 4;
#pragma unroll
        for (u32 i = 0; i < S::PARTS * 4; i++) {
#pragma unroll
            for (u32 j = 0; j < S::PARTS * 4; j++, at += S::THREADS * 4) {
                if (load) {
                    sums[i][j] = load_global_f32(at);
                } else {
                    store_global_f32(at, sums[i][j]);
                }
            }
        }
    }

    // All sums to shared memory, by rows, for the epilogue.
    DEVICE_MEMBER void stage() const {
        // Everybody is done with the last stage, where the sums go.
        sync_block();
#pragma unroll
        for (u32 i = 0; i < S::PARTS * 4; i++) {
#pragma unroll
            for (u32 j = 0; j < S::PARTS * 4; j += 2) {
                store_shared(shared_base() + row(i) * S::SUM_ROW + column(j) * 4, sums[i][j], sums[i][j + 1]);
            }
        }
        // Everybody's sums are there.
        sync_block();
    }
};

template <class S>
DEVICE void run(const MatmulArgs& args) {
    const Part part = part_of<S::TILE, S::TILE>(args, place_of(args, args.first_tile + block_index()));
    const Matrix of_a = matrix_of(args.a, args.batch, part.entry, part.a);
    const Matrix of_b = matrix_of(args.b, args.batch, part.entry, part.b);
    Side<S> a{address_of(of_a, part.row, 0), args.a.row, args.a.column, part.rows(), part.k_to, {}};
    Side<S> b{address_of(of_b, 0, part.column), args.b.column, args.b.row, args.n - part.column, part.k_to, {}};
    Block<S> block;
    if (args.k_from > 0) {
        block.carry(args.state, true);
    }
    block.run(a, b, part.k_from, part.k_to);
    if (args.k_to < args.k) {
        return block.carry(args.state, false);
    }
    block.stage();
    finish<S::TILE, S::TILE, S::THREADS>(args, part, shared_base(), S::SUM_ROW);
}

}  // namespace matmul_f32
