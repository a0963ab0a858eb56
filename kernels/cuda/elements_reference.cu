// The simple kernels of the ops that go element by element: `copy`, `map`, `gather`, `scatter`, `rope` and the way back of
// `quantize`. A thread has one element, of any type and strides, and every launch is the whole of its op. What the fast
// kernels are held to, to the bit: what becomes of an element is one function in both, where it comes from and goes is
// written here anew.
#pragma once

#include "cuda/copy.h"
#include "cuda/index.h"
#include "cuda/map.cu"
#include "cuda/quantize.h"
#include "cuda/rope.cu"
#include "cuda/streaming_reference.h"
#include "cuda/tile/byte.h"
#include "cuda/tile/fault.h"

namespace elements_reference {

using namespace streaming_reference;

// The element of a thread: `first` and `count` of the range are elements.
struct Element {
    const Range& range;
    u64 row, column;
    bool is;

    DEVICE_MEMBER Element(const Range& all) : range(all) {
        const u64 own = thread_of_launch(), index = range.first + own;
        is = own < range.count;
        row = index / range.inner;
        column = index % range.inner;
    }

    // Where it lies in a view, and where another column of its row does.
    DEVICE_MEMBER u64 in(const View& view) const { return in(view, column); }
    DEVICE_MEMBER u64 in(const View& view, u64 other) const { return address_of(view, range.outer, row, other); }
};

template <class S>
DEVICE void copy(const CopyArgs& args) {
    const Element element(args.range);
    const View &x = args.views[0], &out = args.views[1];
    if (element.is) {
        store_element(out.dtype, element.in(out), load_element(x.dtype, element.in(x)));
    }
}

template <class S>
DEVICE void map(const MapArgs& args) {
    const Element element(args.range);
    const View &x = args.views[0], &y = args.views[1], &out = args.views[2];
    if (!element.is) {
        return;
    }
    if (out.dtype == I32 || out.dtype == U32) {
        const u32 a = load_global_u32(element.in(x)), b = load_global_u32(element.in(y));
        store_global_u32(element.in(out), map::of_integers(args.function, out.dtype == I32, a, b));
    } else {
        const f32 a = load_as(x.dtype, element.in(x)), b = load_as(y.dtype, element.in(y));
        store_as(out.dtype, element.in(out), args.scale * map::of_floats(args.function, a, b) + args.shift);
    }
}

template <class S>
DEVICE void gather(const GatherArgs& args) {
    const Element element(args.range);
    const View &table = args.views[0], &index = args.views[1], &out = args.views[2];
    if (!element.is) {
        return;
    }
    const u32 which = load_global_u32(element.in(index));
    u32 bits = 0;
    if (which < args.bound) {
        bits = load_element(table.dtype, element.in(table) + (u64)((i64)which * args.step * (i64)width_of(table.dtype)));
    } else {
        report_fault(args.fault, which, args.bound);
    }
    store_element(out.dtype, element.in(out), bits);
}

// How far into out an entry lands, in elements; false where it is dropped. In an append row i of a batch entry becomes its
// key `length - rows + i`.
DEVICE bool lands(const ScatterArgs& args, u64 entry, u64 row, i64& offset) {
    const View &index = args.views[2], &lens = args.views[3];
    u64 at = address_of(index, args.range.outer, row, 0);
    offset = 0;
    if (lens.present) {
        const i64 batch = (i64)(entry / args.rows), i = (i64)(entry % args.rows);
        u32 length = load_global_u32(lens.at + (u64)(batch * lens.outer[0] * 4));
        if (length > args.room) {
            report_fault(args.fault, length, args.room + 1);
            length = args.room;
        }
        const i64 key = (i64)length - (i64)args.rows + i;
        if (key < 0) {
            return false;
        }
        at = index.at + (u64)((batch * index.outer[0] + key / args.page * index.inner) * 4);
        offset = key % args.page * args.key_step;
    }
    const u32 which = load_global_u32(at);
    if (which >= args.bound) {
        report_fault(args.fault, which, args.bound);
        return false;
    }
    offset += (i64)which * args.step;
    return true;
}

// A thread has one element of every entry, and takes the entries in order: of those that land on one place the last stays.
// Without claims there is one pass, that of the columns.
template <class S>
DEVICE void scatter(const ScatterArgs& args) {
    const u64 own = thread_of_launch(), of_entry = args.per_entry * args.range.inner;
    const View &x = args.views[0], &out = args.views[1];
    if (own >= of_entry) {
        return;
    }
    for (u64 i = 0; i < args.range.count / of_entry; i++) {
        const u64 entry = args.first_entry + i;
        const u64 row = entry * args.per_entry + own / args.range.inner, column = own % args.range.inner;
        i64 offset;
        if (lands(args, entry, row, offset)) {
            const u64 to = address_of(out, args.range.outer, row, column) + (u64)(offset * (i64)width_of(out.dtype));
            store_element(out.dtype, to, load_element(x.dtype, address_of(x, args.range.outer, row, column)));
        }
    }
}

// A thread has one column, and adds the entries in order.
template <class S>
DEVICE void scatter_add(const ScatterAddArgs& args) {
    const Element element(args.range);
    const View &x = args.columns[0], &out = args.columns[1];
    if (!element.is) {
        return;
    }
    for (u64 i = 0; i < args.entry_count; i++) {
        const u64 entry = args.first_entry + i;
        const u32 which = load_global_u32(address_of(args.along[1], args.entries, entry, 0));
        if (which >= args.bound) {
            report_fault(args.fault, which, args.bound);
            continue;
        }
        const u64 from = element.in(x) + (address_of(args.along[0], args.entries, entry, 0) - args.along[0].at);
        const u64 to = element.in(out) + (u64)((i64)which * args.step * 4);
        store_global_f32(to, load_global_f32(to) + load_as(x.dtype, from));
    }
}

// A thread has a pair, or an element that does not turn.
template <class S>
DEVICE void rope(const RopeArgs& args) {
    const Element element(args.range);
    const View &x = args.views[0], &position = args.views[1], &out = args.views[2];
    const u64 pairs = args.dims / 2, padded = (pairs + 7) / 8 * 8, k = element.column;
    if (!element.is || (k >= pairs && k < padded)) {
        return;
    }
    if (k >= padded) {
        const u64 column = args.dims + k - padded;
        return store_as(out.dtype, element.in(out, column), load_as(x.dtype, element.in(x, column)));
    }
    const u64 first = args.interleaved ? 2 * k : k, second = args.interleaved ? 2 * k + 1 : k + pairs;
    const u32 word = load_global_u32(element.in(position));
    const u64 turns = (u64)load_global_u32(args.turns + k * 8 + 4) << 32 | load_global_u32(args.turns + k * 8);
    // Of a turn, in 2^-64, and its first 32 bits, rounded.
    const u64 angle = (position.dtype == I32 ? (u64)(i64)(i32)word : word) * turns;
    f32 sine, cosine;
    rope::sine_cosine((u32)((angle + 0x80000000u) >> 32), sine, cosine);
    const f32 a = load_as(x.dtype, element.in(x, first)), b = load_as(x.dtype, element.in(x, second));
    store_as(out.dtype, element.in(out, first), a * cosine - b * sine);
    store_as(out.dtype, element.in(out, second), a * sine + b * cosine);
}

template <class S>
DEVICE void dequantize(const DequantizeArgs& args) {
    const Element element(args.range);
    const View &x = args.views[0], &scale = args.views[1], &min = args.views[2], &out = args.views[3];
    if (!element.is) {
        return;
    }
    const u64 across = element.column / args.width, down = element.row % args.m / args.height;
    const u64 scale_at = element.in(scale, across) + (u64)((i64)down * args.down * (i64)width_of(scale.dtype));
    const f32 factor = load_as(scale.dtype, scale_at);
    f32 v;
    if (min.present) {
        const u32 word = load_global_u32(element.in(x, element.column / 8));
        v = (f32)(word >> element.column % 8 * 4 & 15) * factor + load_as(min.dtype, element.in(min, across));
    } else {
        v = f32_of_byte(x.dtype, load_global_u8(element.in(x))) * factor;
    }
    store_as(out.dtype, element.in(out), v);
}

}  // namespace elements_reference
