// The simple product: one output a thread, operands of any type and strides, scales, groups, outputs of 8 bits, the whole
// epilogue. What the fast kernels are held to, and the product of all that none of them takes.
//
// Order of each output: one multiply-add after the other along k, in f32; of i8 in i32. Floats of 8 bits are summed anew
// every 128 of k, as is i8 where scales cover so much, and the sum, times its scales, is added in f32.
#pragma once

#include "cuda/tile/byte.h"
#include "cuda/tile/epilogue.h"
#include "cuda/tile/place.h"
#include "cuda/tile/scales.h"

namespace matmul_reference {

constexpr u32 WARP = 32;

// Rows and columns of outputs of a tile: where their scales are found, a block has all of 128 columns.
template <u32 ROWS_, u32 COLUMNS_>
struct Shape {
    static constexpr u32 ROWS = ROWS_, COLUMNS = COLUMNS_, THREADS = ROWS * COLUMNS, WARPS = THREADS / WARP;
    static constexpr bool FINDS = COLUMNS == SCALE_COLUMNS;
    static constexpr u32 SHARED_BYTES = FINDS ? WARPS * 4 : 0;
    static_assert(THREADS == 256 && COLUMNS % 16 == 0, "as the host counts");
};

DEVICE f32 load_any(u32 dtype, u64 at) {
    return width_of(dtype) == 1 ? f32_of_byte(dtype, load_global_u8(at)) : load_as(dtype, at);
}

// An output's operands: a row of A and a column of B.
struct Line {
    Matrix a, b;
    u32 row, column;
};

// A sum on its way: of i8 under scales of all of k whole numbers, else f32.
struct Sum {
    const MatmulScaledArgs& args;
    f32 total = 0.0f;
    i32 count = 0;

    DEVICE_MEMBER bool is_whole() const { return args.matmul.a.dtype == I8; }
    DEVICE_MEMBER bool is_cut() const {
        return args.scaling.a.covers == SCALED_CHUNKS || args.scaling.b.covers == SCALED_CHUNKS;
    }

    // Adds the products of k up to an end.
    DEVICE_MEMBER void run(const Line& line, u32 from, u32 to) {
        const u32 dtype_a = args.matmul.a.dtype, dtype_b = args.matmul.b.dtype;
#pragma unroll 4
        for (u32 k = from; k < to; k++) {
            const f32 a = load_any(dtype_a, address_of(line.a, line.row, k));
            const f32 b = load_any(dtype_b, address_of(line.b, k, line.column));
            if (is_whole()) {
                count += (i32)a * (i32)b;
            } else {
                total = fma(a, b, total);
            }
        }
    }

    // The same where every chunk is summed by itself: k begins at a multiple of them.
    DEVICE_MEMBER void run_chunks(const Line& line, u32 entry, u32 from, u32 to) {
        const SideScales a(args.scaling.a, args.matmul.batch, entry), b(args.scaling.b, args.matmul.batch, entry);
        for (u32 k = from; k < to; k += CHUNK_K) {
            Sum chunk{args};
            chunk.run(line, k, to - k < CHUNK_K ? to : k + CHUNK_K);
            const f32 by_a = a.of_chunk(line.row, line.row + 1, k / CHUNK_K);
            const f32 by_b = b.of_chunk(line.column, line.column + 1, k / CHUNK_K);
            total = fma(is_whole() ? (f32)chunk.count : chunk.total, by_a * by_b, total);
        }
    }

    DEVICE_MEMBER void run_any(const Line& line, u32 entry, u32 from, u32 to) {
        const bool is_float_of_8 = width_of(args.matmul.a.dtype) == 1 && !is_whole();
        if (is_float_of_8 || is_cut()) {
            run_chunks(line, entry, from, to);
        } else {
            run(line, from, to);
        }
    }

    DEVICE_MEMBER void load(u64 at) {
        const u32 bits = load_global_u32(at);
        total = f32_of_bits(bits), count = (i32)bits;
    }
    DEVICE_MEMBER void store(u64 at) const {
        store_global_u32(at, is_whole() && !is_cut() ? (u32)count : bits_of(total));
    }

