// Attention of few rows over many keys, in pages or not: decode. Keys are split into parts of a fixed size, a block for each
// split of each tile of sixteen packed rows, so that all heads of a group share what is read. A block's warps divide the
// split's keys; each has a ring of cp.async copies of its own and waits for nobody until its keys are done. What a block
// leaves, `attention_combine` merges. For f16 and bf16, head dims up to the row's bucket, zeros beyond.
//
// Order of each part: a warp's keys from left to right, sixteen at a time, as in `cuda/tile/softmax.h`; then warps from left
// to right.
#pragma once

#include "cuda/tile/lines.h"
#include "cuda/tile/parts.h"
#include "cuda/tile/warp_products.h"

namespace attention_paged {

using attention::ELEMENT, attention::Line, attention::Part, attention::PIECE, attention::SPLIT_ROWS, attention::Tile;

constexpr u32 LANES = 32;
constexpr u32 CHUNK = 16;  // Keys of a step of a warp.

// D: the most columns of Q, K and V.
template <u32 D_, u32 WARPS_, u32 STAGES_, u32 DTYPE_>
struct Shape {
    static constexpr u32 D = D_, WARPS = WARPS_, STAGES = STAGES_, DTYPE = DTYPE_;
    static constexpr u32 THREADS = WARPS * LANES, PIECES = D / PIECE;
    static constexpr u32 Q_BYTES = SPLIT_ROWS * D * ELEMENT, K_BYTES = CHUNK * D * ELEMENT, STAGE_BYTES = 2 * K_BYTES;
    static constexpr u32 RING_BYTES = STAGES * STAGE_BYTES;
    static constexpr u32 SHARED_BYTES = Q_BYTES + WARPS * RING_BYTES;
    // Sums of a warp on their way to the merge: rows of f32, and eight more, so that four of them meet no bank twice; after
    // them the rows' largest scores and sums of weights. They lie where the rings were.
    static constexpr u32 SUM_ROW = (D + 8) * 4, PART_AT = SPLIT_ROWS * SUM_ROW, SUM_BYTES = PART_AT + SPLIT_ROWS * 8;
    static_assert(SUM_BYTES <= RING_BYTES, "a warp's sums fit where its ring was");
    static_assert(STAGES >= 2, "one stage is computed while another arrives");
};

// A warp and its part of the keys.
template <class S>
struct Warp {
    using Softmax = attention::Softmax<CHUNK, S::D, S::DTYPE, S::THREADS>;

    const AttentionArgs& args;
    const Tile& tile;
    Softmax rows[1];
    // Where its ring begins, and its keys.
    u32 ring, from, to;

    DEVICE_MEMBER Warp(const AttentionArgs& a, const Tile& t, u32 split) : args(a), tile(t), rows{Softmax(a, t, t.row)} {
        const u32 warp = first_lane(thread_index() / LANES), keys = args.split / S::WARPS;
        const u32 first = split * args.split + warp * keys;
        ring = shared_base() + S::Q_BYTES + warp * S::RING_BYTES;
        from = (tile.low > first ? tile.low : first) / CHUNK * CHUNK;
        to = tile.high < first + keys ? tile.high : first + keys;
        rows[0].clear();
    }

    DEVICE_MEMBER u32 stage(u32 step) const { return ring + step % S::STAGES * S::STAGE_BYTES; }

    // Starts to bring sixteen keys and their values. Each lane knows where one of them lies, and tells the others.
    DEVICE_MEMBER void bring(u32 step, const Line& mine) const {
        const bool key_pieces = attention::by_pieces(args.k), value_pieces = attention::by_pieces(args.v);
        const u32 to_keys = stage(step);
#pragma unroll
        for (u32 i = 0; i < CHUNK * S::PIECES; i += LANES) {
            const u32 piece = i + rows[0].lane, r = piece / S::PIECES, c = piece % S::PIECES;
            const u32 offset = swizzled<S::PIECES>(r, c);
            const Line line = {shuffle_from(mine.block, r), shuffle_from(mine.row, r), shuffle_from(mine.is, r) != 0};
            const u64 at[2] = {attention::address_of(tile, args.k, line), attention::address_of(tile, args.v, line)};
            attention::bring(to_keys + offset, args.k, key_pieces, at[0], line.is, c * PIECE, args.d);
            attention::bring(to_keys + S::K_BYTES + offset, args.v, value_pieces, at[1], line.is, c * PIECE, args.dv);
        }
    }

    DEVICE_MEMBER Line look(u32 step) const {
        return attention::line_of(args, tile, from + step * CHUNK + rows[0].lane % CHUNK);
    }

