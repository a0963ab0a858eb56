//! Known mistakes of the attention kernels, and what is run to find them.

use super::{Mutant, mutant};
use crate::case::attention::{Case, LSE, OUT, Options, PLAIN};
use crate::model::{Model, Order};
use leasehold_kernels::{AttentionCombine, Row, rows};

const SM80: &str = "cuda/attention_sm80.cu";
const SM90: &str = "cuda/attention_sm90.cu";
const PAGED: &str = "cuda/attention_paged.cu";
const COMBINE: &str = "cuda/attention_combine.cu";
const SOFTMAX: &str = "cuda/tile/softmax.h";
const PRODUCTS: &str = "cuda/tile/warpgroup_products.h";
const LINES: &str = "cuda/tile/lines.h";
const QUERIES: &str = "cuda/tile/queries.h";

pub(super) const MUTANTS: &[Mutant] = &[
    // The ring of a block.
    mutant(SM80, "wait_copies<0>();", "", "copy-in-flight"),
    mutant(SM80, "            commit_copies();\n", "", "copy-in-flight"),
    mutant(SM80, "            sync_block();\n", "", "race"),
    mutant(SM80, "bring_chunk(stage ^ 1,", "bring_chunk(stage,", "copy-in-flight"),
    mutant(SM80, "            stage ^= 1;\n", "", "bits"),
    mutant(SM80, "const bool is = row < tile.packed_rows;", "const bool is = true;", "ended"),
    mutant(SM80, "c * PIECE, args.dv);", "c * PIECE, args.d);", "ended"),
    // The rings of warps, and what they leave.
    mutant(
        PAGED,
        "wait_copies<S::STAGES - 2>();",
        "wait_copies<S::STAGES - 1>();",
        "copy-in-flight",
    ),
    mutant(PAGED, "            sync_warp();\n            fetch", "            fetch", "race"),
    mutant(PAGED, "                next = look(step + 1);\n", "", "bits"),
    mutant(PAGED, "        rows[0].gather_totals();\n", "", "bits"),
    mutant(
        PAGED,
        "        // All lanes are done with the last step.\n        sync_warp();\n",
        "",
        "race",
    ),
    mutant(PAGED, "    // Everybody's sums are there.\n    sync_block();\n", "", "race"),
    mutant(COMBINE, "u32 from = splits.from;", "u32 from = 0;", "global-uninitialised"),
    mutant(COMBINE, "top = max_number(before, top);", "", "bits"),
    mutant(COMBINE, "(lane > 0 ? other : before)", "before", "bits"),
    mutant(
        COMBINE,
        "fma(values[i], by_right, value * by_left)",
        "fma(values[i], by_left, value * by_right)",
        "bits",
    ),
    // Boxes, and values past the end.
    mutant(
        SM90,
        "// The keys are here.\n                wait_barrier(keys.full(), keys.phase);\n",
        "",
        "copy-in-flight",
    ),
    mutant(SM90, "                values.release(values.empty());\n", "", "deadlock"),
    // Turns.
    mutant(SM90, "                give_turn(number);\n", "", "deadlock"),
    mutant(SM90, "                take_turn(number);\n", "", "barrier"),
    mutant(
        SM90,
        "    if (number == 1) {\n        Consumer<S>::give",
        "    if (false) {\n        Consumer<S>::give",
        "deadlock",
    ),
    mutant(
        SM90,
        "    if (number == 0) {\n        Consumer<S>::take",
        "    if (false) {\n        Consumer<S>::take",
        "exit-with-arrivals",
    ),
    mutant(SM90, "wgmma_wait<1>();", "", "wgmma-sums"),
    mutant(
        SM90,
        "their weights free.\n                wgmma_wait<0>();\n",
        "their weights free.\n",
        "race",
    ),
    mutant(SM90, "this->scale_sums(shrink);", "", "bits"),
    mutant(
        SM90,
        "        // wgmma reads them, after everybody of the warpgroup has written.\n        fence_async();\n",
        "",
        "proxy-fence",
    ),
    mutant(PRODUCTS, "    // wgmma reads them.\n    fence_async();\n", "", "proxy-fence"),
    mutant(SM90, "        sync_threads<3, THREADS>();\n", "", "race"),
    mutant(SM90, "before<S::CHUNK>(chunks.to);", "chunks.from;", "exit-with-copies"),
    mutant(SM90, "if (key + S::CHUNK > tile.keys) {", "if (false) {", "bits"),
    // Weights and sums.
    mutant(
        SOFTMAX,
        "            top = max_number(top, f32_of_bits(shuffle_xor(bits_of(top), 2)));\n",
        "",
        "bits",
    ),
    mutant(SOFTMAX, "            total[half] *= shrink[half];\n", "", "bits"),
    mutant(SOFTMAX, "sums[i] *= shrink[half_of(i)];", "", "bits"),
    mutant(SOFTMAX, "column >= low[half] && column", "column > low[half] && column", "bits"),
    mutant(SOFTMAX, "= (i64)tile.keys - key;", "= (i64)tile.keys - key + 1;", "bits"),
    mutant(SOFTMAX, "? high : tile.keys)", "? high : 0xffffffff)", "bits"),
    mutant(SOFTMAX, "key + CHUNK <= seen.to", "key < seen.to", "bits"),
    mutant(SOFTMAX, "(i32)(i / 4 * 8 + i % 2) < left", "left != 0", "ended"),
    mutant(SOFTMAX, "if (row >= tile.packed_rows) {", "if (false) {", "ended"),
    mutant(SOFTMAX, "(u64)tile_number * STATE_BYTES", "(u64)tile_number * 0", "bits"),
    // What a launch leaves to the next, and what it does not.
    mutant(
        SOFTMAX,
        "store_global_f32(carried(tile_number, slot, SUMS + half), largest[half]);",
        "",
        "global-uninitialised",
    ),
    mutant(
        PAGED,
        "args.partials, block_index()",
        "args.partials, block_index() / 2",
        "global-uninitialised",
    ),
    // Where rows and keys lie.
    mutant(LINES, "if (page >= args.pages.count) {", "if (page > args.pages.count) {", "ended"),
    mutant(LINES, "if (key >= tile.keys) {", "if (false) {", "ended"),
    mutant(LINES, "        if (i < left) {", "        {", "ended"),
    mutant(QUERIES, "tile.high < args.key_to ? tile.high : args.key_to", "tile.high", "bits"),
];

