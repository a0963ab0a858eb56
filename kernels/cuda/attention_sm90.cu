// Attention forward on Hopper: a thread brings keys and values by the copy engine into two rings, two warpgroups of 64 rows
// each score by wgmma, weigh in registers and add values by wgmma whose left side never leaves them; values of a chunk are
// added while the scores of the next one become weights, and the warpgroups begin their products by turns, so that one
// weighs while the other multiplies. Rows are the query heads of a key head for each query, so that grouped heads share
// what is brought. For f16 and bf16, head dims up to 256.
//
// Order of each output: keys in chunks of CHUNK from right to left, so that what a causal row or a length hides is hidden
// in the first ones and the others have no mask; within one, wgmma after wgmma along the head dim for scores, and along the
// keys for values, in f32; sums of weights by lanes, then across four of them. Cuts of the keys run from right to left too.
#pragma once

#include "cuda/tile/ring.h"
#include "cuda/tile/swizzle.h"
#include "cuda/tile/warpgroup_products.h"

// The launch, and the maps of keys and values: dense axis, rows, heads, batch.
struct AttentionSm90Args {
    TensorMap k, v;
    AttentionArgs attention;
    u32 padding[10];
};

static_assert(sizeof(AttentionSm90Args) == 768, "as in kernels/src/attention.rs");

namespace attention_sm90 {

constexpr u32 ELEMENT = 2;
using attention::Chunks, attention::chunks_of, attention::K_STEP, attention::Tile, attention::tile_of;
using attention::SPAN;

template <u32 D_, u32 DV_, u32 CHUNK_, u32 DTYPE_>
struct Shape {
    static constexpr u32 D = D_, DV = DV_, CHUNK = CHUNK_, DTYPE = DTYPE_;
    static constexpr u32 CONSUMERS = 2, ROWS = 64 * CONSUMERS, STAGES = 2;
    using Warpgroups = ::Warpgroups<CONSUMERS, 24, 240>;
    static constexpr u32 THREADS = Warpgroups::THREADS;
    // Whether the warpgroups take turns: the products of wide heads are longer than any softmax beside them.
    static constexpr bool BY_TURNS = D <= 128;
    static constexpr u32 Q_BYTES = ROWS * D * ELEMENT, K_BYTES = CHUNK * D * ELEMENT, V_BYTES = CHUNK * DV * ELEMENT;
    static constexpr u32 K_AT = Q_BYTES, V_AT = K_AT + STAGES * K_BYTES, BARRIERS = V_AT + STAGES * V_BYTES;
    static constexpr u32 SHARED_BYTES = BARRIERS + 4 * STAGES * 8;
    static_assert(SHARED_BYTES <= SHARED_MOST, "shared memory of a block");
    static_assert(D % SPAN == 0 && DV % SPAN == 0, "whole rows of the swizzle");
    static_assert(CHUNK * descriptor::ROW % 1024 == 0, "the swizzle repeats every 1024 bytes");
    using Keys = Ring<STAGES, K_BYTES, BARRIERS, K_AT>;
    using Values = Ring<STAGES, V_BYTES, BARRIERS + STAGES * 16, V_AT>;
};

template <class S, u32 COLUMNS>
DEVICE void bring(const TensorMap& map, u32 to, u32 barrier, const Tile& tile, u32 key) {
#pragma unroll
    for (u32 i = 0; i < COLUMNS / SPAN; i++) {
        const i32 at[5] = {(i32)(i * SPAN), (i32)(tile.first_key + key), (i32)tile.kv_head, (i32)tile.batch, 0};
        copy_box(to + i * S::CHUNK * descriptor::ROW, map, barrier, at);
    }
}

// First key of the chunk that the last key before `end` is in.
template <u32 CHUNK>
DEVICE u32 before(u32 end) { return (end - 1) / CHUNK * CHUNK; }

template <class S>
DEVICE void produce(const AttentionSm90Args& all) {
    const AttentionArgs& args = all.attention;
    typename S::Keys keys;
    typename S::Values values;
    for (u32 i = block_index(); i < args.tiles; i += block_count()) {
        const Tile tile = tile_of<S::ROWS>(args, args.first_tile + i);
        const Chunks chunks = chunks_of<S::CHUNK>(args, tile);
        for (u32 end = chunks.to; end > chunks.from; end = before<S::CHUNK>(end)) {
            const u32 key = before<S::CHUNK>(end);
            // Every consumer warp has left this stage of the keys; a new ring passes.
            wait_barrier(keys.empty(), keys.phase ^ 1);
            arrive_expecting(keys.full(), S::K_BYTES);
            bring<S, S::D>(all.k, keys.at(), keys.full(), tile, key);
            keys.next();
            // Every consumer warp has left this stage of the values; a new ring passes.
            wait_barrier(values.empty(), values.phase ^ 1);
            arrive_expecting(values.full(), S::V_BYTES);
            bring<S, S::DV>(all.v, values.at(), values.full(), tile, key);
            values.next();
        }
    }
}

template <class S>
struct Consumer : attention::Softmax<S::CHUNK, S::DV, S::DTYPE, S::CONSUMERS * WARPGROUP> {
    using Softmax = attention::Softmax<S::CHUNK, S::DV, S::DTYPE, S::CONSUMERS * WARPGROUP>;
    using Softmax::args, Softmax::tile, Softmax::scores, Softmax::sums;

