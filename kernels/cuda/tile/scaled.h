// The way out of products of 8-bit values: scales of the operands that cover all of k, the epilogue, and an output of 8 bits
// with a scale of its own. Kernels stage sums in shared memory and end here.
#pragma once

#include "cuda/tile/byte.h"
#include "cuda/tile/epilogue.h"
#include "cuda/tile/place.h"
#include "cuda/tile/scales.h"

// The outputs of an entry of the batch.
class ScaledEpilogue {
  public:
    DEVICE_MEMBER ScaledEpilogue(const MatmulArgs& args, const MatmulScaling& scaling, u32 entry)
        : args_(args),
          scaling_(scaling),
          epilogue_(args, entry),
          a_(scaling.a, args.batch, entry),
          b_(scaling.b, args.batch, entry),
          scale_(matrix_of(scaling.out, args.batch, entry)) {}

    // Writes ROWS by COLUMNS sums of a part, from this row and column of B on, that lie in shared memory in rows of `step`
    // bytes: whole warps, THREADS in all, each thread with a few neighbours. Rows of no group become zeros. Tiles of fewer
    // than 128 columns find no scales, and none are found where columns gate each other.
    template <u32 ROWS, u32 COLUMNS, u32 THREADS>
    DEVICE_MEMBER void write(const Part& part, u32 sums, u32 step, u32 thread, u32 row, u32 column) const {
        constexpr u32 PER_ROW = COLUMNS / EACH;
#pragma unroll 1
        for (u32 i = thread; i < ROWS * PER_ROW; i += THREADS) {
            const u32 r = row + i / PER_ROW, c = column + i % PER_ROW * EACH;
            const u32 left = r < part.end && c < args_.n ? args_.n - c : 0, n = left < EACH ? left : EACH;
            f32 v[EACH] = {};
            if (n > 0 && r < part.owned) {
                scale(v, sums + i / PER_ROW * step + i % PER_ROW * EACH * 4, r, c, n);
                finish(v, r, c, n);
            } else if (n > 0) {
                epilogue_.clear_before<EACH>(r, c, n);
            }
            const u32 shift = args_.interleaved;
            if (scaling_.quantize != AS_IT_IS) {
                write_codes<COLUMNS == SCALE_COLUMNS>(r, c >> shift, n >> shift, v);
            } else if (n > 0) {
                store_values(args_.out.dtype, epilogue_.place(r, c >> shift), args_.out.column, n >> shift, v);
            }
        }
    }

  private:
    // Neighbours of a thread: those of a warp are the columns that share a scale.
    static constexpr u32 EACH = SCALE_COLUMNS / 32;

    const MatmulArgs& args_;
    const MatmulScaling& scaling_;
    Epilogue epilogue_;
    SideScales a_, b_;
    Matrix scale_;

    // The first n sums under the scales of all of k, zeros behind them.
    DEVICE_MEMBER void scale(f32 (&v)[EACH], u32 at, u32 row, u32 column, u32 n) const {
        const u32x4 sums = load_shared_u32x4(at);
        const u32 bits[EACH] = {sums.x, sums.y, sums.z, sums.w};
        const f32 of_row = a_.of_whole(row);
#pragma unroll
        for (u32 i = 0; i < EACH; i++) {
            v[i] = i < n ? f32_of_bits(bits[i]) * (of_row * b_.of_whole(column + i)) : 0.0f;
        }
    }

    // Sums become values before the cast; where columns gate each other, half as many.
    DEVICE_MEMBER void finish(f32 (&v)[EACH], u32 row, u32 column, u32 n) const {
        epilogue_.before(row, column, n, v);
        if (args_.interleaved) {
            f32 halves[EACH / 2];
            epilogue_.gated(row, column / 2, n / 2, v, halves);
#pragma unroll
            for (u32 i = 0; i < EACH; i++) {
                v[i] = i < EACH / 2 ? halves[i % (EACH / 2)] : 0.0f;
            }
        } else {
            epilogue_.after(row, column, n, v);
        }
    }

    template <bool FINDS>
    DEVICE_MEMBER void write_codes(u32 row, u32 column, u32 n, const f32 (&v)[EACH]) const {
        f32 scale = 0.0f;
        if (scaling_.quantize == BY_GIVEN) {
            scale = load_global_f32(scale_.at);
        } else if constexpr (FINDS) {
            scale = found(v, n);
            if (n > 0 && column % SCALE_COLUMNS == 0) {
                store_global_f32(address_of(scale_, row, column / SCALE_COLUMNS), scale);
            }
        }
        store_codes(row, column, n, v, scale);
    }

    // The scale of the columns of a warp: their largest magnitude over the type's. What is no number counts for nothing.
    DEVICE_MEMBER f32 found(const f32 (&v)[EACH], u32 n) const {
        f32 most = 0.0f;
#pragma unroll
        for (u32 i = 0; i < EACH; i++) {
            const f32 size = f32_of_bits(bits_of(v[i]) & 0x7fffffffu);
            most = i < n && size > most ? size : most;
        }
#pragma unroll
        for (u32 mask = 16; mask > 0; mask /= 2) {
            const f32 other = f32_of_bits(shuffle_xor(bits_of(most), mask));
            most = other > most ? other : most;
        }
        return divided(most, largest_of(args_.out.dtype));
    }

    DEVICE_MEMBER void store_codes(u32 row, u32 column, u32 n, const f32 (&v)[EACH], f32 scale) const {
        const u32 dtype = args_.out.dtype;
        const f32 top = largest_of(dtype);
        u32 word = 0;
#pragma unroll
        for (u32 i = 0; i < EACH; i++) {
            word |= byte_of(dtype, scale == 0.0f ? 0.0f : clamped(divided(v[i], scale), -top, top)) << 8 * i;
        }
        const u64 at = epilogue_.place(row, column);
        if (n == EACH && args_.out.column == 1 && at % EACH == 0) {
            return store_global_u32(at, word);
        }
#pragma unroll
        for (u32 i = 0; i < EACH; i++) {
            if (i < n) {
                store_global_u8(at + (u64)((i64)i * args_.out.column), (u8)(word >> 8 * i));
            }
        }
    }
};
