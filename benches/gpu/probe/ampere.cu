// Sections that every GPU from compute capability 8.0 answers: warps, memory, conversions, fragments, copies.
#pragma once

#include "cuda/tile/fragment.h"
#include "probe.h"

using namespace probe;

KERNEL(identity, 64, 1)(PARAMETER(ProbeArgs) args) {
    const u32 at = block_index() * 64 + thread_index();
    put(args, at, thread_index() | block_index() << 8 | block_count() << 16);
}

KERNEL(shuffles, 32, 1)(PARAMETER(ProbeArgs) args) {
    const u32 lane = thread_index(), value = lane * 0x01030507 + 11;
    for (u32 mask = 0; mask < 32; mask++) {
        put(args, mask * 32 + lane, shuffle_xor(value, mask));
    }
    put(args, 32 * 32 + lane, first_lane(value));
    put(args, 33 * 32 + lane, shuffle_from(value, (lane * 7 + 3) % 32));
    put(args, 34 * 32 + lane, anew(value));
}

KERNEL(shared_window, 32, 1)(PARAMETER(ProbeArgs) args) {
    if (thread_index() == 0) {
        put(args, 0, shared_base());
    }
}

KERNEL(global_loads, 32, 1)(PARAMETER(ProbeArgs) args) {
    const u32 t = thread_index();
    put(args, t, load_global_u16(args.in + 2 * t) | (u32)load_global_u8(args.in + t) << 16);
    put(args, 32 + t, load_global_u32(args.in + 4 * t));
    put(args, 64 + t, bits_of(load_global_f32(args.in + 4 * t)));
    put(args, 96 + t, bits_of(load_global_f32_if(t % 3 == 0, args.in + 4 * t)));
    const u32x4 four = load_global_u32x4(args.in + 16 * t);
    const u32 words[4] = {four.x, four.y, four.z, four.w};
    for (u32 i = 0; i < 4; i++) {
        put(args, 128 + 4 * t + i, words[i]);
    }
    const u32x2 two = load_global_u32x2(args.in + 8 * t);
    put(args, 256 + 2 * t, two.x);
    put(args, 257 + 2 * t, two.y);
}

KERNEL(global_stores, 32, 1)(PARAMETER(ProbeArgs) args) {
    const u32 t = thread_index();
    store_global_u16(args.out + 2 * t, (u16)(0x8000 + t));
    store_global_u32(args.out + 64 + 4 * t, 0x80000000u + t);
    store_global_f32(args.out + 192 + 4 * t, 0.5f + (f32)t);
    store_global_u8(args.out + 320 + t, (u8)(200 + t));
    store_global_u32x2(args.out + 352 + 8 * t, {t, 1000 + t});
    store_global_u32x4(args.out + 608 + 16 * t, {t, 2000 + t, 3000 + t, 4000 + t});
}

// Of threads that take turns by themselves: what each found is not told, only what is left, and that nothing was lost.
KERNEL(single_steps, 32, 1)(PARAMETER(ProbeArgs) args) {
    const u32 t = thread_index();
    max_global_u32(args.out, 77 * (t + 5) % 101);
    const u32 before = exchange_global_u32(args.out + 4, t + 1);
    // Every number but the last one that was left is found once.
    put(args, 2 + before, 1);
    sync_warp();
    if (t == 0) {
        const u32 left = load_global_u32(args.out + 4);
        put(args, 2 + left, 1);
        put(args, 1, 0);
    }
}

KERNEL(shared_memory, 32, 1)(PARAMETER(ProbeArgs) args) {
    const u32 t = thread_index(), base = shared_base();
    store_shared(base + 16 * t, u32x4{t, 100 + t, 200 + t, 300 + t});
    store_shared(base + 512 + 8 * t, (f32)t, -(f32)t);
    sync_warp();
    for (u32 i = 0; i < 6; i++) {
        put(args, i * 32 + t, bits_of(load_shared_f32(base + 4 * (i * 32 + (t ^ 5)))));
    }
    store_shared_u32(base + 768 + 4 * t, 5000 + t);
    store_shared_f32(base + 896 + 4 * t, 0.25f * (f32)t);
    sync_warp();
    put(args, 192 + t, load_shared_u32(base + 768 + 4 * (t ^ 9)));
    put(args, 352 + t, load_shared_u32(base + 896 + 4 * (t ^ 17)));
    const u32x4 four = load_shared_u32x4(base + 16 * (t ^ 3));
    const u32 words[4] = {four.x, four.y, four.z, four.w};
    for (u32 i = 0; i < 4; i++) {
        put(args, 224 + 4 * t + i, words[i]);
    }
}

// Of every number but those that are not numbers.
KERNEL(conversions, 32, 1)(PARAMETER(ProbeArgs) args) {
    for (u32 i = thread_index(); i < args.finite; i += 32) {
        const f32 x = number(args, i), y = number(args, (i + 7) % args.finite);
        put(args, 4 * i, bf16_of(x) | (u32)f16_of(x) << 16);
        put(args, 4 * i + 1, bf16_pair(x, y));
        put(args, 4 * i + 2, f16_pair(x, y));
        put(args, 4 * i + 3, bits_of(round_even(x)));
    }
}