    // Which consumer this warpgroup is, and this thread of it.
    u32 number, thread = thread_index() % WARPGROUP;

    DEVICE_MEMBER Consumer(const AttentionArgs& a, const Tile& t, u32 n)
        : Softmax(a, t, t.row + 64 * n + thread_index() % WARPGROUP / 32 * 16), number(n) {}

    // The warpgroup's threads wait for each other: barriers have literal numbers, so that the block keeps only these.
    DEVICE_MEMBER void meet() const {
        if (number == 0) {
            sync_threads<1, WARPGROUP>();
        } else {
            sync_threads<2, WARPGROUP>();
        }
    }

    // The rows of Q into shared memory, swizzled; zeros past the last. 16 bytes at a time.
    DEVICE_MEMBER void load_queries() const {
        constexpr u32 CHUNKS = S::D / 8;
        for (u32 i = thread; i < 64 * CHUNKS; i += WARPGROUP) {
            const u32 r = i / CHUNKS, c = i % CHUNKS, row = tile.row + 64 * number + r;
            u32x4 v = {0, 0, 0, 0};
            if (row < tile.packed_rows && c * 8 < args.d) {
                v = load_global_u32x4(attention::address_of(args, tile, args.q, row, c * 8));
            }
            const u32 block = shared_base() + c / 8 * S::ROWS * descriptor::ROW;
            store_shared(block + swizzled<descriptor::ROW / 16>(64 * number + r, c % 8), v);
        }
        // wgmma reads them, after everybody of the warpgroup has written.
        fence_async();
        meet();
    }

    DEVICE_MEMBER void score(u32 keys) {
        const u32 own = shared_base() + 64 * number * descriptor::ROW;
        attention::start_products<S::D, S::ROWS, S::CHUNK, S::DTYPE>(scores, own, keys);
    }

    DEVICE_MEMBER void add_values(const u32 (&weights)[S::CHUNK / K_STEP][4], u32 values) {
        attention::start_sums<S::CHUNK, S::DTYPE>(sums, weights, values);
    }

    // Zeros over the values past the entry's last. Both consumers together.
    DEVICE_MEMBER void clear_values(u32 values, u32 from) const {
        constexpr u32 THREADS = S::CONSUMERS * WARPGROUP;
        attention::clear_rows<S::CHUNK, S::DV / SPAN, THREADS>(values, from, number * WARPGROUP + thread);
        // The zeros of both are there.
        sync_threads<3, THREADS>();
    }

