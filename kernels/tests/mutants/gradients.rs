//! Known mistakes of the kernels of attention's gradients, and what is run to find them.

use super::{Mutant, mutant};
use crate::case::gradients::{BF16, Case, F32, Options, PLAIN, Style};
use crate::model::{Model, Order};
use leasehold_kernels::{
    AttentionBackwardRows, AttentionBackwardSm80, AttentionBackwardSm90, GradientSide, Row,
};

const SM80: &str = "cuda/attention_backward.cu";
const SM90: &str = "cuda/attention_backward_sm90.cu";
const ROWS: &str = "cuda/attention_backward_rows.cu";
const SUMS: &str = "cuda/tile/gradient_sums.h";
const GRADIENTS: &str = "cuda/tile/gradients.h";
const SCORES: &str = "cuda/tile/gradient_scores.h";

pub(super) const MUTANTS: &[Mutant] = &[
    // The rings of chunks, and what is there before them.
    mutant(
        SM80,
        "            wait_copies<0>();\n            // Everybody's copies of this chunk are here; everybody is done with the chunk before, and has",
        "            // Everybody's copies of this chunk are here; everybody is done with the chunk before, and has",
        "copy-in-flight",
    ),
    mutant(SM80, "and has its keys.\n            sync_block();", "and has its keys.", "race"),
    mutant(SM80, "bring_chunk(stage ^ 1, walk);", "bring_chunk(stage, walk);", "copy-in-flight"),
    mutant(
        SM80,
        "with the chunk before.\n            sync_block();",
        "with the chunk before.",
        "race",
    ),
    mutant(SM80, "bring_chunk(stage ^ 1, key +", "bring_chunk(stage, key +", "copy-in-flight"),
    mutant(SM80, "            stage ^= 1;\n", "", "bits"),
    mutant(SUMS, "x, true, row, r < count", "x, true, row, true", "ended"),
    mutant(SM80, "const bool means = i >= S::CHUNK / 4;", "const bool means = false;", "race"),
    // The weights that a pair of warps shares.
    mutant(
        SM80,
        "            // The weights of the chunk are there.\n            meet();\n",
        "",
        "race",
    ),
    mutant(
        SM80,
        "case 1: return sync_threads<2, 2 * LANES>();",
        "case 1: return sync_threads<1, 2 * LANES>();",
        "barrier",
    ),
    mutant(SM80, "first() * S::D * ELEMENT + (i / 4", "(i / 4", "race"),
    mutant(SM80, "gradients[b][i + j] - mean[j % 2]", "gradients[b][i + j] - mean[0]", "bits"),
    // What a row sees.
    mutant(GRADIENTS, "<= args.left + args.right;", "< args.left + args.right;", "bits"),
    mutant(GRADIENTS, "(u32)distance + args.left <=", "(u32)distance + args.left - 1 <=", "bits"),
    mutant(GRADIENTS, "distance + KEYS - 1 <= args.right", "distance <= args.right", "bits"),
    mutant(GRADIENTS, "args.left >= ROWS - 1", "args.left >= 0", "bits"),
    mutant(GRADIENTS, "first = rows.from / CHUNK;", "first = rows.from / CHUNK + 1;", "bits"),
    mutant(GRADIENTS, "stop = quotient_up(rows.to, CHUNK);", "stop = rows.to / CHUNK;", "bits"),
    mutant(GRADIENTS, "to_keys - args.left,", "to_keys - args.left + 64,", "bits"),
    mutant(GRADIENTS, "keys.to + to_rows + args.left", "keys.to + to_rows", "bits"),
    // Entries of different lengths, and what nobody owns.
    mutant(GRADIENTS, "KEYS>(args, entry) * TILE;", "KEYS>(args, entry) * 0;", "ended"),
    mutant(GRADIENTS, "field) * 4);", "field) * 0);", "bits"),
    mutant(GRADIENTS, "args.room + tile.numbers + row", "args.room + row", "bits"),
    mutant(GRADIENTS, "entry + 1 < args.entry_count ? t.keys", "true ? t.keys", "bits"),
    mutant(SM80, "sums.clear_from(tile.keys > key ? tile.keys - key : 0);", "", "bits"),
    mutant(SM80, "        // The tile is there.\n        sync_block();\n", "", "race"),
    // Options of scores.
    mutant(SCORES, "growth(b, i, u * (2.0f - u));", "growth(b, i, 1.0f);", "bits"),
    mutant(SM80, "w[2] *= f32_of_bits(growth.z);", "", "bits"),
    mutant(SM80, "gradients[b][i] *= growth;", "", "bits"),
    mutant(SCORES, "distance < 0 ? -distance : distance", "distance", "bits"),
    mutant(SCORES, "row + r < tile.rows &&", "", "ended"),
    mutant(SCORES, "key + k < tile.keys", "true", "ended"),
    mutant(
        SM80,
        "tile.head * args.group + head, row, tile",
        "tile.head * args.group, row, tile",
        "bits",
    ),
    mutant(GRADIENTS, "            head++;\n", "            head += 2;\n", "ended"),
    mutant(GRADIENTS, "== 0xff800000u", "== 0xff800001u", "bits"),
    mutant(ROWS, "any ? mean : 0.0f", "mean", "bits"),
    mutant(ROWS, "far > 0; far /= 2", "far > 1; far /= 2", "bits"),
    mutant(
        ROWS,
        "        if (lane == 0) {",
        "        if (lane == 0 && is) {",
        "global-uninitialised",
    ),
    // Fragments, cuts and the way out.
    mutant(
        SUMS,
        "lane / 16 * 8, 2 * step + lane / 8 % 2",
        "lane / 8 % 2 * 8, 2 * step + lane / 16",
        "bits",
    ),
    mutant(SUMS, "(u64)block_index() * S::STATE_BYTES", "(u64)block_index() * 0", "bits"),
    mutant(SUMS, "args.from > 0, carried", "true, carried", "global-uninitialised"),
    mutant(GRADIENTS, "end < keys.to ? (u32)end : keys.to;", "keys.to;", "bits"),
    mutant(SUMS, "            if (row >= rows) {", "            if (false) {", "ended"),
    mutant(SUMS, "if (column < columns) {", "if (true) {", "ended"),
    // By wgmma: the rings of boxes.
    mutant(
        SM90,
        "            wait_barrier(chunks.empty(), chunks.phase ^ 1);\n",
        "",
        "copy-in-flight",
    ),
    mutant(SM90, "        wait_barrier(own.empty(), own.phase ^ 1);\n", "", "race"),
    mutant(SM90, "2 * S::CHUNK_BYTES + S::NUMBERS);", "2 * S::CHUNK_BYTES);", "copy-in-flight"),
    mutant(SM90, "            wait_barrier(chunks.full(), chunks.phase);\n", "", "copy-in-flight"),
    mutant(SM90, "        wait_barrier(own.full(), own.phase);\n", "", "race"),
    mutant(SM90, "        own.release(own.empty());\n", "", "deadlock"),
    // Products behind the threads.
    mutant(
        SM90,
        "all sums of the chunk before.\n            wgmma_wait<1>();",
        "all sums of the chunk before.\n            wgmma_wait<2>();",
        "wgmma-sums",
    ),
    mutant(SM90, "last_empty = chunks.empty();", "chunks.release(chunks.empty());", "race"),
    // Where sums do not run into the next chunk's products: keys of wide heads.
    mutant(
        SM90,
        "                wgmma_wait<0>();\n                chunks.release(chunks.empty());\n            }",
        "                chunks.release(chunks.empty());\n            }",
        "race",
    ),
    // What a row sees, and where the swizzle put its numbers.
    mutant(SM90, "- (i32)column_of(i)) ?", "- (i32)column_of(i) + 1) ?", "bits"),
    mutant(SM90, "column_of(i) < of.to ?", "column_of(i) <= of.to ?", "bits"),
    mutant(SM90, "column_of(i) >= of.from &&", "column_of(i) > of.from &&", "bits"),
    // Rows of another entry.
    mutant(SM90, "            clear_others(chunk, walk.row());\n", "", "bits"),
    mutant(SM90, "        sync_threads<1, S::SLOTS>();\n", "", "race"),
    mutant(SM90, "is[i / 2 % 2] ? args.scale", "true ? args.scale", "bits"),
    mutant(SM90, "thread % 4 * 8 ^ line % 2 * 16", "thread % 4 * 8", "bits"),
];

