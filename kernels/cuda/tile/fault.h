// The fault of a launch: three words of the executor's that hold the first index that was out of range. What the kernels
// do with such an index is theirs; none ever forms an address.
#pragma once

#include "cuda/ptx.h"

// Tells of a value that is not below its bound: taken, value, bound. Those who come later leave the first.
DEVICE void report_fault(u64 fault, u32 value, u32 bound) {
    if (exchange_global_u32(fault, 1) == 0) {
        store_global_u32(fault + 4, value);
        store_global_u32(fault + 8, bound);
    }
}
