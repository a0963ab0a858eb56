// Sections that Hopper answers: elections, barriers, boxes, and products of warpgroups.
#pragma once

#include "cuda/tile/byte.h"
#include "cuda/tile/descriptor.h"
#include "cuda/tile/fragment.h"
#include "probe.h"

using namespace probe;

KERNEL(elections, 64, 1)(PARAMETER(ProbeArgs) args) { put(args, thread_index(), elected() ? 1 : 0); }

DEVICE u32 made_barrier(u32 at, u32 arrivals) {
    if (thread_index() == 0) {
        init_barrier(at, arrivals);
        fence_barriers();
    }
    sync_block();
    return at;
}

// Four phases of one arrival a warp.
KERNEL(phases, 128, 1)(PARAMETER(ProbeArgs) args) {
    const u32 barrier = made_barrier(shared_base(), 4);
    for (u32 phase = 0; phase < 4; phase++) {
        if (thread_index() % 32 == phase) {
            arrive(barrier);
        }
        // The phase has ended: every warp came.
        wait_barrier(barrier, phase & 1);
        put(args, phase * 128 + thread_index(), phase + 1);
        // Nobody is two phases ahead of somebody who waits.
        sync_block();
    }
}

KERNEL(register_shares, 384, 1)(PARAMETER(ProbeArgs) args) {
    const u32 warpgroup = first_lane(thread_index() / 128);
    if (warpgroup == 0) {
        give_registers<40>();
        // The others wait for this warpgroup, and it for nobody.
        arrive_threads<2, 384>();
    } else {
        take_registers<232>();
        sync_threads<1, 256>();
        sync_threads<2, 384>();
    }
    put(args, thread_index(), warpgroup + 1);
}

constexpr u32 BOX_BYTES = 4096;

// The words of a box that begins at a place of the tensor, or before it.
template <u32 MAP>
DEVICE void put_box(const ProbeArgs& args, u32 bytes, const i32 (&place)[5]) {
    const u32 barrier = made_barrier(shared_base() + BOX_BYTES, 1);
    if (thread_index() == 0) {
        arrive_expecting(barrier, bytes);
        copy_box(shared_base(), args.maps[MAP], barrier, place);
    }
    // The box is here.
    wait_barrier(barrier, 0);
    for (u32 i = thread_index(); i < bytes / 4; i += 32) {
        put(args, i, bits_of(load_shared_f32(shared_base() + 4 * i)));
    }
}

#define BOX(name, map, bytes, ...)                     \
    KERNEL(name, 32, 1)(PARAMETER(ProbeArgs) args) {   \
        const i32 place[5] = {__VA_ARGS__};            \
        put_box<map>(args, bytes, place);           \
    }
BOX(box_inside, 0, 2048, 0, 0, 0, 0, 0)
BOX(box_before, 0, 2048, -8, -1, 1, 0, 1)
BOX(box_behind, 0, 2048, 24, 3, 2, 1, 0)
BOX(box_64, 1, 1024, 5, -1, 1, 1, 0)
BOX(box_32, 2, 512, 30, 0, 1, 0, 1)
BOX(box_unswizzled, 3, 1280, 8, 2, 0, 1, 1)
#undef BOX

// Each block of a cluster signals all of them, itself too.
KERNEL_OF_CLUSTER(cluster_signals, 32, 1, 2)(PARAMETER(ProbeArgs) args) {
    const u32 barrier = made_barrier(shared_base(), 2), t = thread_index();
    sync_cluster();
    if (t < 2) {
        arrive_at(barrier, t);
    }
    // Both came.
    wait_barrier(barrier, 0);
    put(args, block_index() * 32 + t, 1 + cluster_rank() + 16 * block_index());
}

// Each block of a cluster brings one of two boxes to both.
KERNEL_OF_CLUSTER(boxes_to_all, 32, 1, 2)(PARAMETER(ProbeArgs) args) {
    const u32 barrier = made_barrier(shared_base() + 2 * BOX_BYTES, 1), rank = cluster_rank();
    sync_cluster();
    if (thread_index() == 0) {
        const i32 place[5] = {(i32)(8 * rank), (i32)block_index(), 0, 1, 0};
        arrive_expecting(barrier, 4096);
        copy_box_to(3, shared_base() + 2048 * rank, args.maps[0], barrier, place);
    }
    // Both boxes are here.
    wait_barrier(barrier, 0);
    for (u32 i = thread_index(); i < 1024; i += 32) {
        put(args, block_index() * 1024 + i, load_shared_u32(shared_base() + 4 * i));
    }
}

