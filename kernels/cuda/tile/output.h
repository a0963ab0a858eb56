// The way out of a warpgroup's sums of 64 rows, through shared memory of its own: rounded and as boxes by the copy engine,
// behind the threads, or as whole rows through the epilogue. Where sides are swapped, rows of the sums are columns of the
// output. `matmul_sm90.cu` calls it, and `matmul_sm90_fp8.cu` for boxes.
#pragma once

#include "cuda/tile/descriptor.h"
#include "cuda/tile/epilogue.h"
#include "cuda/tile/place.h"
#include "cuda/tile/swizzle.h"
#include "cuda/tile/warpgroups.h"

namespace output {

constexpr u32 ROWS = 64;
// What is staged at a time: columns of f32, and those of a box of 16 bits, two boxes side by side.
constexpr u32 SLICE = 64, BOX = 64, BOX_BYTES = ROWS * descriptor::ROW;
constexpr u32 BYTES = 2 * BOX_BYTES;
static_assert(BYTES == ROWS * SLICE * 4, "both forms fill what is staged");

// The warpgroup's threads wait for each other: barriers have literal numbers, so that the block keeps only these.
DEVICE void meet(u32 consumer) {
    if (consumer == 0) {
        sync_threads<1, WARPGROUP>();
    } else {
        sync_threads<2, WARPGROUP>();
    }
}

// One thread of the warpgroup starts all its boxes, and it alone can wait for them.
DEVICE bool starts_boxes() { return thread_index() % WARPGROUP == 0; }

// What was staged has been read: before the next is, and before the block ends.
DEVICE void wait() {
    if (starts_boxes()) {
        wait_stores_read<0>();
    }
}

// What a tile's place in the output is to the copy engine.
struct Corner {
    u32 row, column;
    // In the last three axes of the batch.
    u32 batch[3];
};

template <u32 COLUMNS, bool SWAPPED>
class Output {
  public:
    DEVICE_MEMBER Output(u32 staged, u32 consumer) : staged_(staged), consumer_(consumer) {}

    // Rounds the sums and has boxes of them taken, which are read while the threads go on.
    DEVICE_MEMBER void store(const f32 (&sums)[COLUMNS / 2], const TensorMap& map, const MatmulArgs& args,
                             const Corner& to) const {
        constexpr u32 ROUND = COLUMNS < 2 * BOX ? COLUMNS : 2 * BOX;
#pragma unroll
        for (u32 round = 0; round < COLUMNS; round += ROUND) {
            wait();
            // The boxes before have been read.
            meet(consumer_);
#pragma unroll
            for (u32 c = 0; c < ROUND; c += COLUMNS < 16 ? 8 : 16) {
                stage(sums, args, round + c, c);
            }
            fence_async();
            // Everybody's rows are there, and the engine sees them.
            meet(consumer_);
            if (starts_boxes()) {
#pragma unroll
                for (u32 c = 0; c < ROUND; c += BOX) {
                    const i32 at[5] = {(i32)(to.column + round + c), (i32)to.row, (i32)to.batch[2], (i32)to.batch[1],
                                       (i32)to.batch[0]};
                    store_box(map, staged_ + c / BOX * BOX_BYTES, at);
                }
                commit_stores();
            }
        }
    }

    // Hands the sums to the epilogue, eight neighbours of a row a thread: one copy of its code for all slices.
    DEVICE_MEMBER void finish(const f32 (&sums)[COLUMNS / 2], const Epilogue& epilogue, const MatmulArgs& args,
                              const Part& part, u32 row, u32 column) const {
#pragma unroll 1
        for (u32 slice = 0; slice < COLUMNS; slice += SLICE) {
            // The warpgroup has read the slice before.
            meet(consumer_);
#pragma unroll
            for (u32 i = 0; i < COLUMNS / 2; i += 2) {
                if (i / (SLICE / 2) == slice / SLICE) {
                    const u32 r = fragment::wgmma_row(thread(), i), c = fragment::wgmma_column(thread(), i) % SLICE;
                    if constexpr (SWAPPED) {
                        store_shared_f32(sum(c, r), sums[i]);
                        store_shared_f32(sum(c + 1, r), sums[i + 1]);
                    } else {
                        store_shared(sum(r, c), sums[i], sums[i + 1]);
                    }
                }
            }
            // All of the slice is there.
            meet(consumer_);
            write(epilogue, args, part, row, column + slice);
        }
    }

  private:
    static_assert(!SWAPPED || COLUMNS <= SLICE, "swapped, one slice has all");

    static DEVICE_MEMBER u32 thread() { return thread_index() % WARPGROUP; }

    // Where a staged sum lies: chunks of a row change places with the row, so that neither way meets a bank often.
    DEVICE_MEMBER u32 sum(u32 r, u32 c) const { return staged_ + swizzled_columns<SLICE / 4>(r, c / 4) + c % 4 * 4; }

    // Sixteen columns of the sums, or all eight, from `c` on, to those of the boxes from `to` on: as the engine's swizzle of
    // 128 wants it.
    DEVICE_MEMBER void stage(const f32 (&sums)[COLUMNS / 2], const MatmulArgs& args, u32 c, u32 to) const {
        constexpr u32 WORDS = COLUMNS < 16 ? 2 : 4;
        u32 words[WORDS];
#pragma unroll
        for (u32 i = 0; i < WORDS; i++) {
            const f32 x = args.alpha * sums[c / 2 + 2 * i];
            const f32 y = args.alpha * sums[c / 2 + 2 * i + 1];
            words[i] = args.out.dtype == BF16 ? bf16_pair(x, y) : f16_pair(x, y);
        }
        // Matrices: rows 0 to 7 and 8 to 15 of a warp's sums, of eight columns and of the next. This lane names a row of one.
        const u32 matrix = thread() % 32 / 8 % WORDS, warp = thread() / 32;
        if constexpr (SWAPPED) {
            store_matrices_transposed(boxed(to + matrix / 2 * 8 + thread() % 8, warp * 2 + matrix % 2), words);
        } else {
            const u32 chunk = to % BOX / 8 + matrix / 2;
            store_matrices(to / BOX * BOX_BYTES + boxed(warp * 16 + matrix % 2 * 8 + thread() % 8, chunk), words);
        }
    }

    // Eight elements of a box.
    DEVICE_MEMBER u32 boxed(u32 r, u32 chunk) const { return staged_ + swizzled<descriptor::ROW / 16>(r, chunk); }

    DEVICE_MEMBER void write(const Epilogue& epilogue, const MatmulArgs& args, const Part& part, u32 row, u32 column) const {
        constexpr u32 STAGED_ROWS = SWAPPED ? COLUMNS : ROWS;
#pragma unroll 1
        for (u32 i = thread(); i < STAGED_ROWS * SLICE / 8; i += WARPGROUP) {
            const u32 r = i / (SLICE / 8), c = i % (SLICE / 8) * 8;
            if (row + r >= part.end || column + c >= args.n) {
                continue;
            }
            const u32 left = args.n - column - c, n = left < 8 ? left : 8;
            if (row + r >= part.owned) {
                epilogue.clear<8>(row + r, column + c, n);
                continue;
            }
            const u32x4 low = load_shared_u32x4(sum(r, c)), high = load_shared_u32x4(sum(r, c + 4));
            const u32 bits[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
            f32 v[8];
            unpack_32(v, bits);
            epilogue.write(row + r, column + c, n, v);
        }
    }

    u32 staged_, consumer_;
};

}  // namespace output