// Of the same: what tf32 keeps of them. What its register holds below is not said.
KERNEL(roundings, 32, 1)(PARAMETER(ProbeArgs) args) {
    for (u32 i = thread_index(); i < args.finite; i += 32) {
        put(args, i, tf32_of(number(args, i)) & ~0x1fffu);
    }
}

// Of one in 67 of the numbers of sixteen bits that are numbers.
KERNEL(widenings, 32, 1)(PARAMETER(ProbeArgs) args) {
    for (u32 i = thread_index(); i < 0x10000 / 67; i += 32) {
        const u32 x = i * 67;
        put(args, i, (x >> 10 & 31) == 31 ? 0 : bits_of(f32_of_f16((u16)x)));
    }
}

KERNEL(fused, 32, 1)(PARAMETER(ProbeArgs) args) {
    for (u32 i = thread_index(); i < args.finite; i += 32) {
        const f32 y = number(args, (i + 3) % args.finite), z = number(args, (i * 5 + 1) % args.finite);
        put(args, i, bits_of(fma(number(args, i), y, z)));
    }
}

// Of all numbers and those that are none, with those that are.
KERNEL(maxima, 32, 1)(PARAMETER(ProbeArgs) args) {
    for (u32 i = thread_index(); i < args.all; i += 32) {
        put(args, i, bits_of(max_number(number(args, i), number(args, (i + 5) % args.finite))));
    }
}

KERNEL(quotients, 32, 1)(PARAMETER(ProbeArgs) args) {
    for (u32 i = thread_index(); i < args.finite; i += 32) {
        const f32 x = number(args, i), d = number(args, (i + 11) % args.finite);
        put(args, 2 * i, x == 0.0f && d == 0.0f ? 0 : bits_of(divided(x, d)));
        put(args, 2 * i + 1, bits_of(root(f32_of_bits(bits_of(x) & 0x7fffffff))));
    }
}

KERNEL(reciprocals, 32, 1)(PARAMETER(ProbeArgs) args) {
    for (u32 i = thread_index(); i < args.finite; i += 32) {
        put(args, i, bits_of(reciprocal(number(args, i))));
    }
}

// Of small numbers too: most of the others are 0 or infinite.
KERNEL(exponentials, 32, 1)(PARAMETER(ProbeArgs) args) {
    for (u32 i = thread_index(); i < args.finite; i += 32) {
        put(args, 2 * i, bits_of(exp2_of(number(args, i))));
        put(args, 2 * i + 1, bits_of(exp2_of((f32)i * 1.0625f - 127.0f)));
    }
}

KERNEL(logarithms, 32, 1)(PARAMETER(ProbeArgs) args) {
    for (u32 i = thread_index(); i < args.finite; i += 32) {
        put(args, 2 * i, bits_of(log2_of(number(args, i))));
        put(args, 2 * i + 1, bits_of(log2_of(0.5f + (f32)i * 0.00732421875f)));
    }
}

// What the functions make of infinities and of what is no number.
KERNEL(not_numbers, 32, 1)(PARAMETER(ProbeArgs) args) {
    const u32 i = args.finite + thread_index();
    if (i < args.all) {
        const f32 x = number(args, i);
        const u32 words[8] = {
            bf16_of(x) | (u32)f16_of(x) << 16, bits_of(f32_of_f16((u16)(bits_of(x) >> 16))), bits_of(fma(x, 1.0f, 0.0f)),
            bits_of(x + 1.0f), bits_of(round_even(x)), bits_of(reciprocal(x)), bits_of(exp2_of(x)), bits_of(log2_of(x)),
        };
        for (u32 j = 0; j < 8; j++) {
            put(args, 8 * thread_index() + j, words[j]);
        }
    }
}

// Rows of matrices in an order of their own; each element is its place.
DEVICE void fill_matrices() {
    const u32 t = thread_index();
    u32 words[4];
    for (u32 i = 0; i < 4; i++) {
        words[i] = (8 * t + 2 * i) | (8 * t + 2 * i + 1) << 16;
    }
    store_shared(shared_base() + 16 * t, u32x4{words[0], words[1], words[2], words[3]});
    sync_block();
}

KERNEL(matrices, 32, 1)(PARAMETER(ProbeArgs) args) {
    fill_matrices();
    u32 plain[4], transposed[4];
    const u32 row = shared_base() + thread_index() * 5 % 32 * 16;
    load_matrices(plain, row);
    load_matrices_transposed(transposed, row);
    for (u32 i = 0; i < 4; i++) {
        put(args, 4 * thread_index() + i, plain[i]);
        put(args, 128 + 4 * thread_index() + i, transposed[i]);
    }
}