const KEYS: AttentionBackwardSm80 =
    AttentionBackwardSm80 { side: GradientSide::Keys, bf16: true, d: 32 };
const QUERIES: AttentionBackwardSm80 =
    AttentionBackwardSm80 { side: GradientSide::Queries, ..KEYS };

const KEYS90: AttentionBackwardSm90 =
    AttentionBackwardSm90 { side: GradientSide::Keys, bf16: true, d: 64 };
const WIDE90: AttentionBackwardSm90 = AttentionBackwardSm90 { d: 128, ..KEYS90 };
const QUERIES90: AttentionBackwardSm90 =
    AttentionBackwardSm90 { side: GradientSide::Queries, ..KEYS90 };

/// The sides that a file's mistakes are seen by.
fn sides(file: &str) -> Vec<Row> {
    match file {
        SM90 => [KEYS90, WIDE90, QUERIES90].map(Row::AttentionBackwardSm90).into(),
        _ => [KEYS, QUERIES].map(Row::AttentionBackwardSm80).into(),
    }
}

/// The rows that show what a file's mistakes do.
pub(super) fn subjects(file: &str) -> Vec<Row> {
    let rows = Row::AttentionBackwardRows(AttentionBackwardRows);
    sides(file).into_iter().chain([rows]).collect()
}

