// The simple kernels of the ops along rows: `norm`, `norm_backward`, `softmax`, `reduce`, `arg_max`, `top_k` and `quantize`.
// A thread has a row, or a cell of a matrix, of any length, type and strides, and walks it from left to right as often as it
// needs: one pass, no pieces, no state. What the fast kernels are held to.
//
// Sums are f64, so that their order is nobody's concern; all else is f32, as in the fast kernels.
#pragma once

#include "cuda/quantize.h"
#include "cuda/rows.h"
#include "cuda/streaming_reference.h"
#include "cuda/tile/byte.h"
#include "cuda/tile/functions.h"

namespace rows_reference {

using namespace streaming_reference;
using f64 = double;

// A row of a view.
struct Line {
    const View& view;
    u64 at;

    DEVICE_MEMBER u64 of(u64 column) const { return at + (u64)((i64)column * view.inner * (i64)width_of(view.dtype)); }
    DEVICE_MEMBER f32 load(u64 column) const { return load_as(view.dtype, of(column)); }
    DEVICE_MEMBER void store(u64 column, f32 v) const { store_as(view.dtype, of(column), v); }
};

// The row of a thread.
struct Row {
    const Rows& rows;
    u64 number;
    bool is;

    DEVICE_MEMBER Row(const Rows& all) : rows(all) {
        const u64 own = thread_of_launch();
        number = rows.first + own;
        is = own < rows.count;
    }