    // The warpgroups begin products by turns. Both have as many a tile; the second gives the first turn away before all tiles,
    // and the first takes the last one after them, so that nobody is left waiting.
    static DEVICE_MEMBER void take_turn(u32 number) {
        // The other warpgroup has begun its products.
        if (S::BY_TURNS && number == 0) {
            sync_threads<4, S::CONSUMERS * WARPGROUP>();
        } else if (S::BY_TURNS) {
            sync_threads<5, S::CONSUMERS * WARPGROUP>();
        }
    }

    static DEVICE_MEMBER void give_turn(u32 number) {
        // This warpgroup's products are begun; it comes here again only after a turn of the other's.
        if (S::BY_TURNS && number == 0) {
            arrive_threads<5, S::CONSUMERS * WARPGROUP>();
        } else if (S::BY_TURNS) {
            arrive_threads<4, S::CONSUMERS * WARPGROUP>();
        }
    }

    // The scores of the last chunk, then each one's beside the values of the one to its right, then the first one's values.
    DEVICE_MEMBER void run(typename S::Keys& keys, typename S::Values& values) {
        load_queries();
        const Chunks chunks = chunks_of<S::CHUNK>(args, tile), seen = this->seen_by_all();
        if (chunks.from < chunks.to) {
            u32 key = before<S::CHUNK>(chunks.to);
            u32 weights[S::CHUNK / K_STEP][4];
            attention::zero(scores);
            // The first keys are here.
            wait_barrier(keys.full(), keys.phase);
            score(keys.at());
            wgmma_wait<0>();
            keys.release(keys.empty());
            keys.next();
            this->adjust(key, seen);
            this->weigh(weights);
            if (key + S::CHUNK > tile.keys) {
                // The values to be cleared are here.
                wait_barrier(values.full(), values.phase);
                clear_values(values.at(), tile.keys - key);
            }
            while (key > chunks.from) {
                key -= S::CHUNK;
                attention::zero(scores);
                // The keys are here.
                wait_barrier(keys.full(), keys.phase);
                // The values of the chunk before are here.
                wait_barrier(values.full(), values.phase);
                take_turn(number);
                score(keys.at());
                add_values(weights, values.at());
                give_turn(number);
                // The scores are there.
                wgmma_wait<1>();
                keys.release(keys.empty());
                keys.next();
                this->adjust(key, seen);
                f32 shrink[2];
                this->weigh_scores(shrink);
                // The values before are added, their weights free.
                wgmma_wait<0>();
                values.release(values.empty());
                values.next();
                this->scale_sums(shrink);
                this->pack(weights);
            }
            // The last values are here.
            wait_barrier(values.full(), values.phase);
            add_values(weights, values.at());
            wgmma_wait<0>();
            values.release(values.empty());
            values.next();
        }
        // Q is read no more once everybody of the warpgroup is here.
        meet();
    }
};

template <class S>
DEVICE void consume(const AttentionArgs& args, u32 number) {
    typename S::Keys keys;
    typename S::Values values;
    if (number == 1) {
        Consumer<S>::give_turn(number);
    }
    for (u32 i = block_index(); i < args.tiles; i += block_count()) {
        const Tile tile = tile_of<S::ROWS>(args, args.first_tile + i);
        Consumer<S> consumer(args, tile, number);
        consumer.begin(i, number * WARPGROUP + consumer.thread);
        consumer.run(keys, values);
        if (args.last) {
            consumer.finish();
        } else {
            consumer.keep(i, number * WARPGROUP + consumer.thread);
        }
    }
    if (number == 0) {
        Consumer<S>::take_turn(number);
    }
}

template <class S>
DEVICE void run(const AttentionSm90Args& all) {
    if (thread_index() == 0) {
        S::Keys::init(S::CONSUMERS * WARPGROUP / 32);
        S::Values::init(S::CONSUMERS * WARPGROUP / 32);
    }
    // The barriers are there.
    sync_block();
    S::Warpgroups::run([&] { produce<S>(all); }, [&](u32 number) { consume<S>(all.attention, number); });
}

}  // namespace attention_sm90