// Matrices that go to shared memory as they are, and transposed.
KERNEL(matrices_out, 32, 1)(PARAMETER(ProbeArgs) args) {
    const u32 t = thread_index(), base = shared_base();
    const u32 words[4] = {0x10000 + 2 * t, 0x30002 + 2 * t, 0x50004 + 2 * t, 0x70006 + 2 * t};
    store_matrices(base + 16 * t, words);
    store_matrices_transposed(base + 512 + 16 * (t ^ 11), words);
    sync_warp();
    for (u32 i = 0; i < 8; i++) {
        put(args, i * 32 + t, load_shared_u32(base + 4 * (i * 32 + t)));
    }
}

// The answer is a tensor that a box goes to: what lies outside is not written.
DEVICE void put_tensor(const ProbeArgs& args, const i32 (&place)[5]) {
    for (u32 i = thread_index(); i < 512; i += 32) {
        store_shared_u32(shared_base() + 4 * i, 0x10000 * (2 * i + 2) + 2 * i + 1);
    }
    fence_async();
    sync_warp();
    if (thread_index() == 0) {
        store_box(args.answer, shared_base(), place);
        commit_stores();
        wait_stores_read<0>();
    }
}

KERNEL(box_out, 32, 1)(PARAMETER(ProbeArgs) args) {
    const i32 place[5] = {0, 0, 0, 0, 0};
    put_tensor(args, place);
}

KERNEL(box_out_before, 32, 1)(PARAMETER(ProbeArgs) args) {
    const i32 place[5] = {-8, -1, 2, 0, 1};
    put_tensor(args, place);
}

constexpr u32 TILE_BYTES = 32 << 10;

// Small whole numbers that tell where in memory they lie, at least from their neighbours.
DEVICE u32 whole(u32 index) { return index * 37 % 251; }

// A tile whose elements lie one after the other, and a second one of another kind behind it; both are seen by products.
template <class F>
DEVICE void fill(u32 to, u32 bytes, u16 (*narrow)(f32), F value) {
    for (u32 at = thread_index() * 16; at < bytes; at += 128 * 16) {
        u32 words[4];
        for (u32 i = 0; i < 4; i++) {
            const u32 index = at / 2 + 2 * i;
            words[i] = narrow((f32)value(index)) | (u32)narrow((f32)value(index + 1)) << 16;
        }
        store_shared(to + at, u32x4{words[0], words[1], words[2], words[3]});
    }
}

// Row i (or column) of a tile that is dense along K picks k = i % 16: by the swizzle of its chunks of 16 bytes.
DEVICE u32 unit(u32 index) {
    const u32 row = index / 64, chunk = index % 64 / 8 ^ row % 8;
    return chunk * 8 + index % 8 == row % 16 ? 1 : 0;
}

DEVICE void seen_by_products() {
    fence_async();
    sync_block();
}

// Four sums to a word: all that are right are small whole numbers, and others are not told apart.
template <u32 SUMS>
DEVICE void put_sums(const ProbeArgs& args, const f32 (&sums)[SUMS]) {
    for (u32 i = 0; i < SUMS; i += 4) {
        u32 word = 0;
        for (u32 j = 0; j < 4; j++) {
            const f32 x = sums[i + j];
            word |= (x >= 0.0f && x < 255.0f && round_even(x) == x ? (u32)x : 255) << 8 * j;
        }
        put(args, i * 32 + thread_index(), word);
    }
}

// Row i of A in registers picks k = i % 16.
DEVICE void unit_fragment(u32 (&a)[4], u16 (*narrow)(f32)) {
    const u32 t = thread_index();
    for (u32 r = 0; r < 4; r++) {
        u32 halves[2];
        for (u32 e = 0; e < 2; e++) {
            const u32 row = fragment::a_row(t % 32, 2 * r + e), k = fragment::a_column(t % 32, 2 * r + e);
            halves[e] = narrow(row % 16 == k ? 1.0f : 0.0f);
        }
        a[r] = halves[0] | halves[1] << 16;
    }
}

// What of memory is B: every row of the sums is one k of it.
template <bool OUTER, u32 SUMS, class F>
DEVICE void put_right(const ProbeArgs& args, u16 (*narrow)(f32), F multiply) {
    fill(shared_base(), TILE_BYTES, narrow, whole);
    seen_by_products();
    u32 a[4];
    unit_fragment(a, narrow);
    f32 sums[SUMS] = {};
    wgmma_fence();
    multiply(sums, a, descriptor::of(shared_base(), 2048));
    wgmma_commit();
    wgmma_wait<0>();
    put_sums(args, sums);
}

#define RIGHT(name, type, outer, count)                                                                             \
    KERNEL(name, 128, 1)(PARAMETER(ProbeArgs) args) {                                                               \
        put_right<outer, count>(args, narrow_to_##type, [](f32(&sums)[count], const u32(&a)[4], u64 b) {         \
            wgmma_##type##_from_registers<outer>(sums, a, b);                                                       \
        });                                                                                                         \
    }
