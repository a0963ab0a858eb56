//! Known mistakes of the products of 8-bit values, and what is run to find them.

use super::{Mutant, mutant};
use crate::case::scaled::{By, Case, Group, Options, To, form};
use crate::model::{Model, Order};
use crate::tensor::{BF16, F32};
use leasehold_kernels::{Row, rows};

const FP8: &str = "cuda/matmul_sm90_fp8.cu";
const SCALES: &str = "cuda/tile/scales.h";
const RING: &str = "cuda/tile/ring.h";

pub(super) const MUTANTS: &[Mutant] = &[
    // Ring, steps, chunks and their scales.
    mutant(FP8, "wait_barrier(ring.full(), ring.phase);", "", "copy-in-flight"),
    mutant(
        FP8,
        "wait_barrier(ring.empty(), ring.phase ^ 1);\n            arrive_expecting",
        "arrive_expecting",
        "copy-in-flight",
    ),
    mutant(FP8, "        wgmma_fence();\n", "", "wgmma-unfenced"),
    mutant(FP8, "                wgmma_wait<0>();\n", "", "race"),
    mutant(FP8, "multiply<false>(", "multiply<true>(", "bits"),
    mutant(FP8, "descriptor::of(a + step, 0)", "descriptor::of(a + step / 2, 0)", "bits"),
    mutant(FP8, "ring.empty(), wave == S::WAVES - 1", "ring.empty()", "race"),
    mutant(FP8, "factors[i / 2 % 2]", "factors[0]", "bits"),
    mutant(
        FP8,
        "of_a.of_chunk(row(wave, 2), tile.owned, chunk)",
        "of_a.of_chunk(row(0, 2), tile.owned, chunk)",
        "bits",
    ),
    mutant(SCALES, "(i64)chunk * scales_.depth", "0 * scales_.depth", "bits"),
    mutant(RING, "            phase ^= 1;\n", "", "copy-in-flight"),
    mutant(RING, "        fence_barriers();\n", "", "barrier-unfenced"),
    // Clusters.
    mutant(FP8, "part.column += rank * S::BLOCK_N;", "part.column += 0;", "bits"),
    mutant(FP8, "    ring.end();\n", "", "cluster-exit"),
    mutant(RING, "arrive_at(empty, lane);", "arrive_at(empty, cluster_rank());", "copy-in-flight"),
    mutant(RING, "CLUSTER * readers", "readers", "phase-lag"),
    mutant(FP8, "S::Stages::meet();", "sync_block();", "race"),
    mutant(FP8, "S::Stages::rank() * S::WAVES * SUMS + i", "i", "bits"),
    // Its way out.
    mutant(
        FP8,
        "            // The warp has read the lot before.\n            sync_warp();\n",
        "",
        "race",
    ),
    mutant(FP8, "            // All of the lot is there.\n            sync_warp();\n", "", "race"),
    mutant(FP8, "16 * warp + 8 * (lot % 2)", "16 * warp + lot % 2", "bits"),
    mutant(FP8, "S::RING_BYTES + number * S::STAGED", "S::RING_BYTES", "race"),
    mutant(FP8, "corner{first_row(wave),", "corner{first_row(0),", "bits"),
    mutant(FP8, "    output::wait();\n", "", "exit-with-stores"),
];

/// The sources whose kernels are run as they are, too.
pub(super) const SUBJECTS: [&str; 1] = [FP8];

/// The rows that show what a file's mistakes do: two waves a warpgroup, by one block or by a cluster.
pub(super) fn subjects(_file: &str) -> Vec<Row> {
    let keys = ["matmul_sm90_e4m3_e4m3_256x128", "matmul_sm90_e4m3_e4m3_256x256_by2"];
    let row = |key| rows().into_iter().find(|row| row.key() == key).expect("a row of the table");
    keys.map(row).into()
}

/// What a mutant's runs say first: the model's findings, or that values are wrong.
pub(super) fn verdict(_first: Row, model: &mut Model) -> String {
    let runs = subjects(FP8).into_iter().flat_map(|row| [648, 200].map(|k| (row, k, false)));
    for (row, k, boxed) in runs.chain([(subjects(FP8)[0], 200, true)]) {
        let [a, b] = form(&row).types;
        // Of a cluster the second block has two columns.
        let options = Options {
            size: [1, 260, 130, k],
            types: [a, b, if boxed { BF16 } else { F32 }],
            scales: [By::Chunk, By::Block],
            to: To::Float,
            group: Group::None,
            interleaved: false,
            whole_epilogue: false,
            boxed,
            seed: 3,
        };
        let case = Case::new(row, options);
        let orders = [Order::Late, Order::Early, Order::Seeded(1), Order::LateProducts];
        let whole = orders.map(|order| (order, false));
        let cut = (row.cluster() > 1 && k == 200).then_some((Order::Late, true));
        for (order, is_cut) in whole.into_iter().chain(cut) {
            let outcome = match is_cut {
                true => case.run_cut(model, order, 128),
                false => case.run(model, order, 2),
            };
            if !outcome.found.is_empty() {
                return outcome.found;
            }
            if let Err(wrong) = case.judge(&outcome.buffers) {
                return format!("bits: {wrong}");
            }
        }
    }
    "nothing".into()
}
