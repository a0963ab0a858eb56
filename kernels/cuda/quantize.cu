// `quantize`: 8-bit values with a scale for the tensor, a row, a run of 128 or a block of 128 by 128; words of eight 4-bit
// values with a scale and a minimum for each 32; and the way back. Maxima have no order, so none is fixed here.
#pragma once

#include "cuda/quantize.h"
#include "cuda/tile/byte.h"
#include "cuda/tile/rows.h"

namespace quantize {

// Formats by their numbers in `QuantizeFormat`.
enum Format : u32 { TENSOR, ROW, BLOCK_1X128, BLOCK_128X128, GROUP_32 };

DEVICE u32 more(u32 x, u32 y) { return x > y ? x : y; }

// A magnitude as bits, which order as it does; what is no number counts for nothing.
DEVICE u32 magnitude(f32 x) {
    const u32 size = bits_of(x) & 0x7fffffffu;
    return size <= 0x7f800000u ? size : 0;
}

// The scale of a largest magnitude; 0 where that is infinite.
DEVICE f32 scale_of(u32 high, u32 dtype) { return high >= 0x7f800000u ? 0.0f : divided(f32_of_bits(high), largest_of(dtype)); }

// The first n of eight values over their scale.
DEVICE void store_codes(const View& out, u64 at, u32 n, f32 scale, const f32 (&v)[SIDE]) {
    const f32 top = largest_of(out.dtype);
    u32 words[2] = {};
#pragma unroll
    for (u32 j = 0; j < SIDE; j++) {
        const f32 code = scale == 0.0f ? 0.0f : clamped(divided(v[j], scale), -top, top);
        words[j / 4] |= byte_of(out.dtype, code) << j % 4 * 8;
    }
    store_bits<1, SIDE>(at, out.inner, n, words);
}

// A row in registers. Passes of a row in pieces: largest magnitudes, results. Of the tensor: the word that all rows share
// is cleared; their largest; results.
template <class S>
DEVICE void run(const QuantizeRowsArgs& args) {
    const Part<S> part(args.rows);
    if (!part.is()) {
        return;
    }
    u64 at[3];
    begin_row(at, args.views, args.rows.outer, part.row);
    const View& out = args.views[1];
    Held<S> x;
    x.load(args.views[0], at[0], part);
    const auto own = [&] {
        u32 high = 0;
        x.each(part, [&](f32 v, u32) { high = more(high, magnitude(v)); });
        return high;
    };
    u32 high;
    if (!args.tensor) {
        if (!part.fold(0, 0, 1, 0u, own, more, high)) {
            return;
        }
    } else if (args.rows.pass == 0) {
        return store_global_u32(args.rows.state, 0);
    } else if (args.rows.pass == 1) {
        high = fold_lanes<S>(own(), more);
        if (part.lane == 0) {
            max_global_u32(args.rows.state, high);
        }
        return;
    } else {
        high = load_global_u32(args.rows.state);
    }
    const f32 factor = scale_of(high, out.dtype);
    if (part.lane == 0 && part.piece == 0 && (!args.tensor || part.row == 0)) {
        store_global_f32(at[2], factor);
    }
    part.each([&](u32 i) { store_codes(out, along(out, at[1], part.first() + part.column(i)), part.side(i), factor, x.v[i]); });
}

// A tile of 128 by 128: sixteen lanes of eight elements a row, sixteen rows at once. Where a cell is the tile, it is read
// twice, the second time from near.
struct Cells {
    static constexpr u32 SIDES = 128, LANES = SIDES / SIDE, ROWS = BLOCK_THREADS / LANES, STEPS = SIDES / ROWS;
    static constexpr u32 THREADS = BLOCK_THREADS, WARPS = THREADS / WARP, SHARED_BYTES = WARPS * 8;
};

// A float in units of 2^-30 of the last place of floats with the exponent `top`.
DEVICE i64 fixed(f32 x, u32 top) {
    const u32 bits = bits_of(x), exponent = bits >> 23 & 0xff;
    const u64 mantissa = (u64)((bits & 0x7fffffu) | (exponent == 0 ? 0 : 0x800000u)) << 30;
    const u32 shift = top - more(exponent, 1);
    const i64 size = shift > 63 ? 0 : (i64)(mantissa >> shift);
    return bits >> 31 == 1 ? -size : size;
}

DEVICE u32 exponent_of(f32 x) { return more(bits_of(x) >> 23 & 0xff, 1); }

// The nearest of 0 to 15 to `(x - low) / ((high - low) / 15)`, ties to even, exactly: an estimate, and whether the quotient
// passes the halves beside it.
DEVICE u32 code_of(f32 x, i64 least, i64 range, u32 top) {
    const i64 above = fixed(x, top) - least;
    if (range <= 0 || above <= 0 || x != x) {
        return 0;
    }
    const f32 estimate = divided(15.0f * (f32)above, (f32)range);
    i64 code = estimate > 15.0f ? 15 : (i64)round_even(estimate);
    const i64 lower = (2 * code - 1) * range, upper = lower + 2 * range, thirty = 30 * above;
    const bool odd = code % 2 == 1;
    if (thirty < lower || (thirty == lower && odd)) {
        code--;
    } else if (thirty > upper || (thirty == upper && odd)) {
        code++;
    }
    return code > 15 ? 15 : (u32)code;
}

// A lane's place in a tile.
template <class S>
struct Cell {
    const QuantizeCellsArgs& args;
    u64 at[4];
    u64 tile_row, tile_column, column, row;
    u32 n;