    DEVICE_MEMBER Line in(const View& view) const { return {view, address_of(view, rows.outer, number, 0)}; }
};

// Calls f with the thread's row, if it has one, and with its lines in the first two views.
template <class A, class F>
DEVICE void with_row(const A& args, F f) {
    const Row row(args.rows);
    if (row.is) {
        f(row, row.in(args.views[0]), row.in(args.views[1]));
    }
}

struct Moments {
    f32 mean, factor;
};

DEVICE Moments moments_of(const Line& x, u64 n, u32 layer, f32 epsilon) {
    f64 sum = 0.0, squares = 0.0;
    for (u64 i = 0; layer && i < n; i++) {
        sum += x.load(i);
    }
    const f32 mean = divided((f32)sum, (f32)n);
    for (u64 i = 0; i < n; i++) {
        const f64 off = x.load(i) - mean;
        squares += off * off;
    }
    return {mean, divided(1.0f, root(divided((f32)squares, (f32)n) + epsilon))};
}

template <class S>
DEVICE void norm(const NormArgs& args) {
    with_row(args, [&](const Row&, const Line& x, const Line& out) {
        const Line weight = {args.weight, args.weight.at}, bias = {args.bias, args.bias.at};
        const Moments moments = moments_of(x, args.rows.n, args.layer, args.epsilon);
        for (u64 i = 0; i < args.rows.n; i++) {
            f32 y = (x.load(i) - moments.mean) * moments.factor;
            if (args.weight.present) {
                y *= weight.load(i);
            }
            if (args.bias.present) {
                y += bias.load(i);
            }
            out.store(i, y);
        }
    });
}

template <class S>
DEVICE void norm_backward(const NormBackwardArgs& args) {
    with_row(args, [&](const Row& row, const Line& x, const Line& d_out) {
        const Line d_x = row.in(args.views[2]), terms = row.in(args.views[3]), weight = {args.weight, args.weight.at};
        const u64 n = args.rows.n;
        const Moments moments = moments_of(x, n, args.layer, args.epsilon);
        f64 along = 0.0, shift = 0.0;
        for (u64 i = 0; i < n; i++) {
            const f32 y = (x.load(i) - moments.mean) * moments.factor;
            const f32 g = d_out.load(i) * (args.weight.present ? weight.load(i) : 1.0f);
            along += (f64)g * y;
            shift += g;
        }
        const f32 of_y = divided((f32)along, (f32)n), of_all = args.layer ? divided((f32)shift, (f32)n) : 0.0f;
        for (u64 i = 0; i < n; i++) {
            const f32 y = (x.load(i) - moments.mean) * moments.factor, d = d_out.load(i);
            const f32 g = d * (args.weight.present ? weight.load(i) : 1.0f);
            d_x.store(i, moments.factor * (g - of_all - y * of_y));
            terms.store(i, d * y);
        }
    });
}

template <class S>
DEVICE void softmax(const SoftmaxArgs& args) {
    with_row(args, [&](const Row&, const Line& x, const Line& out) {
        f32 max = -infinity();
        for (u64 i = 0; i < args.rows.n; i++) {
            max = larger(max, args.scale * x.load(i));
        }
        // Where all is hidden every exponential is 0, and so is every result.
        const f32 base = max == -infinity() ? 0.0f : max;
        f64 sum = 0.0;
        for (u64 i = 0; i < args.rows.n; i++) {
            sum += exp_of(args.scale * x.load(i) - base);
        }
        const f32 factor = sum == 0.0 ? 0.0f : divided(1.0f, (f32)sum);
        for (u64 i = 0; i < args.rows.n; i++) {
            out.store(i, exp_of(args.scale * x.load(i) - base) * factor);
        }
    });
}

// Functions by their numbers in `ReduceFn`.
enum Function : u32 { SUM, MEAN, MAX, MIN };

template <class S>
DEVICE void reduce(const ReduceArgs& args) {
    with_row(args, [&](const Row&, const Line& x, const Line& out) {
        f64 sum = 0.0;
        f32 max = -infinity(), min = infinity();
        for (u64 i = 0; i < args.rows.n; i++) {
            const f32 v = x.load(i);
            sum += v;
            max = larger(max, v);
            min = smaller(min, v);
        }
        switch (args.function) {
        case MAX: return out.store(0, max);
        case MIN: return out.store(0, min);
        case MEAN: return out.store(0, args.rows.n == 0 ? 0.0f : divided((f32)sum, (f32)args.rows.n));
        default: return out.store(0, (f32)sum);
        }
    });
}

// A number that is the larger the earlier an element goes: by IEEE 754's total order, then by its place.
DEVICE u64 order_of(const Line& x, u64 column) {
    const u32 bits = load_element(x.view.dtype, x.of(column)) << (width_of(x.view.dtype) == 2 ? 16 : 0);
    const u32 key = bits >> 31 == 1 ? ~bits : bits | 0x80000000u;
    return (u64)key << 32 | ~(u32)column;
}

// The first element of a row whose number is at most `most`.
DEVICE u64 first_of(const Line& x, u64 n, u64 most) {
    u64 first = 0;
    for (u64 i = 0; i < n; i++) {
        const u64 order = order_of(x, i);
        first = order > first && order <= most ? order : first;
    }
    return first;
}

DEVICE u32 column_of(u64 order) { return ~(u32)order; }

template <class S>
DEVICE void arg_max(const ArgMaxArgs& args) {
    const Row row(args.rows);
    if (row.is) {
        const u64 first = first_of(row.in(args.views[0]), args.rows.n, ~(u64)0);
        store_global_u32(row.in(args.views[1]).at, column_of(first));
    }
}

template <class S>
DEVICE void top_k(const TopKArgs& args) {
    with_row(args, [&](const Row& row, const Line& x, const Line& value) {
        const Line index = row.in(args.views[2]);
        u64 most = ~(u64)0;
        for (u32 i = 0; i < args.k; i++) {
            const u64 next = first_of(x, args.rows.n, most);
            store_element(value.view.dtype, value.of(i), load_element(x.view.dtype, x.of(column_of(next))));
            store_global_u32(index.of(i), column_of(next));
            most = next - 1;
        }
    });
}

// The larger of a magnitude and those of a row's columns; what is no number counts for nothing.
DEVICE f32 magnitude(const Line& x, u64 from, u64 to, f32 high) {
    for (u64 i = from; i < to; i++) {
        const f32 v = x.load(i), size = v < 0.0f ? -v : v;
        high = size > high ? size : high;
    }
    return high;
}

// The scale of a largest magnitude; 0 where that is infinite.
DEVICE f32 scale_of(f32 high, u32 dtype) { return high == infinity() ? 0.0f : divided(high, largest_of(dtype)); }

DEVICE void store_codes(const Line& x, const Line& out, u64 from, u64 to, f32 scale) {
    const f32 top = largest_of(out.view.dtype);
    for (u64 i = from; i < to; i++) {
        const f32 code = scale == 0.0f ? 0.0f : clamped(divided(x.load(i), scale), -top, top);
        store_global_u8(out.of(i), (u8)byte_of(out.view.dtype, code));
    }
}

// Where the tensor has one scale, every thread finds it anew.
template <class S>
DEVICE void quantize_rows(const QuantizeRowsArgs& args) {
    const Row row(args.rows);
    if (!row.is) {
        return;
    }
    const View& x = args.views[0];
    const Line out = row.in(args.views[1]), scale = row.in(args.views[2]);
    u64 first = row.number, count = 1;
    if (args.tensor) {
        first = 0;
        for (u32 axis = 0; axis < args.rows.outer.rank; axis++) {
            count *= args.rows.outer.sizes[axis];
        }
    }
    f32 high = 0.0f;
    for (u64 i = first; i < first + count; i++) {
        high = magnitude({x, address_of(x, args.rows.outer, i, 0)}, 0, args.rows.n, high);
    }
    const f32 factor = scale_of(high, out.view.dtype);
    if (row.number == first) {
        store_global_f32(scale.at, factor);
    }
    store_codes(row.in(x), out, 0, args.rows.n, factor);
}

// Formats by their numbers in `QuantizeFormat`.
enum Format : u32 { TENSOR, ROW, BLOCK_1X128, BLOCK_128X128, GROUP_32 };

// The cell of a thread: `first` and `count` of the launch are cells.
struct Cell {
    const QuantizeCellsArgs& args;
    // Of its matrix, and of the cells of that.
    u64 matrix, row, column;
    // Its rows and columns.
    u64 top, bottom, left, right;
    bool is;

