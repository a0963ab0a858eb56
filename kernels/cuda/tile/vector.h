// Up to N elements of a row, to and from registers: by the widest accesses where all N are there, dense and aligned, else
// one by one. Which it is changes no bit.
#pragma once

#include "cuda/ptx.h"
#include "cuda/tile/element.h"

template <u32 WIDTH>
DEVICE u32 load_one(u64 at) {
    if constexpr (WIDTH == 1) {
        return load_global_u8(at);
    } else if constexpr (WIDTH == 2) {
        return load_global_u16(at);
    } else {
        return load_global_u32(at);
    }
}

template <u32 WIDTH>
DEVICE void store_one(u64 at, u32 v) {
    if constexpr (WIDTH == 1) {
        store_global_u8(at, (u8)v);
    } else if constexpr (WIDTH == 2) {
        store_global_u16(at, (u16)v);
    } else {
        store_global_u32(at, v);
    }
}

// Whether elements are there for the widest accesses: 16 bytes, or all of them.
template <u32 WIDTH, u32 N>
DEVICE bool is_wide(u64 at, i64 step, u32 n) {
    constexpr u32 BYTES = N * WIDTH < 16 ? N * WIDTH : 16;
    return step == 1 && n == N && at % BYTES == 0;
}

// N elements that are there for the widest accesses, as words.
template <u32 WORDS>
DEVICE void load_wide(u32 (&words)[WORDS], u64 at) {
    if constexpr (WORDS == 1) {
        words[0] = load_global_u32(at);
    } else if constexpr (WORDS == 2) {
        const u32x2 v = load_global_u32x2(at);
        words[0] = v.x, words[1] = v.y;
    } else {
#pragma unroll
        for (u32 i = 0; i < WORDS; i += 4) {
            const u32x4 v = load_global_u32x4(at + 4 * i);
            words[i] = v.x, words[i + 1] = v.y, words[i + 2] = v.z, words[i + 3] = v.w;
        }
    }
}

template <u32 WORDS>
DEVICE void store_wide(u64 at, const u32 (&words)[WORDS]) {
    if constexpr (WORDS == 1) {
        store_global_u32(at, words[0]);
    } else if constexpr (WORDS == 2) {
        store_global_u32x2(at, {words[0], words[1]});
    } else {
#pragma unroll
        for (u32 i = 0; i < WORDS; i += 4) {
            store_global_u32x4(at + 4 * i, {words[i], words[i + 1], words[i + 2], words[i + 3]});
        }
    }
}

// The first n of N elements of WIDTH bytes, `step` elements apart, in words; the others are zeros.
template <u32 WIDTH, u32 N>
DEVICE void load_bits(u32 (&words)[N * WIDTH / 4], u64 at, i64 step, u32 n) {
    if (is_wide<WIDTH, N>(at, step, n)) {
        return load_wide(words, at);
    }
    constexpr u32 OF_WORD = 4 / WIDTH;
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        const u32 v = i < n ? load_one<WIDTH>(at + (u64)((i64)i * step * (i64)WIDTH)) : 0;
        const u32 place = i % OF_WORD * 8 * WIDTH;
        words[i / OF_WORD] = i % OF_WORD == 0 ? v : words[i / OF_WORD] | v << place;
    }
}

template <u32 WIDTH, u32 N>
DEVICE void store_bits(u64 at, i64 step, u32 n, const u32 (&words)[N * WIDTH / 4]) {
    if (is_wide<WIDTH, N>(at, step, n)) {
        return store_wide(at, words);
    }
    constexpr u32 OF_WORD = 4 / WIDTH;
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        if (i < n) {
            store_one<WIDTH>(at + (u64)((i64)i * step * (i64)WIDTH), words[i / OF_WORD] >> i % OF_WORD * 8 * WIDTH);
        }
    }
}

// An integer that orders as IEEE 754's total order orders the float whose bits these are, at the top of a word.
DEVICE u32 key_of(u32 bits) { return bits ^ (bits >> 31 == 1 ? 0xffffffffu : 0x80000000u); }

// Words of a float type as values: as f32, or as keys.
template <u32 N>
DEVICE void unpack_32(f32 (&v)[N], const u32 (&words)[N]) {
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        v[i] = f32_of_bits(words[i]);
    }
}

template <u32 N>
DEVICE void unpack_32(u32 (&v)[N], const u32 (&words)[N]) {
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        v[i] = key_of(words[i]);
    }
}

template <u32 N>
DEVICE void unpack_16(f32 (&v)[N], u32 dtype, const u32 (&words)[N / 2]) {
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        const u32 bits = i % 2 == 0 ? words[i / 2] & 0xffff : words[i / 2] >> 16;
        v[i] = dtype == BF16 ? f32_of_bits(bits << 16) : f32_of_f16((u16)bits);
    }
}

template <u32 N>
DEVICE void unpack_16(u32 (&v)[N], u32, const u32 (&words)[N / 2]) {
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        v[i] = key_of(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
    }
}

// The first n of N elements of a float type; the others are zeros, or what their bits are a key of.
template <u32 N, class T>
DEVICE void load_values(T (&v)[N], u32 dtype, u64 at, i64 step, u32 n) {
    if (dtype == F32) {
        u32 words[N];
        load_bits<4, N>(words, at, step, n);
        unpack_32(v, words);
    } else {
        u32 words[N / 2];
        load_bits<2, N>(words, at, step, n);
        unpack_16(v, dtype, words);
    }
}

template <u32 N>
DEVICE void store_values(u32 dtype, u64 at, i64 step, u32 n, const f32 (&v)[N]) {
    if (dtype == F32) {
        u32 words[N];
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            words[i] = bits_of(v[i]);
        }
        store_bits<4, N>(at, step, n, words);
    } else {
        u32 words[N / 2];
#pragma unroll
        for (u32 i = 0; i < N; i += 2) {
            words[i / 2] = dtype == BF16 ? bf16_pair(v[i], v[i + 1]) : f16_pair(v[i], v[i + 1]);
        }
        store_bits<2, N>(at, step, n, words);
    }
}