    DEVICE_MEMBER Cell(const QuantizeCellsArgs& all) : args(all) {
        const u64 tile = args.first + block_index();
        const u64 line = whole_quotient(tile, args.across), matrix = whole_quotient(line, args.down);
        tile_row = line - matrix * args.down;
        tile_column = tile - line * args.across;
        begin_row(at, args.views, args.outer, matrix);
        column = tile_column * S::SIDES + thread_index() % S::LANES * SIDE;
    }

    // The lane's row of a step, and how many elements it has there.
    DEVICE_MEMBER void go_to(u32 step) {
        row = tile_row * S::SIDES + step * S::ROWS + thread_index() / S::LANES;
        const u64 left = row < args.m && column < args.n ? args.n - column : 0;
        n = left < SIDE ? (u32)left : SIDE;
    }

    // Where an element of a view is, by rows and columns of its own.
    DEVICE_MEMBER u64 address(u32 which, u64 down, u64 across) const {
        const View& view = args.views[which];
        const i64 offset = (i64)down * view.outer[args.outer.rank] + (i64)across * view.inner;
        return at[which] + (u64)(offset * (i64)width_of(view.dtype));
    }

    DEVICE_MEMBER void load(f32 (&v)[SIDE]) const {
        load_values(v, args.views[0].dtype, address(0, row, column), args.views[0].inner, n);
    }

    // Elements that are not there are zeros.
    static DEVICE_MEMBER u32 high(const f32 (&v)[SIDE]) {
        u32 high = 0;
#pragma unroll
        for (u32 j = 0; j < SIDE; j++) {
            high = more(high, magnitude(v[j]));
        }
        return high;
    }

    DEVICE_MEMBER void store(f32 factor, const f32 (&v)[SIDE]) const {
        store_codes(args.views[1], address(1, row, column), n, factor, v);
    }

    // Eight values of a group of 32, which four lanes have.
    DEVICE_MEMBER void store_word(const f32 (&v)[SIDE]) const {
        f32 low = infinity(), high = -infinity();
#pragma unroll
        for (u32 j = 0; j < SIDE; j++) {
            low = j < n && v[j] < low ? v[j] : low;
            high = j < n && v[j] > high ? v[j] : high;
        }
        low = fold_warp<4>(low, [](f32 x, f32 y) { return x < y ? x : y; });
        high = fold_warp<4>(high, [](f32 x, f32 y) { return x > y ? x : y; });
        if (n == 0) {
            return;
        }
        if (thread_index() % 4 == 0) {
            store_as(args.views[2].dtype, address(2, row, column / 32), divided(high - low, 15.0f));
            store_as(args.views[3].dtype, address(3, row, column / 32), low);
        }
        const u32 top = more(exponent_of(low), exponent_of(high));
        const i64 least = fixed(low, top), range = fixed(high, top) - least;
        u32 word = 0;
#pragma unroll
        for (u32 j = 0; j < SIDE; j++) {
            word |= code_of(v[j], least, range, top) << 4 * j;
        }
        store_global_u32(address(1, row, column / SIDE), word);
    }
};

template <class S>
DEVICE void run_cells(const QuantizeCellsArgs& args) {
    Cell<S> cell(args);
    const u32 dtype = args.views[1].dtype;
    const bool square = args.format == BLOCK_128X128;
    f32 v[SIDE], factor = 0.0f;
    if (square) {
        u32 high = 0;
#pragma unroll 1
        for (u32 step = 0; step < S::STEPS; step++) {
            cell.go_to(step);
            cell.load(v);
            high = more(high, cell.high(v));
        }
        factor = scale_of(fold_lanes<S>(high, more), dtype);
        if (thread_index() == 0) {
            store_global_f32(cell.address(2, cell.tile_row, cell.tile_column), factor);
        }
    }
#pragma unroll 1
    for (u32 step = 0; step < S::STEPS; step++) {
        cell.go_to(step);
        cell.load(v);
        if (args.format == GROUP_32) {
            cell.store_word(v);
            continue;
        }
        if (!square) {
            factor = scale_of(fold_warp<S::LANES>(cell.high(v), more), dtype);
            if (thread_index() % S::LANES == 0 && cell.row < args.m) {
                store_global_f32(cell.address(2, cell.row, cell.tile_column), factor);
            }
        }
        cell.store(factor, v);
    }
}

struct Inverse {
    static constexpr u32 THREADS = BLOCK_THREADS, SHARED_BYTES = 0;
};

template <class S>
DEVICE void run_inverse(const DequantizeArgs& args) {
    each_vector<SIDE>(args.range, [&](u64 row, u64 column, u32 n) {
        const View &x = args.views[0], &scale = args.views[1], &min = args.views[2], &out = args.views[3];
        u64 at[4];
        begin_row(at, args.views, args.range.outer, row);
        const u64 line = row - whole_quotient(row, args.m) * args.m;
        const i64 cell = (i64)whole_quotient(line, args.height) * args.down + (i64)(column / args.width) * scale.inner;
        const f32 factor = load_as(scale.dtype, at[1] + (u64)(cell * (i64)width_of(scale.dtype)));
        f32 v[SIDE];
        if (min.present) {
            const f32 least = load_as(min.dtype, along(min, at[2], column / args.width));
            const u32 word = load_global_u32(along(x, at[0], column / SIDE));
#pragma unroll
            for (u32 j = 0; j < SIDE; j++) {
                v[j] = (f32)(word >> 4 * j & 15) * factor + least;
            }
        } else {
            u32 words[2];
            load_bits<1, SIDE>(words, along(x, at[0], column), x.inner, n);
#pragma unroll
            for (u32 j = 0; j < SIDE; j++) {
                v[j] = f32_of_byte(x.dtype, words[j / 4] >> j % 4 * 8 & 0xff) * factor;
            }
        }
        store_values(out.dtype, along(out, at[3], column), out.inner, n, v);
    });
}

}  // namespace quantize