// Small whole numbers, so that sums are exact in any order.
template <class F>
DEVICE void whole_products(const ProbeArgs& args, u32 at, u16 (*narrow)(f32), F multiply) {
    const u32 lane = thread_index();
    const auto pair = [&](u32 index) {
        const u32 low = narrow((f32)((i32)(index * 7 % 13) - 6)), high = narrow((f32)((i32)((index + 1) * 7 % 13) - 6));
        return low | high << 16;
    };
    u32 a[4], b[2];
    for (u32 i = 0; i < 4; i++) {
        a[i] = pair(lane * 8 + 2 * i);
    }
    for (u32 i = 0; i < 2; i++) {
        b[i] = pair(1000 + lane * 4 + 2 * i);
    }
    f32 sums[4] = {(f32)lane, 1.0f, -2.0f, 0.5f};
    multiply(sums, a, b);
    for (u32 i = 0; i < 4; i++) {
        put(args, at + 4 * lane + i, bits_of(sums[i]));
    }
}

KERNEL(products, 32, 1)(PARAMETER(ProbeArgs) args) {
    whole_products(args, 0, narrow_to_bf16, [](f32(&sums)[4], const u32(&a)[4], const u32(&b)[2]) { mma_bf16(sums, a, b); });
    whole_products(args, 128, narrow_to_f16, [](f32(&sums)[4], const u32(&a)[4], const u32(&b)[2]) { mma_f16(sums, a, b); });
}

// The same of words.
KERNEL(word_products, 32, 1)(PARAMETER(ProbeArgs) args) {
    const u32 lane = thread_index();
    const auto whole = [](u32 index) { return tf32_of((f32)((i32)(index * 7 % 13) - 6)); };
    u32 a[4], b[2];
    for (u32 i = 0; i < 4; i++) {
        a[i] = whole(lane * 4 + i);
    }
    for (u32 i = 0; i < 2; i++) {
        b[i] = whole(1000 + lane * 2 + i);
    }
    f32 sums[4] = {(f32)lane, 1.0f, -2.0f, 0.5f};
    mma_tf32(sums, a, b);
    for (u32 i = 0; i < 4; i++) {
        put(args, 4 * lane + i, bits_of(sums[i]));
    }
}

// Bytes that are their places, and sums that they bring to both ends of their range.
KERNEL(byte_products, 32, 1)(PARAMETER(ProbeArgs) args) {
    const u32 lane = thread_index();
    u32 a[4] = {}, b[2] = {};
    for (u32 i = 0; i < 16; i++) {
        a[i / 4] |= (lane * 37 + i * 11 + 5) % 256 << i % 4 * 8;
    }
    for (u32 i = 0; i < 8; i++) {
        b[i / 4] |= (lane * 53 + i * 29 + 3) % 256 << i % 4 * 8;
    }
    i32 sums[4] = {(i32)lane, 0x7fffffff, -0x7fffffff, -5};
    mma_i8(sums, a, b);
    for (u32 i = 0; i < 4; i++) {
        put(args, 4 * lane + i, (u32)sums[i]);
    }
}

KERNEL(pair_products, 32, 1)(PARAMETER(ProbeArgs) args) {
    for (u32 i = thread_index(); i + 3 < args.finite; i += 32) {
        const u32 a = f16_pair(number(args, i), number(args, i + 1)), b = f16_pair(number(args, i + 2), number(args, i + 3));
        // None that is infinite: infinity times zero is no number, whose bits are not said.
        const u32 held = 0xbfffbfff;
        put(args, i, product_of_f16_pairs(a & held, b & held));
    }
}

// How sums of very different sizes are rounded: all of A is 1, columns of B fall along k with both signs.
KERNEL(product_rounding, 32, 1)(PARAMETER(ProbeArgs) args) {
    const u32 lane = thread_index();
    const u32 ones = f16_pair(1.0f, 1.0f), a[4] = {ones, ones, ones, ones};
    u32 b[2];
    for (u32 i = 0; i < 2; i++) {
        const i32 column = (i32)fragment::b_column(lane), row = (i32)fragment::b_row(lane, 2 * i);
        b[i] = f16_pair(power(column - row / 2), -power(column - row - 1));
    }
    f32 sums[4] = {1.0f + (f32)lane, 16777215.0f, -3.0000002f, 0.33333334f};
    mma_f16(sums, a, b);
    for (u32 i = 0; i < 4; i++) {
        put(args, 4 * lane + i, bits_of(sums[i]));
    }
}

// Copies of 0 to 16 bytes over words that are all ones.
KERNEL(copies, 32, 1)(PARAMETER(ProbeArgs) args) {
    const u32 t = thread_index(), to = shared_base() + 16 * t;
    store_shared(to, u32x4{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff});
    copy_async16(to, args.in + 16 * t, t < 16 ? t : 16);
    commit_copies();
    wait_copies<0>();
    sync_block();
    for (u32 i = 0; i < 4; i++) {
        put(args, 4 * t + i, bits_of(load_shared_f32(to + 4 * i)));
    }
}
