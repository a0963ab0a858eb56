// Types of fixed width and the words that mark functions, for compilers that are given no headers.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;
using f32 = float;

static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(u64) == 8, "types of fixed width");

// Eight and sixteen bytes that move by one instruction.
struct alignas(8) u32x2 {
    u32 x, y;
};
struct alignas(16) u32x4 {
    u32 x, y, z, w;
};

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define PARAMETER(type) const __grid_constant__ type
// An entry point whose blocks have this many threads, of which at least this many fit on a multiprocessor.
#define KERNEL(name, threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks) name
// The same, so many blocks a cluster.
#define KERNEL_OF_CLUSTER(name, threads, blocks, cluster) \
    extern "C" __global__ void __cluster_dims__(cluster, 1, 1) __launch_bounds__(threads, blocks) name
#else
#define DEVICE static inline
#define DEVICE_MEMBER inline
#define PARAMETER(type) const type
#define KERNEL(name, threads, blocks) static void name
#define KERNEL_OF_CLUSTER(name, threads, blocks, cluster) static void name
#endif
