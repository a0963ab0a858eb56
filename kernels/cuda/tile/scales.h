// The scales of 8-bit operands: factors of the sums of an outer index, over 128 of k or over all of it.
#pragma once

#include "cuda/matmul_scaled.h"
#include "cuda/ptx.h"

// Elements of k that a scale along K covers: values of 8 bits are summed so far, then promoted.
constexpr u32 CHUNK_K = 128;
// Columns of an output of 8 bits that share a scale which is found.
constexpr u32 SCALE_COLUMNS = 128;

// Scales of a side of an entry of the batch.
class SideScales {
  public:
    DEVICE_MEMBER SideScales(const Scales& scales, const u32 (&batch)[4], u32 entry) : scales_(scales), at_(scales.at) {
        i64 offset = 0;
        u32 rest = entry;
        for (i32 axis = 3; axis >= 0; axis--) {
            offset += (i64)(rest % batch[axis]) * scales.batch[axis];
            rest /= batch[axis];
        }
        at_ += (u64)(offset * 4);
    }

    // Factor of the sum over a chunk of an outer index, which is read where it is below `end`.
    DEVICE_MEMBER f32 of_chunk(u32 outer, u32 end, u32 chunk) const {
        const f32 scale = load_global_f32_if(scales_.covers == SCALED_CHUNKS && outer < end, place(outer, chunk));
        return scales_.covers == SCALED_CHUNKS ? scale : 1.0f;
    }

    // Factor of the sum over all of k.
    DEVICE_MEMBER f32 of_whole(u32 outer) const {
        return scales_.covers == SCALED_WHOLE ? load_global_f32(place(outer, 0)) : 1.0f;
    }

  private:
    const Scales& scales_;
    u64 at_;

    DEVICE_MEMBER u64 place(u32 outer, u32 chunk) const {
        return at_ + (u64)(((i64)(outer >> scales_.shift) * scales_.outer + (i64)chunk * scales_.depth) * 4);
    }
};