RIGHT(right_dense_64, f16, false, 32)
RIGHT(right_dense_128, f16, false, 64)
RIGHT(right_outer_64, f16, true, 32)
RIGHT(right_outer_128, f16, true, 64)
RIGHT(right_bf16_64, bf16, false, 32)
RIGHT(right_bf16_128, bf16, true, 64)
#undef RIGHT

// What of memory is A, the columns of B picking its k in turn; B lies behind it.
template <bool OUTER, u32 SUMS, class F>
DEVICE void put_left(const ProbeArgs& args, u16 (*narrow)(f32), F multiply) {
    const u32 b = shared_base() + 8192;
    fill(shared_base(), 8192, narrow, whole);
    fill(b, TILE_BYTES, narrow, unit);
    seen_by_products();
    f32 sums[SUMS] = {};
    wgmma_fence();
    multiply(sums, descriptor::of(shared_base(), 2048), descriptor::of(b, 2048));
    wgmma_commit();
    wgmma_wait<0>();
    put_sums(args, sums);
}

#define LEFT(name, type, outer, count)                                                                              \
    KERNEL(name, 128, 1)(PARAMETER(ProbeArgs) args) {                                                               \
        put_left<outer, count>(args, narrow_to_##type, [](f32(&sums)[count], u64 a, u64 b) {                        \
            wgmma_##type<outer, false>(sums, a, b);                                                                 \
        });                                                                                                         \
    }
LEFT(left_dense_64, f16, false, 32)
LEFT(left_outer_64, f16, true, 32)
LEFT(left_dense_128, bf16, false, 64)
LEFT(left_outer_256, bf16, true, 128)
#undef LEFT

// How sums of very different sizes are rounded, as in `product_rounding`: row i of A halves along k, B is ones.
KERNEL(warpgroup_rounding, 128, 1)(PARAMETER(ProbeArgs) args) {
    fill(shared_base(), 8192, narrow_to_f16, [](u32) { return 1u; });
    seen_by_products();
    u32 a[4];
    const u32 t = thread_index();
    for (u32 r = 0; r < 4; r++) {
        const i32 row = (i32)fragment::a_row(t % 32, 2 * r), k = (i32)fragment::a_column(t % 32, 2 * r);
        a[r] = f16_pair(power(row % 8 - k / 2), -power(row % 8 - k - 1));
    }
    f32 sums[32];
    for (u32 i = 0; i < 32; i++) {
        sums[i] = i % 3 == 0 ? 1.0f + (f32)i : i % 3 == 1 ? 16777215.0f : 0.33333334f;
    }
    wgmma_fence();
    wgmma_f16_from_registers<false>(sums, a, descriptor::of(shared_base(), 2048));
    wgmma_commit();
    wgmma_wait<0>();
    for (u32 i = 0; i < 8; i++) {
        put(args, i * 128 + t, bits_of(sums[i]));
    }
}

// A tile of 8-bit floats: `value` of the row and of the byte in it, whose chunks of 16 are swizzled.
template <class F>
DEVICE void fill_bytes(u32 to, u32 bytes, u32 dtype, F value) {
    for (u32 at = thread_index() * 16; at < bytes; at += 128 * 16) {
        const u32 row = at / 128, first = (at % 128 / 16 ^ row % 8) * 16;
        u32 words[4] = {};
        for (u32 i = 0; i < 16; i++) {
            words[i / 4] |= byte_of(dtype, value(row, first + i)) << i % 4 * 8;
        }
        store_shared(to + at, u32x4{words[0], words[1], words[2], words[3]});
    }
}

// A whole number that both types hold, and that tells a place from its neighbours.
DEVICE f32 whole_byte(u32 row, u32 k) { return (f32)((row * 5 + k * 3 + row / 8 + k / 16) % 8); }

// Row i picks k = i % 32.
DEVICE f32 unit_byte(u32 row, u32 k) { return k == row % 32 ? 1.0f : 0.0f; }

// Rows of A by rows of B, a step of 32 bytes into both: what is left of it is added twice to sums that start anew.
template <u32 SUMS, class A, class B, class F, class G>
DEVICE void put_bytes(const ProbeArgs& args, u32 of_a, u32 of_b, A left, B right, F fresh, G more) {
    const u32 a = shared_base(), b = a + 8192;
    fill_bytes(a, 8192, of_a, left);
    fill_bytes(b, SUMS * 2 * 128, of_b, right);
    seen_by_products();
    f32 sums[SUMS];
    for (u32 i = 0; i < SUMS; i++) {
        sums[i] = 1000.0f;
    }
    wgmma_fence();
    fresh(sums, descriptor::of(a + 32, 0), descriptor::of(b, 0));
    more(sums, descriptor::of(a, 0), descriptor::of(b, 0));
    wgmma_commit();
    wgmma_wait<0>();
    put_sums(args, sums);
}