    // The sum under the scales of all of k.
    DEVICE_MEMBER f32 value(const Line& line, u32 entry) const {
        const SideScales a(args.scaling.a, args.matmul.batch, entry), b(args.scaling.b, args.matmul.batch, entry);
        const f32 sum = is_whole() && !is_cut() ? (f32)count : total;
        return sum * (a.of_whole(line.row) * b.of_whole(line.column));
    }
};

// The largest magnitude of a block's row; what is no number counts for nothing.
template <class S>
DEVICE f32 largest_of_row(f32 v) {
    constexpr u32 WARPS_OF_ROW = S::COLUMNS / WARP;
    u32 most = bits_of(v) & 0x7fffffffu;
    most = most > 0x7f800000u ? 0 : most;
#pragma unroll
    for (u32 mask = WARP / 2; mask > 0; mask /= 2) {
        const u32 other = shuffle_xor(most, mask);
        most = other > most ? other : most;
    }
    const u32 warp = thread_index() / WARP;
    if (thread_index() % WARP == 0) {
        store_shared_u32(shared_base() + warp * 4, most);
    }
    // Every warp's largest is there.
    sync_block();
    const u32 first = warp / WARPS_OF_ROW * WARPS_OF_ROW;
#pragma unroll
    for (u32 i = 0; i < WARPS_OF_ROW; i++) {
        const u32 other = load_shared_u32(shared_base() + (first + i) * 4);
        most = other > most ? other : most;
    }
    return f32_of_bits(most);
}

// Writes a value of the output as its type and scale want it; all threads come here.
template <class S>
DEVICE void write(
    const MatmulScaledArgs& args, const Epilogue& epilogue, const Part& part, u32 row, u32 column, bool is, f32 v) {
    const u32 dtype = args.matmul.out.dtype;
    f32 scale = 0.0f;
    if constexpr (S::FINDS) {
        scale = divided(largest_of_row<S>(is ? v : 0.0f), largest_of(dtype));
    }
    if (!is) {
        return;
    }
    const Matrix of_out = matrix_of(args.scaling.out, args.matmul.batch, part.entry);
    if (args.scaling.quantize == AS_IT_IS) {
        return store_as(dtype, epilogue.place(row, column), v);
    }
    if constexpr (S::FINDS) {
        if (column % SCALE_COLUMNS == 0) {
            store_global_f32(address_of(of_out, row, column / SCALE_COLUMNS), scale);
        }
    } else {
        scale = load_global_f32(of_out.at);
    }
    const f32 top = largest_of(dtype), y = scale == 0.0f ? 0.0f : clamped(divided(v, scale), -top, top);
    store_global_u8(epilogue.place(row, column), (u8)byte_of(dtype, y));
}

template <class S>
DEVICE void run(const MatmulScaledArgs& all) {
    const MatmulArgs& args = all.matmul;
    const Part part = part_of<S::ROWS, S::COLUMNS>(args, place_of(args, args.first_tile + block_index()));
    const u32 row = part.row + thread_index() / S::COLUMNS, column = part.column + thread_index() % S::COLUMNS;
    const u32 width = 1 + args.interleaved;
    const bool is = row < part.end && column < args.n / width, is_owned = is && row < part.owned;
    const u64 state = args.state + ((u64)block_index() * S::THREADS + thread_index()) * 8;
    const Epilogue epilogue(args, part.entry);
    const Matrix of_a = matrix_of(args.a, args.batch, part.entry, part.a);
    const Matrix of_b = matrix_of(args.b, args.batch, part.entry, part.b);
    f32 values[2] = {};
    // Columns of B of an output.
    for (u32 i = 0; is_owned && i < width; i++) {
        const Line line{of_a, of_b, row, column * width + i};
        Sum sum{all};
        if (args.k_from > 0) {
            sum.load(state + 4 * i);
        }
        sum.run_any(line, part.entry, part.k_from, part.k_to);
        if (args.k_to < args.k) {
            sum.store(state + 4 * i);
        } else {
            // By constant indices: an array that is not in registers would be a stack.
            const f32 v = sum.value(line, part.entry);
            values[0] = i == 0 ? v : values[0];
            values[1] = i == 1 ? v : values[1];
        }
    }
    if (args.k_to < args.k) {
        return;
    }
    f32 v[1] = {};
    if (is_owned && args.interleaved) {
        epilogue.before(row, 2 * column, 2, values);
        epilogue.gated(row, column, 1, values, v);
    } else if (is_owned) {
        v[0] = values[0];
        epilogue.before(row, column, 1, v);
        epilogue.after(row, column, 1, v);
    } else if (is) {
        epilogue.clear_before<2>(row, column * width, width);
    }
    write<S>(all, epilogue, part, row, column, is, v[0]);
}

}  // namespace matmul_reference
