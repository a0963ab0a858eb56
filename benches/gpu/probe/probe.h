// What the kernels of the probe are given and how they answer. Each of them is one section of the dump: it does what its
// name says on fixed inputs, and writes words from the first on.
#pragma once

#include "cuda/ptx.h"

struct ProbeArgs {
    // One tensor in four swizzles: 128, 64 and 32 bytes, and none; only Hopper's kernels look.
    TensorMap maps[4];
    // The answer as such a tensor, swizzled by 128.
    TensorMap answer;
    // Numbers, as `dump.rs` lists them, and the words of the answer, zeros at first.
    u64 in, out;
    // How many numbers, all but the first few finite ones last.
    u32 finite, all;
    u32 padding[10];
};

static_assert(sizeof(ProbeArgs) == 704, "as in dump.rs");

namespace probe {

DEVICE void put(const ProbeArgs& args, u32 at, u32 word) { store_global_u32(args.out + (u64)at * 4, word); }

DEVICE f32 number(const ProbeArgs& args, u32 i) { return load_global_f32(args.in + (u64)i * 4); }

// 2^e of a normal number, exactly.
DEVICE f32 power(i32 e) { return f32_of_bits((u32)(e + 127) << 23); }

DEVICE u16 narrow_to_bf16(f32 x) { return bf16_of(x); }
DEVICE u16 narrow_to_f16(f32 x) { return f16_of(x); }

}  // namespace probe
