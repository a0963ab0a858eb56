//! Whether the model finds what it is there to find: known mistakes, each put into a copy of the sources, must be named
//! by the detector that is written beside it.
//!
//! It takes a compiler's run for each, so it is ignored unless asked for:
//! `cargo test -p leasehold-kernels --test mutants -- --ignored`.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "mutants/attention.rs"]
mod attention;
mod case;
#[path = "mutants/gradients.rs"]
mod gradients;
mod model;

use case::Case;
use leasehold_kernels::{Row, rows};
use model::{Build, Model, Order};
use std::path::{Path, PathBuf};

struct Mutant {
    file: &'static str,
    find: &'static str,
    replace: &'static str,
    /// The finding's first word; `bits` where outputs are wrong and nothing else tells.
    detector: &'static str,
}

const fn mutant(
    file: &'static str,
    find: &'static str,
    replace: &'static str,
    detector: &'static str,
) -> Mutant {
    Mutant { file, find, replace, detector }
}

const SM80: &str = "cuda/matmul_sm80.cu";
const SM90: &str = "cuda/matmul_sm90.cu";

const MUTANTS: &[Mutant] = &[
    // The ring of cp.async.
    mutant(
        SM80,
        "wait_copies<S::STAGES - 2>();",
        "wait_copies<S::STAGES - 1>();",
        "copy-in-flight",
    ),
    mutant(SM80, "wait_copies<S::STAGES - 2>();", "", "copy-in-flight"),
    mutant(SM80, "commit_copies();", "", "copy-in-flight"),
    mutant(SM80, "S::STAGES - 1; step++", "S::STAGES - 2; step++", "copy-in-flight"),
    mutant(
        SM80,
        "            sync_block();\n            fetch(step + S::STAGES - 1);",
        "            fetch(step + S::STAGES - 1);",
        "race",
    ),
    mutant(
        SM80,
        "            fetch(step + S::STAGES - 1);\n            multiply(stage(step), stage(step) + S::A_BYTES);",
        "            multiply(stage(step), stage(step) + S::A_BYTES);\n            fetch(step + S::STAGES);",
        "race",
    ),
    mutant(SM80, "return n < CHUNK ? n : CHUNK;", "return CHUNK;", "ended"),
    mutant(SM80, "rest(p.outer < outer ? k_end : 0, k + p.k)", "rest(k_end, k + p.k)", "ended"),
    // Fragments and the way out.
    mutant(
        SM80,
        "{b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]}",
        "{b[j / 2][j % 2], b[j / 2][j % 2 + 2]}",
        "bits",
    ),
    mutant(SM80, "K_FIRST ? matrix / 2 : matrix % 2,", "matrix % 2,", "bits"),
    mutant(
        SM80,
        "        sync_block();\n#pragma unroll\n        for (u32 i = 0; i < S::BLOCKS_M; i++)",
        "#pragma unroll\n        for (u32 i = 0; i < S::BLOCKS_M; i++)",
        "race",
    ),
    mutant(SM80, "        sync_block();\n#pragma unroll 1", "#pragma unroll 1", "race"),
    mutant(SM80, "if (row + r < m && column + c < n)", "if (row + r < m)", "ended"),
    mutant("cuda/tile/epilogue.h", "if (c_.all.present) {", "{", "ended"),
    // The ring of boxes and its barriers.
    mutant(SM90, "wait_barrier(ring.full(), ring.phase);", "", "copy-in-flight"),
    mutant(SM90, "wait_barrier(ring.empty(), ring.phase ^ 1);", "", "copy-in-flight"),
    mutant(
        SM90,
        "wait_barrier(ring.empty(), ring.phase ^ 1);",
        "wait_barrier(ring.empty(), ring.phase);",
        "deadlock",
    ),
    mutant(SM90, "phase ^= 1;", "", "copy-in-flight"),
    mutant(
        SM90,
        "arrive_expecting(ring.full(), S::STAGE_BYTES);",
        "arrive_expecting(ring.full(), S::STAGE_BYTES - 128);",
        "barrier-bytes",
    ),
    mutant(
        SM90,
        "arrive_expecting(ring.full(), S::STAGE_BYTES);",
        "arrive_expecting(ring.full(), S::STAGE_BYTES + 128);",
        "deadlock",
    ),
    mutant(
        SM90,
        "if (empty != 0 && thread % 32 == 0)",
        "if (empty != 0 && thread == 0)",
        "deadlock",
    ),
    mutant(
        SM90,
        "init_barrier(ring.empty(), S::CONSUMERS * WARPGROUP / 32);",
        "init_barrier(ring.empty(), S::CONSUMERS);",
        "deadlock",
    ),
    mutant(SM90, "        fence_barriers();\n", "", "barrier-unfenced"),
    mutant(
        SM90,
        "    sync_block();\n    if (warpgroup == 0)",
        "    if (warpgroup == 0)",
        "barrier",
    ),
    // Products behind the threads.
    mutant(SM90, "wgmma_fence();", "", "wgmma-unfenced"),
    mutant(SM90, "wgmma_commit();", "", "exit-with-products"),
    mutant(SM90, "wgmma_wait<1>();", "wgmma_wait<2>();", "race"),
    mutant(SM90, "        wgmma_wait<0>();\n", "", "exit-with-products"),
    mutant(
        SM90,
        "            release(last_empty);\n",
        "            release(ring.empty());\n",
        "race",
    ),
    mutant(
        SM90,
        "tile + first * descriptor::ROW + k * ELEMENT",
        "tile + first * descriptor::ROW + k",
        "bits",
    ),
    mutant(
        SM90,
        "return descriptor::of(at, BLOCK);",
        "return descriptor::of(at, BLOCK / 2);",
        "bits",
    ),
    mutant(SM90, "64 * number, step", "0, step", "bits"),
    mutant("cuda/tile/descriptor.h", "SWIZZLE_128 = 1", "SWIZZLE_128 = 2", "descriptor"),
    // Its way out.
    mutant(
        SM90,
        "            // The warpgroup has read the slice before.\n            meet();",
        "",
        "race",
    ),
    mutant(SM90, "            // All of the slice is there.\n            meet();", "", "race"),
];

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A copy of the sources with the mistake in it.
fn mutated(mutant: &Mutant, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    let mut folders = ["cuda", "host"].map(PathBuf::from).to_vec();
    while let Some(sub) = folders.pop() {
        std::fs::create_dir_all(folder.join(&sub)).expect("a folder for the copy");
        for entry in std::fs::read_dir(crate_folder().join(&sub)).expect("a folder of sources") {
            let name = sub.join(entry.expect("an entry").file_name());
            let from = crate_folder().join(&name);
            if from.is_dir() {
                folders.push(name);
                continue;
            }
            let mut text = std::fs::read_to_string(&from).expect("a source");
            if name == Path::new(mutant.file) {
                assert_eq!(
                    text.matches(mutant.find).count(),
                    1,
                    "{:?} in {}",
                    mutant.find,
                    mutant.file
                );
                text = text.replace(mutant.find, mutant.replace);
            }
            std::fs::write(folder.join(name), text).expect("the copy");
        }
    }
    folder
}