/// Files of which there are mistakes, one for each subject.
pub(super) const SUBJECTS: [&str; 2] = [SM80, SM90];

/// Every option of scores, and entries of different lengths, packed or not, with what nobody owns.
const OPTIONS: [Options; 3] = [
    Options { rows: 60, keys: 90, group: 2, window: Some([40, 3]), alibi: true, ..PLAIN },
    Options { batch: 2, rows: 30, keys: 70, mask: true, lens: &[[30, 70], [30, 33]], ..PLAIN },
    Options {
        rows: 137,
        keys: 170,
        group: 2,
        softcap: 0.7,
        lens: &[[3, 9], [70, 20], [0, 5], [40, 130]],
        packed: true,
        ..PLAIN
    },
];

/// Windows, entries beside one of no numbers, and keys that an entry does not have.
const ENTRIES: [Options; 2] = [
    Options {
        rows: 150,
        keys: 180,
        window: Some([20, 3]),
        lens: &[[70, 90], [9, 17], [66, 70]],
        packed: true,
        spoiled: Some(1),
        ..PLAIN
    },
    Options { batch: 2, rows: 20, lens: &[[20, 40], [20, 90]], ..PLAIN },
];

/// Tails in every axis, both ways that keys may be hidden, operands that lie anyhow, and cuts, on both sides.
pub(super) fn verdict(row: Row, model: &mut Model) -> String {
    let by_engine = matches!(row, Row::AttentionBackwardSm90(_));
    let tails = Options { dims: [23, 9], style: Style::Odd, dtypes: [F32, BF16], ..PLAIN };
    // More tiles than blocks, more chunks than a ring has stages, and head dims of less than a row's.
    let many = Options { batch: 2, rows: 200, keys: 300, dims: [64, 40], ..PLAIN };
    let cases = [
        Options { group: 2, rows: 75, keys: 150, causal: true, ..PLAIN },
        Options { rows: 140, keys: 50, causal: true, hidden: true, ..PLAIN },
        if by_engine { many } else { tails },
    ];
    let options = if by_engine { &ENTRIES[..] } else { &OPTIONS };
    for side in sides(row.file()) {
        for options in cases.iter().chain(options).copied() {
            let case = Case::new(side, options, 3);
            let mut left = Vec::new();
            for order in [Order::Late, Order::Early, Order::Seeded(1)] {
                let outcome = case.run(model, order);
                if !outcome.found.is_empty() {
                    return outcome.found;
                }
                if let Err(wrong) = case.check(&outcome) {
                    return format!("bits: {wrong}");
                }
                left.push(outcome);
            }
            let cut = case.run_cut(model, 2, 2);
            if !cut.found.is_empty() {
                return cut.found;
            }
            if left.iter().any(|whole| !case.agree(whole, &cut)) {
                return "bits: an order or a cut gives others".into();
            }
        }
    }
    "nothing".into()
}
