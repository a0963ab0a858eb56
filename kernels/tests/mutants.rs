//! Whether the model finds what it is there to find: known mistakes, each put into a copy of the sources, must be named
//! by the detector that is written beside it.
//!
//! Each takes a run of the compiler, so those run whose sources, the model's with them, changed since they were found, and a
//! twentieth of the others, drawn by a printed seed. `mutants/*.tsv` keep what was found; `LEASEHOLD_TEST_FULL=1` runs all,
//! `LEASEHOLD_WRITE_GOLDEN=1` all that changed, and writes.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "mutants/attention.rs"]
mod attention;
mod case;
#[path = "mutants/detectors.rs"]
mod detectors;
#[path = "mutants/forms.rs"]
mod forms;
#[path = "mutants/gradients.rs"]
mod gradients;
mod model;
#[path = "mutants/named.rs"]
mod named;
#[path = "mutants/scaled.rs"]
mod scaled;
#[path = "rows/tensor.rs"]
#[allow(dead_code, reason = "the rest is the rows' tests'")]
mod tensor;

use case::{Case, Out};
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

const COPIES: &str = "cuda/tile/copies.h";
const SM80: &str = "cuda/matmul_sm80.cu";
const SM90: &str = "cuda/matmul_sm90.cu";
const OUTPUT: &str = "cuda/tile/output.h";
const RING: &str = "cuda/tile/ring.h";