    // A stage is overwritten only after the meeting of the warp that follows its last use.
    DEVICE_MEMBER void run() {
        const u32 steps = from < to ? (to - from + CHUNK - 1) / CHUNK : 0;
        // Numbers of pages are read a step before they are needed.
        Line next = look(0);
        const auto fetch = [&](u32 step) {
            if (step < steps) {
                bring(step, next);
                next = look(step + 1);
            }
            // A group without copies keeps the count of groups that of steps.
            commit_copies();
        };
        for (u32 step = 0; step < S::STAGES - 1; step++) {
            fetch(step);
        }
        for (u32 step = 0; step < steps; step++) {
            wait_copies<S::STAGES - 2>();
            // All lanes' copies of this step are here, and all lanes are done with the step before.
            sync_warp();
            fetch(step + S::STAGES - 1);
            attention::score<S::PIECES>(rows, shared_base(), 0, stage(step));
            rows[0].adjust(from + step * CHUNK);
            u32 weights[1][1][4];
            rows[0].weigh(weights[0]);
            attention::add_values<S::PIECES>(rows, weights, stage(step) + S::K_BYTES);
        }
        rows[0].gather_totals();
    }

    // Its sums into shared memory, where its ring was.
    DEVICE_MEMBER void leave() const {
        const Softmax& mine = rows[0];
        // All lanes are done with the last step.
        sync_warp();
#pragma unroll
        for (u32 i = 0; i < Softmax::SUMS; i += 2) {
            const u32 r = fragment::sum_row(mine.lane, i % 4);
            store_shared(ring + r * S::SUM_ROW + mine.column_of(i) * 4, mine.sums[i], mine.sums[i + 1]);
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            if (mine.lane % 4 == 0) {
                const u32 r = fragment::sum_row(mine.lane, 2 * half);
                store_shared(ring + S::PART_AT + r * 8, mine.largest[half], mine.total[half]);
            }
        }
    }
};

template <class S>
DEVICE void bring_queries(const AttentionArgs& args, const Tile& tile) {
    const bool pieces = attention::by_pieces(args.q);
    for (u32 i = thread_index(); i < SPLIT_ROWS * S::PIECES; i += S::THREADS) {
        const u32 r = i / S::PIECES, c = i % S::PIECES, row = tile.row + r;
        const bool is = row < tile.packed_rows;
        const u64 at = attention::address_of(args, tile, args.q, is ? row : 0, 0);
        attention::bring(shared_base() + swizzled<S::PIECES>(r, c), args.q, pieces, at, is, c * PIECE, args.d);
    }
    commit_copies();
    wait_copies<0>();
    // Everybody's copies are here.
    sync_block();
}

// What the warps left becomes the split's part.
template <class S>
DEVICE void merge_warps(const AttentionArgs& args, const Tile& tile, const attention::Stored& out) {
    const u32 left = tile.packed_rows - tile.row, rows = left < SPLIT_ROWS ? left : SPLIT_ROWS;
    for (u32 i = thread_index(); i < rows * args.dv; i += S::THREADS) {
        const u32 r = i / args.dv, c = i % args.dv;
        Part part;
        f32 value = 0.0f;
#pragma unroll
        for (u32 warp = 0; warp < S::WARPS; warp++) {
            const u32 at = shared_base() + S::Q_BYTES + warp * S::RING_BYTES;
            const Part next = {load_shared_f32(at + S::PART_AT + r * 8), load_shared_f32(at + S::PART_AT + r * 8 + 4)};
            const attention::Merge by = attention::merge(part, next);
            value = fma(load_shared_f32(at + r * S::SUM_ROW + c * 4), by.right, value * by.left);
        }
        store_global_f32(out.value(r, c), value);
        if (c == 0) {
            out.store(r, part);
        }
    }
}

template <class S>
DEVICE void run(const AttentionArgs& args) {
    const u32 count = (args.key_to + args.split - 1) / args.split - args.key_from / args.split;
    const u32 number = block_index() / count, split = block_index() % count;
    const Tile tile = attention::tile_of<SPLIT_ROWS>(args, args.first_tile + number);
    const attention::Splits splits = attention::splits_of(args, tile);
    if (split < splits.from || split >= splits.to) {
        return;
    }
    bring_queries<S>(args, tile);
    Warp<S> warp(args, tile, args.key_from / args.split + split);
    warp.run();
    warp.leave();
    // Everybody's sums are there.
    sync_block();
    merge_warps<S>(args, tile, attention::Stored(args, args.partials, block_index()));
}

}  // namespace attention_paged