/// The rows that show what a file's mistakes do.
pub(super) fn subjects(file: &str) -> Vec<Row> {
    let key = match file {
        SM90 | PRODUCTS => "attention_sm90_f16_64_64",
        PAGED | COMBINE => "attention_paged_f16_64",
        _ => "attention_sm80_bf16_64",
    };
    let row = rows().into_iter().find(|row| row.key() == key).expect("a row of the table");
    vec![row, Row::AttentionCombine(AttentionCombine)]
}

/// Files of which there are mistakes, one for each subject.
pub(super) const SUBJECTS: [&str; 3] = [SM80, SM90, PAGED];

/// Tails in every axis, every way that keys may end, more chunks than a ring has stages, and cuts.
pub(super) fn verdict(row: Row, model: &mut Model) -> String {
    let lens: &[[usize; 2]] = &[[70, 150], [70, 201]];
    let plain = Options { rows: 70, keys: 201, ..PLAIN };
    let mut cases = vec![
        Options { batch: 2, group: 2, lens, causal: true, ..plain },
        Options { keys: 300, window: Some([17, 5]), rows: 20, group: 3, ..plain },
    ];
    if !matches!(row, Row::AttentionSm90(_)) {
        cases.push(Options { odd: true, dims: Some([53, 43]), rows: 9, keys: 70, ..plain });
    }
    for options in cases {
        let case = Case::new(row, options, 3);
        for order in [Order::Late, Order::Early, Order::Seeded(1), Order::LateProducts] {
            let outcome = case.run(model, order);
            if !outcome.found.is_empty() {
                return outcome.found;
            }
            if let Err(wrong) = case.check(&outcome) {
                return format!("bits: {wrong}");
            }
        }
        let (whole, cut) = (case.run(model, Order::Late), case.run_cut(model, 4, 1));
        if !cut.found.is_empty() {
            return cut.found;
        }
        if cut.buffers[OUT] != whole.buffers[OUT] || cut.buffers[LSE] != whole.buffers[LSE] {
            return "bits: a cut gives others".into();
        }
    }
    if !matches!(row, Row::AttentionSm90(_)) {
        let options = Options { page: 16, rows: 3, keys: 70, lens: &[[3, 70]], ..PLAIN };
        let mut case = Case::new(row, options, 3);
        let count = case.args.pages.count;
        case.set_page(0, 1, count);
        let outcome = case.run(model, Order::Late);
        if !outcome.found.is_empty() {
            return outcome.found;
        }
        if case.fault(&outcome) != [1, count, count] {
            return "bits: a fault that nobody tells".into();
        }
    }
    "nothing".into()
}
