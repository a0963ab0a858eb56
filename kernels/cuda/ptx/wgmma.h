// Products of a warpgroup, four warps, from matrices in shared memory that descriptors name. They run behind the threads:
// `wgmma_fence` before the first one of a batch, `wgmma_commit` after the last, and nobody touches the sums before
// `wgmma_wait`. Layouts are in `cuda/tile/descriptor.h`.
#pragma once

#include "cuda/types.h"

DEVICE void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

DEVICE void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most `PENDING` of this warpgroup's committed groups run.
template <u32 PENDING>
DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Operands of an instruction that adds to 4 to 128 sums a thread: their numbers, and the sums themselves.
#define NUMBERS_4 "%0, %1, %2, %3"
#define NUMBERS_8 NUMBERS_4 ", %4, %5, %6, %7"
#define NUMBERS_16 NUMBERS_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define NUMBERS_32                                                                         \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "               \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NUMBERS_40 NUMBERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define NUMBERS_64                                                                         \
    NUMBERS_32 ", "                                                                        \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "     \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NUMBERS_128                                                                        \
    NUMBERS_64 ", "                                                                        \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "     \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "     \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "     \
    "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, " \
    "%124, %125, %126, %127"
#define SUMS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS_8(d, i) SUMS_4(d, i), SUMS_4(d, i + 4)
#define SUMS_16(d, i) SUMS_8(d, i), SUMS_8(d, i + 8)
#define SUMS_32(d, i) SUMS_16(d, i), SUMS_16(d, i + 16)
#define SUMS_40(d, i) SUMS_32(d, i), SUMS_8(d, i + 32)
#define SUMS_64(d, i) SUMS_32(d, i), SUMS_32(d, i + 32)
#define SUMS_128(d, i) SUMS_64(d, i), SUMS_64(d, i + 64)

// sums += A B of 64 by COLUMNS by 16; a matrix that is not dense along K is transposed. What follows the sums begins with
// operand number A.
#define WGMMA(TYPE, COLUMNS, SUMS, A, B, A_WAY, B_WAY)                                                           \
    template <bool A_OUTER, bool B_OUTER>                                                                        \
    DEVICE void wgmma_##TYPE(f32 (&d)[SUMS], u64 a, u64 b) {                                                     \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32." #TYPE "." #TYPE                     \
                     " {" NUMBERS_##SUMS "}, %" #A ", %" #B ", 1, 1, 1, %" #A_WAY ", %" #B_WAY ";"               \
                     : SUMS_##SUMS(d, 0)                                                                         \
                     : "l"(a), "l"(b), "n"(A_OUTER ? 1 : 0), "n"(B_OUTER ? 1 : 0)                                \
                     : "memory");                                                                                \
    }
// The same with A in registers, which stay as they are until a wait.
#define WGMMA_FROM_REGISTERS(TYPE, COLUMNS, SUMS, A0, A1, A2, A3, B, B_WAY)                                      \
    template <bool B_OUTER>                                                                                      \
    DEVICE void wgmma_##TYPE##_from_registers(f32 (&d)[SUMS], const u32 (&a)[4], u64 b) {                        \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32." #TYPE "." #TYPE " {" NUMBERS_##SUMS \
                     "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", 1, 1, 1, %" #B_WAY ";"               \
                     : SUMS_##SUMS(d, 0)                                                                         \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(B_OUTER ? 1 : 0)                  \
                     : "memory");                                                                                \
    }
#define WGMMAS(TYPE)                                                  \
    WGMMA(TYPE, 8, 4, 4, 5, 6, 7)                                     \
    WGMMA(TYPE, 16, 8, 8, 9, 10, 11)                                  \
    WGMMA(TYPE, 32, 16, 16, 17, 18, 19)                               \
    WGMMA(TYPE, 64, 32, 32, 33, 34, 35)                               \
    WGMMA(TYPE, 80, 40, 40, 41, 42, 43)                               \
    WGMMA(TYPE, 128, 64, 64, 65, 66, 67)                              \
    WGMMA(TYPE, 256, 128, 128, 129, 130, 131)                         \
    WGMMA_FROM_REGISTERS(TYPE, 64, 32, 32, 33, 34, 35, 36, 37)        \
    WGMMA_FROM_REGISTERS(TYPE, 128, 64, 64, 65, 66, 67, 68, 69)       \
    WGMMA_FROM_REGISTERS(TYPE, 256, 128, 128, 129, 130, 131, 132, 133)
WGMMAS(bf16)
WGMMAS(f16)

// Sums of 64 by COLUMNS by 32 values of 8 bits, both matrices dense along K: there is no other form of it. With ADDS they
// are added to what the sums are, else those start anew. The instruction keeps fewer bits of a sum than f32 has.
#define WGMMA_BYTES(A_TYPE, B_TYPE, COLUMNS, SUMS, A, B, ADDED)                                                          \
    template <bool ADDS>                                                                                                 \
    DEVICE void wgmma_##A_TYPE##_##B_TYPE(f32 (&d)[SUMS], u64 a, u64 b) {                                                \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k32.f32." #A_TYPE "." #B_TYPE                         \
                     " {" NUMBERS_##SUMS "}, %" #A ", %" #B ", %" #ADDED ", 1, 1;"                                       \
                     : SUMS_##SUMS(d, 0)                                                                                 \
                     : "l"(a), "l"(b), "n"(ADDS ? 1 : 0)                                                                 \
                     : "memory");                                                                                        \
    }
#define WGMMAS_BYTES(A_TYPE, B_TYPE)                    \
    WGMMA_BYTES(A_TYPE, B_TYPE, 64, 32, 32, 33, 34)     \
    WGMMA_BYTES(A_TYPE, B_TYPE, 128, 64, 64, 65, 66)
WGMMAS_BYTES(e4m3, e4m3)
WGMMAS_BYTES(e4m3, e5m2)
WGMMAS_BYTES(e5m2, e4m3)
WGMMAS_BYTES(e5m2, e5m2)
#undef WGMMAS_BYTES
#undef WGMMA_BYTES
#undef WGMMAS
#undef WGMMA_FROM_REGISTERS
#undef WGMMA
#undef SUMS_128
#undef SUMS_64
#undef SUMS_40
#undef SUMS_32
#undef SUMS_16
#undef SUMS_8
#undef SUMS_4
#undef NUMBERS_128
#undef NUMBERS_64
#undef NUMBERS_40
#undef NUMBERS_32
#undef NUMBERS_16
#undef NUMBERS_8
#undef NUMBERS_4