const MUTANTS: &[Mutant] = &[
    // The ring of cp.async.
    mutant(COPIES, "wait_copies<STAGES - 2>();", "wait_copies<STAGES - 1>();", "copy-in-flight"),
    mutant(COPIES, "wait_copies<STAGES - 2>();", "", "copy-in-flight"),
    mutant(COPIES, "commit_copies();", "", "copy-in-flight"),
    mutant(COPIES, "STAGES - 1; step++", "STAGES - 2; step++", "copy-in-flight"),
    mutant(COPIES, "        sync_block();\n", "", "race"),
    mutant(
        COPIES,
        "        fetch(step + STAGES - 1);\n        multiply(step % STAGES, step);",
        "        multiply(step % STAGES, step);\n        fetch(step + STAGES);",
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
    mutant(
        SM80,
        "\n        const u32 second_outer = K_FIRST ? matrix / 2 : matrix % 2,",
        "\n        const u32 second_outer = matrix % 2,",
        "bits",
    ),
    mutant(
        SM80,
        "        sync_block();\n#pragma unroll\n        for (u32 i = 0; i < S::BLOCKS_M; i++)",
        "#pragma unroll\n        for (u32 i = 0; i < S::BLOCKS_M; i++)",
        "race",
    ),
    mutant(SM80, "sums are there.\n        sync_block();", "sums are there.", "race"),
    mutant(
        "cuda/tile/finish.h",
        "if (row >= part.end || column >= args.n) {",
        "if (row >= part.end) {",
        "ended",
    ),
    mutant("cuda/tile/epilogue.h", "if (c_.all.present) {", "{", "ended"),
    // Words, which are rounded and do not turn.
    mutant(SM80, "out[i] = tf32_of(f32_of_bits(out[i]));", "", "mma-unrounded"),
    mutant(
        SM80,
        "lane / 4, k + 4 * second_k + lane % 4",
        "lane % 8, k + 4 * second_k + lane / 8",
        "bits",
    ),
    // The ring of boxes and its barriers.
    mutant(SM90, "wait_barrier(ring.full(), ring.phase);", "", "copy-in-flight"),
    mutant(
        SM90,
        "a new ring passes.\n            wait_barrier(ring.empty(), ring.phase ^ 1);",
        "",
        "copy-in-flight",
    ),
    mutant(
        SM90,
        "a new ring passes.\n            wait_barrier(ring.empty(), ring.phase ^ 1);",
        "a new ring passes.\n            wait_barrier(ring.empty(), ring.phase);",
        "deadlock",
    ),
    mutant(RING, "phase ^= 1;", "", "copy-in-flight"),
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
    mutant(RING, "if (is && lane < CLUSTER)", "if (is && thread_index() % 128 == 0)", "deadlock"),
    mutant(
        SM90,
        "(S::PING_PONG ? 1 : S::CONSUMERS) * WARPGROUP / 32",
        "(S::PING_PONG ? 1 : S::CONSUMERS)",
        "deadlock",
    ),
    mutant(RING, "        fence_barriers();\n", "", "barrier-unfenced"),
    mutant(RING, "            sync_block();\n", "", "race"),
    // Products behind the threads.
    mutant(SM90, "wgmma_fence();", "", "wgmma-unfenced"),
    mutant(SM90, "wgmma_commit();", "", "exit-with-products"),
    mutant(SM90, "wgmma_wait<1>();", "wgmma_wait<2>();", "race"),
    mutant(SM90, "        wgmma_wait<0>();\n", "", "exit-with-products"),
    mutant(
        SM90,
        "            ring.release(last_empty, last_empty != 0);\n",
        "            ring.release(ring.empty());\n",
        "race",
    ),
    mutant(
        SM90,
        ": first * descriptor::ROW + k * ELEMENT",
        ": first * descriptor::ROW + k",
        "bits",
    ),
    mutant(
        SM90,
        "return descriptor::of(tile + at, BLOCK);",
        "return descriptor::of(tile + at, BLOCK / 2);",
        "bits",
    ),
    mutant(SM90, "PING_PONG ? 0 : number * S::BLOCKS", "PING_PONG ? 0 : 0", "bits"),
    mutant(
        SM90,
        "return descriptor::of(tile + at, BLOCK);",
        "return descriptor::of(tile + at, BLOCK) ^ (u64)3 << 62;",
        "descriptor",
    ),
    // A tile that begins where the swizzle does not.
    mutant(
        SM90,
        ": first * descriptor::ROW + k * ELEMENT",
        ": 128 + first * descriptor::ROW + k * ELEMENT",
        "descriptor",
    ),
    // Its way out.
    mutant(
        OUTPUT,
        "            // The warpgroup has read the slice before.\n            meet(consumer_);",
        "",
        "race",
    ),
    mutant(
        OUTPUT,
        "            // All of the slice is there.\n            meet(consumer_);",
        "",
        "shared-uninitialised",
    ),
    mutant(OUTPUT, "            wait();\n", "", "race"),
    mutant(
        OUTPUT,
        "            // The boxes before have been read.\n            meet(consumer_);",
        "",
        "race",
    ),
    mutant(OUTPUT, "            fence_async();\n", "", "proxy-fence"),
    mutant(
        OUTPUT,
        "            // Everybody's rows are there, and the engine sees them.\n            meet(consumer_);",
        "",
        "race",
    ),
    mutant(
        OUTPUT,
        "            fence_async();\n",
        "if (starts_boxes()) { fence_async(); }",
        "proxy-fence",
    ),
    mutant(OUTPUT, "                commit_stores();\n", "", "exit-with-stores"),
    mutant(
        OUTPUT,
        "swizzled<descriptor::ROW / 16>(r, chunk)",
        "r * descriptor::ROW + chunk * 16",
        "bits",
    ),
    mutant(OUTPUT, "left < 8 ? left : 8", "8", "ended"),
    mutant(SM90, "    output::wait();\n", "", "exit-with-stores"),
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

/// The rows that show what a file's mistakes do: of its kernel, both ways of lying, and more than one tile a block.
fn subjects(file: &str) -> Vec<Row> {
    let keys: &[&str] = if [SM90, OUTPUT, RING].contains(&file) {
        &["matmul_sm90_f16_ko_128x128"]
    } else {
        &["matmul_sm80_bf16_kk_64x64", "matmul_sm80_tf32_ko_64x64"]
    };
    let row = |key: &&str| rows().into_iter().find(|row| row.key() == *key);
    keys.iter().map(|key| row(key).expect("a row of the table")).collect()
}

/// What a mutant's runs say first: the model's findings, or that bits are wrong.
fn verdict(row: Row, model: &mut Model) -> String {
    // Tails in every axis; more steps than a ring has stages, and fewer, whose barriers then order less.
    let engine: &[Out] = if row.archs() == ["sm_90a"] { &[Out::Boxes] } else { &[] };
    let sizes = [(456, Out::Odd), (120, Out::Odd)].into_iter();
    let sizes = sizes.chain(engine.iter().map(|out| (456, *out)));
    let rows = subjects(row.file());
    for ((k, out), row) in sizes.flat_map(|size| rows.iter().map(move |row| (size, *row))) {
        let case = Case::with(row, out, 1, [150, 140, k], 3);
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

/// The mutants of every table.
fn all() -> impl Iterator<Item = &'static Mutant> {
    let tables = [
        MUTANTS,
        attention::MUTANTS,
        forms::MUTANTS,
        gradients::MUTANTS,
        named::MUTANTS,
        scaled::MUTANTS,
    ];
    tables.into_iter().flatten()
}

#[test]
fn every_mutant_names_what_is_there_once() {
    let mut stale = Vec::new();
    for Mutant { file, find, .. } in all() {
        let text = std::fs::read_to_string(crate_folder().join(file)).expect("a source");
        let count = text.matches(find).count();
        stale.extend((count != 1).then(|| format!("{file}: {find:?} is there {count} times")));
    }
    assert!(stale.is_empty(), "{}", stale.join("\n"));
}

#[test]
fn every_mutant_is_found() {
    find_all("products", &[SM80, SM90], MUTANTS, subjects, verdict);
}

#[test]
fn every_mutant_of_attention_is_found() {
    use attention::{MUTANTS, SUBJECTS, subjects, verdict};
    find_all("attention", &SUBJECTS, MUTANTS, subjects, verdict);
}

#[test]
fn every_mutant_of_forms_is_found() {
    use forms::{MUTANTS, subjects, verdict};
    find_all("forms", &["cuda/matmul_sm90.cu"], MUTANTS, subjects, verdict);
}

#[test]
fn every_mutant_of_indices_is_found() {
    use named::{INDICES, MUTANTS, SM90, subjects, verdict};
    find_all("named", &[INDICES, SM90], MUTANTS, subjects, verdict);
}

#[test]
fn every_mutant_of_bytes_is_found() {
    use scaled::{MUTANTS, SUBJECTS, subjects, verdict};
    find_all("scaled", &SUBJECTS, MUTANTS, subjects, verdict);
}

#[test]
fn every_mutant_of_gradients_is_found() {
    use gradients::{MUTANTS, SUBJECTS, subjects, verdict};
    find_all("gradients", &SUBJECTS, MUTANTS, subjects, verdict);
}

/// Of a mutant and of all that its row is made of.
fn digest(mutant: &Mutant, rows: &[Row]) -> Option<String> {
    let mut hash = blake3::Hasher::new();
    for part in [mutant.file, mutant.find, mutant.replace, mutant.detector] {
        hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    hash.update(model::sources(crate_folder(), rows)?.as_bytes());
    Some(hash.finalize().to_hex()[..16].into())
}

fn is_set(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| value == "1")
}

/// Runs the rows of each file as they are, where nothing may be found, then the mutants whose turn it is. The first row is
/// judged.
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
    let file = crate_folder().join(format!("tests/mutants/{name}.tsv"));
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut seed = clock.map_or(1, |time| time.as_nanos() as u64) | 1;
    println!("seed {seed}");
    let (mut missed, mut lines) = (Vec::new(), String::new());
    for (i, mutant) in mutants.iter().enumerate() {
        let rows = subjects(mutant.file);
        let Some(digest) = digest(mutant, &rows) else { return };
        let line = format!("{digest}\t{}\t{}\n", mutant.detector, mutant.file);
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let is_drawn = (seed >> 33).is_multiple_of(20) || is_set("LEASEHOLD_TEST_FULL");
        if (is_drawn || !found.contains(&line))
            && let Some(miss) = miss(mutant, &format!("mutant-{name}-{i}"), rows, &verdict)
        {
            missed.push(miss);
        }
        lines.push_str(&line);
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    if is_set("LEASEHOLD_WRITE_GOLDEN") {
        std::fs::write(file, &lines).expect("what was found is written");
    }
}

/// Runs a mutant, and says what happened if it was not found.
fn miss(
    mutant: &Mutant,
    name: &str,
    rows: Vec<Row>,
    verdict: impl Fn(Row, &mut Model) -> String,
) -> Option<String> {
    let (row, folder) = (rows[0], mutated(mutant, name));
    let mut model = Model::of(Build::Sanitized, &folder, name, rows)?;
    let said = verdict(row, &mut model);
    println!("{name}: {}", said.lines().next().unwrap_or_default());
    let Mutant { find, detector, .. } = mutant;
    if said.lines().any(|line| line.split(':').next() == Some(*detector)) {
        return None;
    }
    let said: Vec<&str> = said.lines().take(4).collect();
    Some(format!("{name}, {find:?}: {detector} expected, but {said:#?}"))
}
