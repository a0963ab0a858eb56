// The model's side of `cuda/ptx/mma.h`, by the layouts of `cuda/tile/fragment.h`.
#pragma once

#include "cuda/tile/fragment.h"
#include "cuda/types.h"
#include "host/ptx/convert.h"
#include "host/products.h"
#include "host/ptx/memory.h"
#include "host/world.h"

namespace model {

struct Registers {
    u32 r[4];
};

inline void load_matrices(const char* name, u32 (&out)[4], u32 row, bool transposed, const Where& where) {
    Registers mine;
    meet(name, row, mine, where, [&](const u32** rows, Registers** outs) {
        World& w = *world;
        u16 matrices[4][8][8];
        for (u32 i = 0; i < LANES; i++) {
            u16(&line)[8] = matrices[i / 8][i % 8];
            memset(line, 0xff, sizeof line);
            if (const u8* bytes = w.shared->at(*rows[i], 16, where)) {
                w.shared->read(*rows[i], 16, {w.running / LANES, i, where});
                memcpy(line, bytes, 16);
            }
        }
        for (u32 lane = 0; lane < LANES; lane++) {
            for (u32 j = 0; j < 4; j++) {
                u32 word = 0;
                for (u32 half = 0; half < 2; half++) {
                    const u32 r = fragment::matrix_row(lane), c = fragment::matrix_column(lane, half);
                    word |= static_cast<u32>(transposed ? matrices[j][c][r] : matrices[j][r][c]) << 16 * half;
                }
                outs[lane]->r[j] = word;
            }
        }
    });
    memcpy(out, mine.r, sizeof out);
}

struct Stored {
    u32 row;
    const u32* in;
};

template <u32 MATRICES>
void store_matrices(const char* name, u32 row, const u32 (&in)[MATRICES], bool transposed, const Where& where) {
    Stored mine{row, in};
    u32 none = 0;
    meet(name, mine, none, where, [&](const Stored** ins, u32**) {
        World& w = *world;
        u16 matrices[4][8][8];
        for (u32 lane = 0; lane < LANES; lane++) {
            for (u32 i = 0; i < 2 * MATRICES; i++) {
                const u32 r = fragment::matrix_row(lane), c = fragment::matrix_column(lane, i % 2);
                u16& element = matrices[i / 2][transposed ? c : r][transposed ? r : c];
                element = static_cast<u16>(ins[lane]->in[i / 2] >> 16 * (i % 2));
            }
        }
        for (u32 i = 0; i < 8 * MATRICES; i++) {
            if (u8* bytes = w.shared->at(ins[i]->row, 16, where)) {
                w.shared->write(ins[i]->row, 16, {w.running / LANES, i, where});
                memcpy(bytes, matrices[i / 8][i % 8], 16);
            }
        }
    });
}

struct Fragments {
    f32* sums;
    const u32 *a, *b;
};

// The sums of a warp: each output's sixteen products from left to right in f64, rounded once. What the hardware does with
// the low bits is not calibrated yet.
inline void mma(const char* name, f32 (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], f32 (*widen)(u16), const Where& where) {
    Fragments in{sums, a, b};
    u32 none = 0;
    meet(name, in, none, where, [&](const Fragments** ins, u32**) {
        f32 lhs[16][16], rhs[16][8];
        const auto value = [=](const u32* words, u32 i) { return widen(static_cast<u16>(words[i / 2] >> 16 * (i % 2))); };
        for (u32 lane = 0; lane < LANES; lane++) {
            for (u32 i = 0; i < 8; i++) {
                lhs[fragment::a_row(lane, i)][fragment::a_column(lane, i)] = value(ins[lane]->a, i);
            }
            for (u32 i = 0; i < 4; i++) {
                rhs[fragment::b_row(lane, i)][fragment::b_column(lane)] = value(ins[lane]->b, i);
            }
        }
        for (u32 lane = 0; lane < LANES; lane++) {
            for (u32 i = 0; i < 4; i++) {
                double sum = ins[lane]->sums[i];
                for (u32 k = 0; k < 16; k++) {
                    sum += static_cast<double>(lhs[fragment::sum_row(lane, i)][k]) * rhs[k][fragment::sum_column(lane, i)];
                }
                ins[lane]->sums[i] = static_cast<f32>(sum);
            }
        }
    });
}

// The same of 16 by 8 by 8 numbers of tf32, whose layout only the conversion to it knows: any other is named.
inline void mma_tf32(f32 (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], const Where& where) {
    Fragments in{sums, a, b};
    u32 none = 0;
    meet("mma_tf32", in, none, where, [&](const Fragments** ins, u32**) {
        f32 lhs[16][8], rhs[8][8];
        const auto value = [&](u32 bits) {
            const f32 x = f32_of_bits(bits);
            if (x == x && bits % 0x2000 != 0) {
                world->report.error("mma-unrounded", where, "0x%08x is no tf32", bits);
            }
            return x;
        };
        for (u32 lane = 0; lane < LANES; lane++) {
            for (u32 i = 0; i < 4; i++) {
                lhs[fragment::word_a_row(lane, i)][fragment::word_a_column(lane, i)] = value(ins[lane]->a[i]);
            }
            for (u32 i = 0; i < 2; i++) {
                rhs[fragment::word_b_row(lane, i)][fragment::b_column(lane)] = value(ins[lane]->b[i]);
            }
        }
        for (u32 lane = 0; lane < LANES; lane++) {
            for (u32 i = 0; i < 4; i++) {
                double sum = ins[lane]->sums[i];
                for (u32 k = 0; k < 8; k++) {
                    sum += static_cast<double>(lhs[fragment::sum_row(lane, i)][k]) * rhs[k][fragment::sum_column(lane, i)];
                }
                ins[lane]->sums[i] = static_cast<f32>(sum);
            }
        }
    });
}

// Sums of 16 by 32 by 8 bytes: `add` takes a sum, and the rows of bytes of A and of B that it is of.
template <class T, class F>
void mma_bytes(const char* name, T (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], const Where& where, F add) {
    struct In {
        T* sums;
        const u32 *a, *b;
    } in{sums, a, b};
    u32 none = 0;
    meet(name, in, none, where, [&](const In** ins, u32**) {
        u8 lhs[16][32], rhs[8][32];
        const auto byte = [](const u32* words, u32 i) { return static_cast<u8>(words[i / 4] >> i % 4 * 8); };
        for (u32 lane = 0; lane < LANES; lane++) {
            for (u32 i = 0; i < 16; i++) {
                lhs[fragment::byte_a_row(lane, i)][fragment::byte_a_column(lane, i)] = byte(ins[lane]->a, i);
            }
            for (u32 i = 0; i < 8; i++) {
                rhs[fragment::b_column(lane)][fragment::byte_b_row(lane, i)] = byte(ins[lane]->b, i);
            }
        }
        for (u32 lane = 0; lane < LANES; lane++) {
            for (u32 i = 0; i < 4; i++) {
                T& sum = ins[lane]->sums[i];
                sum = add(sum, lhs[fragment::sum_row(lane, i)], rhs[fragment::sum_column(lane, i)]);
            }
        }
    });
}

}  // namespace model