#define BYTES(name, a_type, a_number, b_type, b_number, left, right, count)                                             \
    KERNEL(name, 128, 1)(PARAMETER(ProbeArgs) args) {                                                                  \
        put_bytes<count>(                                                                                              \
            args, a_number, b_number, left, right,                                                                     \
            [](f32(&sums)[count], u64 a, u64 b) { wgmma_##a_type##_##b_type<false>(sums, a, b); },                     \
            [](f32(&sums)[count], u64 a, u64 b) { wgmma_##a_type##_##b_type<true>(sums, a, b); });                     \
    }
BYTES(bytes_left_64, e4m3, F8E4M3, e5m2, F8E5M2, whole_byte, unit_byte, 32)
BYTES(bytes_left_128, e4m3, F8E4M3, e4m3, F8E4M3, whole_byte, unit_byte, 64)
BYTES(bytes_right_64, e5m2, F8E5M2, e5m2, F8E5M2, unit_byte, whole_byte, 32)
BYTES(bytes_right_128, e5m2, F8E5M2, e4m3, F8E4M3, unit_byte, whole_byte, 64)
#undef BYTES

// By a warp: each lane's bytes are small whole numbers, or halves of them, that tell their place.
template <class F>
DEVICE void put_byte_products(const ProbeArgs& args, u32 at, u32 of_a, u32 of_b, F multiply) {
    const u32 lane = thread_index();
    u32 a[4] = {}, b[2] = {};
    for (u32 i = 0; i < 16; i++) {
        a[i / 4] |= byte_of(of_a, 0.5f * (f32)((lane * 5 + i * 3) % 9) - 2.0f) << i % 4 * 8;
    }
    for (u32 i = 0; i < 8; i++) {
        b[i / 4] |= byte_of(of_b, (f32)((lane * 3 + i * 5) % 7) - 3.0f) << i % 4 * 8;
    }
    f32 sums[4] = {(f32)lane, 1.0f, -2.0f, 0.5f};
    multiply(sums, a, b);
    for (u32 i = 0; i < 4; i++) {
        put(args, at + 4 * lane + i, bits_of(sums[i]));
    }
}

#define BYTE_PRODUCTS(at, left, right, of_a, of_b)                                                      \
    put_byte_products(args, at, of_a, of_b, [](f32(&d)[4], const u32(&a)[4], const u32(&b)[2]) {        \
        mma_##left##_##right(d, a, b);                                                                  \
    });
KERNEL(float_byte_products, 32, 1)(PARAMETER(ProbeArgs) args) {
    BYTE_PRODUCTS(0, e4m3, e4m3, F8E4M3, F8E4M3)
    BYTE_PRODUCTS(128, e4m3, e5m2, F8E4M3, F8E5M2)
    BYTE_PRODUCTS(256, e5m2, e4m3, F8E5M2, F8E4M3)
    BYTE_PRODUCTS(384, e5m2, e5m2, F8E5M2, F8E5M2)
}
#undef BYTE_PRODUCTS

// How many bits of a sum are kept: in row i of A one number and others that are 2^(i % 16) times smaller, one or all 31 of
// them, with signs or without, from zero and added to what that gave. B is ones.
KERNEL(byte_rounding, 128, 1)(PARAMETER(ProbeArgs) args) {
    const u32 a = shared_base(), b = a + 8192;
    fill_bytes(a, 8192, F8E5M2, [](u32 row, u32 k) {
        const f32 small = row < 16 && k > 1 ? 0.0f : 1.25f * power(-(i32)(row % 16));
        return k == 0 ? (row < 48 ? 1.0f : -1.75f) : row >= 32 && k % 3 == 0 ? -small : small;
    });
    fill_bytes(b, 8192, F8E4M3, [](u32, u32) { return 1.0f; });
    seen_by_products();
    f32 sums[32] = {};
    wgmma_fence();
    wgmma_e5m2_e4m3<false>(sums, descriptor::of(a, 0), descriptor::of(b, 0));
    wgmma_commit();
    wgmma_wait<0>();
    for (u32 i = 0; i < 4; i++) {
        put(args, i * 128 + thread_index(), bits_of(sums[i]));
    }
    wgmma_fence();
    wgmma_e5m2_e4m3<true>(sums, descriptor::of(a, 0), descriptor::of(b, 0));
    wgmma_commit();
    wgmma_wait<0>();
    for (u32 i = 0; i < 4; i++) {
        put(args, (4 + i) * 128 + thread_index(), bits_of(sums[i]));
    }
}