    DEVICE_MEMBER Cell(const QuantizeCellsArgs& all) : args(all) {
        const u64 own = thread_of_launch(), number = args.first + own;
        const u64 height = args.format == BLOCK_128X128 ? 128 : 1, width = args.format == GROUP_32 ? 32 : 128;
        const u64 across = (args.n + width - 1) / width, down = (args.m + height - 1) / height;
        is = own < args.count;
        column = number % across, row = number / across % down, matrix = number / across / down;
        top = row * height, bottom = args.m - top < height ? args.m : top + height;
        left = column * width, right = args.n - left < width ? args.n : left + width;
    }

    // A row of the matrix in a view, by the view's own rows.
    DEVICE_MEMBER Line in(const View& view, u64 down) const {
        const i64 offset = (i64)down * view.outer[args.outer.rank] * (i64)width_of(view.dtype);
        return {view, address_of(view, args.outer, matrix, 0) + (u64)offset};
    }
};

// The nearest of 0 to 15 to `(x - low) / ((high - low) / 15)`, ties to even: the last whose lower half it passes.
DEVICE u32 code_of(f64 x, f64 low, f64 high) {
    const f64 above = 15.0 * (x - low), range = high - low;
    u32 code = 0;
    for (u32 i = 1; i < 16; i++) {
        const f64 half = (i - 0.5) * range;
        code = range > 0.0 && (above > half || (above == half && i % 2 == 0)) ? i : code;
    }
    return code;
}

// A group of 32 of one row.
DEVICE void quantize_group(const Cell& cell) {
    const View* views = cell.args.views;
    const Line x = cell.in(views[0], cell.row), out = cell.in(views[1], cell.row);
    f32 low = infinity(), high = -infinity();
    for (u64 i = cell.left; i < cell.right; i++) {
        const f32 v = x.load(i);
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    cell.in(views[2], cell.row).store(cell.column, divided(high - low, 15.0f));
    cell.in(views[3], cell.row).store(cell.column, low);
    for (u64 i = cell.left; i < cell.right; i += 8) {
        u32 word = 0;
        for (u32 j = 0; j < 8; j++) {
            word |= code_of(x.load(i + j), low, high) << 4 * j;
        }
        store_global_u32(out.of(i / 8), word);
    }
}

template <class S>
DEVICE void quantize_cells(const QuantizeCellsArgs& args) {
    const Cell cell(args);
    if (!cell.is) {
        return;
    }
    if (args.format == GROUP_32) {
        return quantize_group(cell);
    }
    const View &x = args.views[0], &out = args.views[1];
    f32 high = 0.0f;
    for (u64 row = cell.top; row < cell.bottom; row++) {
        high = magnitude(cell.in(x, row), cell.left, cell.right, high);
    }
    const f32 factor = scale_of(high, out.dtype);
    store_global_f32(cell.in(args.views[2], cell.row).of(cell.column), factor);
    for (u64 row = cell.top; row < cell.bottom; row++) {
        store_codes(cell.in(x, row), cell.in(out, row), cell.left, cell.right, factor);
    }
}

}  // namespace rows_reference
