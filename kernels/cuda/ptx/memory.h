// Loads and stores. Shared memory is named by 32-bit addresses, never by C++ pointers: the host model sees every touch.
#pragma once

#include "cuda/types.h"

extern __shared__ __align__(1024) u8 dynamic_shared[];

// Address of the block's dynamic shared memory.
DEVICE u32 shared_base() {
    u64 at;
    asm("cvta.to.shared.u64 %0, %1;" : "=l"(at) : "l"(dynamic_shared));
    return (u32)at;
}

DEVICE void store_shared(u32 at, u32x4 v) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

DEVICE void store_shared(u32 at, f32 x, f32 y) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(x), "f"(y) : "memory");
}

DEVICE void store_shared_u32(u32 at, u32 v) { asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(v) : "memory"); }

DEVICE void store_shared_f32(u32 at, f32 v) { asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(v) : "memory"); }

DEVICE u32 load_shared_u32(u32 at) {
    u32 v;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}

DEVICE u32x4 load_shared_u32x4(u32 at) {
    u32x4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
    return v;
}

DEVICE f32 load_shared_f32(u32 at) {
    f32 v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
    return v;
}

DEVICE u8 load_global_u8(u64 at) {
    u32 v;
    asm volatile("ld.global.u8 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return (u8)v;
}

DEVICE u16 load_global_u16(u64 at) {
    u16 v;
    asm volatile("ld.global.u16 %0, [%1];" : "=h"(v) : "l"(at) : "memory");
    return v;
}

DEVICE u32 load_global_u32(u64 at) {
    u32 v;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}

DEVICE u32x2 load_global_u32x2(u64 at) {
    u32x2 v;
    asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at) : "memory");
    return v;
}

DEVICE u32x4 load_global_u32x4(u64 at) {
    u32x4 v;
    asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at) : "memory");
    return v;
}

DEVICE f32 load_global_f32(u64 at) {
    f32 v;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(at) : "memory");
    return v;
}

DEVICE void store_global_u8(u64 at, u8 v) {
    asm volatile("st.global.u8 [%0], %1;" ::"l"(at), "r"((u32)v) : "memory");
}

DEVICE void store_global_u16(u64 at, u16 v) {
    asm volatile("st.global.u16 [%0], %1;" ::"l"(at), "h"(v) : "memory");
}

DEVICE void store_global_u32(u64 at, u32 v) {
    asm volatile("st.global.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}

DEVICE void store_global_u32x2(u64 at, u32x2 v) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(at), "r"(v.x), "r"(v.y) : "memory");
}

DEVICE void store_global_u32x4(u64 at, u32x4 v) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

DEVICE void store_global_f32(u64 at, f32 v) {
    asm volatile("st.global.f32 [%0], %1;" ::"l"(at), "f"(v) : "memory");
}

// Stores and returns what was there before, as one step.
DEVICE u32 exchange_global_u32(u64 at, u32 v) {
    u32 before;
    asm volatile("atom.global.exch.b32 %0, [%1], %2;" : "=r"(before) : "l"(at), "r"(v) : "memory");
    return before;
}

// Loads where `is`, else 0, without a branch.
DEVICE f32 load_global_f32_if(bool is, u64 at) {
    f32 v;
    asm volatile(
        "{\n"
        ".reg .pred is;\n"
        "setp.ne.b32 is, %2, 0;\n"
        "mov.f32 %0, 0f00000000;\n"
        "@is ld.global.f32 %0, [%1];\n"
        "}" : "=f"(v) : "l"(at), "r"((u32)is) : "memory");
    return v;
}

// Leaves the larger of what is there and `v`, as one step.
DEVICE void max_global_u32(u64 at, u32 v) {
    asm volatile("red.global.max.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}