/// The row that shows what a file's mistakes do: of its kernel, both ways of lying, and more than one tile a block.
fn subject(file: &str) -> Row {
    let key = if file == SM90 || file.contains("descriptor") {
        "matmul_sm90_f16_ko_128x128"
    } else {
        "matmul_sm80_bf16_kk_64x64"
    };
    rows().into_iter().find(|row| row.key() == key).expect("a row of the table")
}

/// What a mutant's runs say first: the model's findings, or that bits are wrong.
fn verdict(row: Row, model: &mut Model) -> String {
    // Tails in every axis; more steps than a ring has stages, and fewer, whose barriers then order less.
    for k in [456, 120] {
        let case = Case::new(row, 1, [150, 140, k], 3);
        for order in [Order::Late, Order::Early, Order::Seeded(1), Order::LateProducts] {
            let outcome = case.run(model, order);
            if !outcome.found.is_empty() {
                return outcome.found;
            }
            if let Err(wrong) = case.check(&outcome) {
                return format!("bits: {wrong}");
            }
        }
    }
    "nothing".into()
}

#[test]
#[ignore = "compiles the kernels once a mutant"]
fn every_mutant_is_found() {
    find_all("products", &[SM80, SM90], MUTANTS, |file| vec![subject(file)], verdict);
}

#[test]
#[ignore = "compiles the kernels once a mutant"]
fn every_mutant_of_attention_is_found() {
    use attention::{MUTANTS, SUBJECTS, subjects, verdict};
    find_all("attention", &SUBJECTS, MUTANTS, subjects, verdict);
}

#[test]
#[ignore = "compiles the kernels once a mutant"]
fn every_mutant_of_gradients_is_found() {
    use gradients::{MUTANTS, SUBJECTS, subjects, verdict};
    find_all("gradients", &SUBJECTS, MUTANTS, subjects, verdict);
}

/// Runs the rows of each file as they are, where nothing may be found, then each mutant. The first row is judged.
fn find_all(
    name: &str,
    unchanged: &[&str],
    mutants: &[Mutant],
    subjects: impl Fn(&str) -> Vec<Row>,
    verdict: impl Fn(Row, &mut Model) -> String,
) {
    for file in unchanged {
        let rows = subjects(file);
        let (row, name) = (rows[0], format!("unchanged-{}", rows[0].key()));
        let Some(mut model) = Model::of(Build::Sanitized, crate_folder(), &name, rows) else {
            return;
        };
        assert_eq!(verdict(row, &mut model), "nothing", "{file} without a mistake");
    }
    let mut missed = Vec::new();
    for (i, mutant) in mutants.iter().enumerate() {
        let name = format!("mutant-{name}-{i}");
        let (rows, folder) = (subjects(mutant.file), mutated(mutant, &name));
        let row = rows[0];
        let Some(mut model) = Model::of(Build::Sanitized, &folder, &name, rows) else {
            return;
        };
        let said = verdict(row, &mut model);
        println!("{name}: {}", said.lines().next().unwrap_or_default());
        if !said.lines().any(|line| line.starts_with(mutant.detector)) {
            let Mutant { find, detector, .. } = mutant;
            let said: Vec<&str> = said.lines().take(4).collect();
            missed.push(format!("mutant {i}, {find:?}: {detector} expected, but {said:#?}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