DEVICE void load_matrices(u32 (&out)[4], u32 row, const model::Where& where = model::Where::current()) {
    model::load_matrices("load_matrices", out, row, false, where);
}

DEVICE void load_matrices_transposed(u32 (&out)[4], u32 row, const model::Where& where = model::Where::current()) {
    model::load_matrices("load_matrices_transposed", out, row, true, where);
}

DEVICE void store_matrices(u32 row, const u32 (&in)[4], const model::Where& where = model::Where::current()) {
    model::store_matrices("store_matrices", row, in, false, where);
}

template <u32 MATRICES>
DEVICE void store_matrices_transposed(u32 row, const u32 (&in)[MATRICES], const model::Where& where = model::Where::current()) {
    model::store_matrices("store_matrices_transposed", row, in, true, where);
}

DEVICE void mma_bf16(f32 (&sums)[4], const u32 (&a)[4], const u32 (&b)[2],
                     const model::Where& where = model::Where::current()) {
    model::mma("mma_bf16", sums, a, b, [](u16 x) { return f32_of_bits(static_cast<u32>(x) << 16); }, where);
}

DEVICE void mma_f16(f32 (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], const model::Where& where = model::Where::current()) {
    model::mma("mma_f16", sums, a, b, f32_of_f16, where);
}

DEVICE void mma_tf32(f32 (&sums)[4], const u32 (&a)[4], const u32 (&b)[2],
                     const model::Where& where = model::Where::current()) {
    model::mma_tf32(sums, a, b, where);
}

// Whole numbers wrap.
DEVICE void mma_i8(i32 (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], const model::Where& where = model::Where::current()) {
    model::mma_bytes("mma_i8", sums, a, b, where, [](i32 sum, const u8* x, const u8* y) {
        u32 out = static_cast<u32>(sum);
        for (u32 k = 0; k < 32; k++) {
            out += static_cast<u32>(static_cast<signed char>(x[k]) * static_cast<signed char>(y[k]));
        }
        return static_cast<i32>(out);
    });
}

// As products of warpgroups add them.
#define MODEL_MMA_BYTES(left, right)                                                                                  \
    DEVICE void mma_##left##_##right(f32 (&sums)[4], const u32 (&a)[4], const u32 (&b)[2],                            \
                                     const model::Where& where = model::Where::current()) {                           \
        model::mma_bytes("mma_" #left "_" #right, sums, a, b, where, [](f32 sum, const u8* x, const u8* y) {          \
            f32 lhs[32], rhs[32];                                                                                     \
            for (u32 k = 0; k < 32; k++) {                                                                            \
                lhs[k] = model::f32_of_##left(x[k]);                                                                  \
                rhs[k] = model::f32_of_##right(y[k]);                                                                 \
            }                                                                                                         \
            return model::sum_of_bytes(sum, lhs, rhs);                                                                \
        });                                                                                                           \
    }
MODEL_MMA_BYTES(e4m3, e4m3)
MODEL_MMA_BYTES(e4m3, e5m2)
MODEL_MMA_BYTES(e5m2, e4m3)
MODEL_MMA_BYTES(e5m2, e5m2)
#undef MODEL_MMA_BYTES
