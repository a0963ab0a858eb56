// Rows of Q, K and V on their way into shared memory by cp.async: 16 bytes at a time where an operand allows it, element by
// element else, with zeros past every end. Keys lie in one tensor, or in pages whose numbers are never trusted.
#pragma once

#include "cuda/tile/fault.h"
#include "cuda/tile/queries.h"
#include "cuda/tile/swizzle.h"

namespace attention {

constexpr u32 ELEMENT = 2;           // Bytes.
constexpr u32 PIECE = 16 / ELEMENT;  // Elements of a copy.

// Whether rows of an operand are copied 16 bytes at a time.
DEVICE bool by_pieces(const Heads& x) {
    return x.column == 1 && (((u64)(x.batch | x.head | x.row) * ELEMENT | x.at) & 15) == 0;
}

// Starts to bring a piece of a row from a column on, zeros past `columns`. A row that is not reads as zeros.
DEVICE void bring(u32 to, const Heads& x, bool pieces, u64 row, bool is, u32 column, u32 columns) {
    const u32 rest = is && column < columns ? columns - column : 0;
    const u32 left = rest < PIECE ? rest : PIECE;
    if (pieces) {
        // Where nothing is read, the address is still a valid one.
        return copy_async16(to, left > 0 ? row + column * ELEMENT : x.at, left * ELEMENT);
    }
    u32 words[PIECE / 2] = {};
#pragma unroll
    for (u32 i = 0; i < PIECE; i++) {
        if (i < left) {
            words[i / 2] |= (u32)load_global_u16(row + (u64)((i64)(column + i) * x.column * ELEMENT)) << 16 * (i % 2);
        }
    }
    store_shared(to, u32x4{words[0], words[1], words[2], words[3]});
}

// Where a key lies: entry of the batch or page, and row in it. One that is not there is zeros.
struct Line {
    u32 block, row;
    bool is;
};

// Reads the number of the key's page at most once, and uses it only if there is such a page.
DEVICE Line line_of(const AttentionArgs& args, const Tile& tile, u32 key) {
    if (key >= tile.keys) {
        return {0, 0, false};
    }
    if (args.pages.at == 0) {
        return {tile.batch, tile.first_key + key, true};
    }
    const i64 word = (i64)tile.entry * args.pages.entry + (i64)(key / args.pages.size) * args.pages.step;
    const u32 page = load_global_u32(args.pages.at + (u64)(word * 4));
    if (page >= args.pages.count) {
        report_fault(args.fault, page, args.pages.count);
        return {0, 0, false};
    }
    return {page, key % args.pages.size, true};
}

// Address of a line in K or V.
DEVICE u64 address_of(const Tile& tile, const Heads& x, const Line& line) {
    return x.at + (u64)(((i64)line.block * x.batch + (i64)tile.kv_head * x.head + (i64)line.row * x.row) * ELEMENT);
}

}  // namespace attention
