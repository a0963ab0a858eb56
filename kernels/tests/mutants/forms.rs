//! Mistakes in the forms of Hopper's products: clusters, warpgroups that take turns, swapped sides, groups along k.

use crate::case::{Case, Out};
use crate::model::{Model, Order};
use crate::{Mutant, mutant};
use leasehold_kernels::{MatmulMerge, Row, rows};

const SM90: &str = "cuda/matmul_sm90.cu";
const RING: &str = "cuda/tile/ring.h";
const OUTPUT: &str = "cuda/tile/output.h";
const MERGE: &str = "cuda/matmul_merge.cu";
const TAIL: &str = "cuda/tile/tail.h";

pub(crate) const MUTANTS: &[Mutant] = &[
    // Clusters.
    mutant(
        RING,
        "has come: the block may end.\n            for (u32 i = 0; i < STAGES;",
        "has come: the block may end.\n            for (u32 i = 1; i < STAGES;",
        "cluster-exit",
    ),
    mutant(SM90, "    ring.end();\n", "", "cluster-exit"),
    mutant(SM90, "S::Stages::meet();", "sync_block();", "race"),
    mutant(RING, "arrive_at(empty, lane);", "arrive_at(empty, cluster_rank());", "copy-in-flight"),
    mutant(RING, "lane < CLUSTER)", "lane == 0)", "deadlock"),
    mutant(RING, "CLUSTER * readers", "readers", "phase-lag"),
    mutant(SM90, "left + rank * S::LEFT", "left", "bits"),
    mutant(
        RING,
        "copy_box_to((1 << S::CLUSTER) - 1,",
        "copy_box_to(1 << cluster_rank(),",
        "deadlock",
    ),
    mutant(RING, "barrier, outer + first, k, batch", "barrier, outer, k, batch", "bits"),
    mutant(RING, "map, to + first * descriptor::ROW,", "map, to,", "copy-in-flight"),
    // Turns.
    mutant(SM90, "(turn + number + 1) % 2", "(turn + number) % 2", "shared-uninitialised"),
    mutant(SM90, "            turns.wait();\n", "", "shared-uninitialised"),
    mutant(SM90, "            turns.pass();\n", "", "deadlock"),
    mutant(
        SM90,
        "init_barrier(shared_base() + S::TURNS + i * 8, WARPGROUP / 32);",
        "init_barrier(shared_base() + S::TURNS + i * 8, 1);",
        "deadlock",
    ),
    mutant(
        SM90,
        "(S::PING_PONG ? 1 : S::CONSUMERS) * WARPGROUP / 32",
        "S::CONSUMERS * WARPGROUP / 32",
        "deadlock",
    ),
    mutant(RING, "        phase ^= stage / STAGES % 2;\n", "", "deadlock"),
    mutant(OUTPUT, "sync_threads<2, WARPGROUP>", "sync_threads<1, WARPGROUP>", "barrier"),
    // Swapped sides.
    mutant(SM90, "S::SWAPPED ? part.column : part.row", "part.row", "bits"),
    mutant(OUTPUT, "warp * 2 + matrix % 2), words", "warp * 2 + matrix / 2), words", "race"),
    mutant(
        OUTPUT,
        "store_shared_f32(sum(c + 1, r), sums[i + 1]);",
        "store_shared_f32(sum(c + 1, r), sums[i]);",
        "bits",
    ),
    // Splits of K.
    mutant(SM90, "nth * all.splits + split", "nth * all.splits", "global-uninitialised"),
    mutant(SM90, "of_tile(block) * 64 + fragment", "block * 64 + fragment", "global-uninitialised"),
    mutant(MERGE, "u32 split = 1;", "u32 split = 2;", "bits"),
    // Groups along k.
    mutant(SM90, "args.group == ALONG_K", "false", "bits"),
    mutant(SM90, "S::RIGHT_OUTER>(stage + S::LEFT_BYTES, k,", "S::RIGHT_OUTER>(stage, k,", "bits"),
    mutant(SM90, "        sync_threads<3, THREADS>();\n", "", "race"),
    mutant(TAIL, "word & 0xffff", "word", "bits"),
    mutant(TAIL, " ^ line % 8)", ")", "bits"),
    mutant(TAIL, "OUTER && left > 0 ? PIECE : left", "left", "bits"),
    mutant(TAIL, "    fence_async();\n", "", "proxy-fence"),
];

/// The row that groups along k run on.
const ALONG_K: &str = "matmul_sm90_f16_ko_128x64";

/// The rows that show what mistakes do.
pub(crate) fn subjects(_file: &str) -> Vec<Row> {
    let keys = ["256x128_ping_pong_by2", "256x256_by2", "16x128_swapped"];
    let row = |key| rows().into_iter().find(|row| row.key() == format!("matmul_sm90_f16_ko_{key}"));
    let forms = keys.into_iter().map(|key| row(key).expect("a row of the table"));
    let along_k = rows().into_iter().filter(|row| row.key() == ALONG_K);
    forms.chain([Row::MatmulMerge(MatmulMerge)]).chain(along_k).collect()
}

/// What a run or the judgement of its sums says first.
fn said(case: &Case, outcome: crate::model::Outcome) -> Option<String> {
    if !outcome.found.is_empty() {
        return Some(outcome.found);
    }
    case.check(&outcome).err().map(|wrong| format!("bits: {wrong}"))
}

/// What the runs of all rows say first.
pub(crate) fn verdict(_first: Row, model: &mut Model) -> String {
    let sizes = [[140, 140, 456], [140, 70, 328], [9, 200, 136]];
    for (row, size) in subjects(SM90).into_iter().zip(sizes) {
        for out in [Out::Boxes, Out::Odd] {
            let case = Case::with(row, out, 1, size, 3).on(1);
            let whole = [Order::Late, Order::Early, Order::Seeded(1)].map(|order| (order, None));
            // Splits leave what the epilogue has not seen: once is enough.
            let split = (out == Out::Odd).then_some((Order::Late, Some(128)));
            for (order, split) in whole.into_iter().chain(split) {
                let outcome = match split {
                    Some(split) => case.run_split(model, order, split, false),
                    None => case.run(model, order),
                };
                if let Some(said) = said(&case, outcome) {
                    return said;
                }
            }
        }
    }
    // The last group ends beside what is no number.
    let Some(row) = rows().into_iter().find(|row| row.key() == ALONG_K) else {
        return "no row of groups along k".into();
    };
    let case = Case::along_k(row, Out::Boxes, [70, 72, 150], &[65, 3, 77], 5);
    let along_k = |order| said(&case, case.run(model, order));
    [Order::Late, Order::Early].into_iter().find_map(along_k).unwrap_or_else(|| "nothing".into())
}
