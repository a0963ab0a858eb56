//! Every row of the table compiles for every architecture that it runs on, without spills, a stack, or a note that wgmma
//! wait for each other, and its machine code holds what it is written for. `compiled.tsv` keeps what was seen; a row whose
//! sources changed since is compiled again, and so are a twentieth of the others, drawn by a printed seed.
//! `LEASEHOLD_TEST_FULL=1` compiles all, `LEASEHOLD_WRITE_GOLDEN=1` all that changed, and writes.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod digest;
mod nvrtc;

use leasehold_kernels::{Bytes, FLAGS, Row, Streaming, rows};
use nvrtc::{Compiled, Nvrtc, SAID};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is kept of a compiled row.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    /// Of sources, flags and compiler.
    digest: String,
    registers: u32,
    /// Bytes that are spilled, of which there are none.
    spills: u32,
    shared_bytes: u32,
    /// Instructions: tensor-core products, copies by the engine, and how many in all.
    products: usize,
    copies: usize,
    instructions: usize,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { digest, registers, spills, shared_bytes, products, copies, instructions } = self;
        write!(
            f,
            "{digest}\t{registers}\t{spills}\t{shared_bytes}\t{products}\t{copies}\t{instructions}"
        )
    }
}

impl FromStr for Seen {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [digest, rest @ ..] = &fields[..] else { return Err(line.into()) };
        let numbers: Result<Vec<usize>, _> = rest.iter().map(|n| n.parse()).collect();
        let Ok([registers, spills, shared_bytes, products, copies, instructions]) =
            numbers.as_deref()
        else {
            return Err(line.into());
        };
        Ok(Self {
            digest: (*digest).into(),
            registers: *registers as u32,
            spills: *spills as u32,
            shared_bytes: *shared_bytes as u32,
            products: *products,
            copies: *copies,
            instructions: *instructions,
        })
    }
}

const HEADER: &str =
    "row\tarch\tdigest\tregisters\tspills\tshared bytes\tproducts\tcopies\tinstructions\n";

fn table() -> BTreeMap<String, Seen> {
    let text = std::fs::read_to_string(file()).unwrap_or_default();
    let lines = text.lines().skip(1).map(|line| {
        let (row, rest) = line.split_once('\t').expect("a row");
        let (arch, rest) = rest.split_once('\t').expect("an architecture");
        (format!("{row}\t{arch}"), rest.parse().expect("what was seen"))
    });
    lines.collect()
}

fn file() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/compiled.tsv"))
}

/// The largest shared memory of a block, in bytes.
fn shared_limit(arch: &str) -> u32 {
    match arch {
        "sm_80" => 163 << 10,
        "sm_90a" => 227 << 10,
        _ => 99 << 10,
    }
}

fn number_before(log: &str, what: &str) -> Option<u32> {
    let before = &log[..log.find(what)?];
    before.split_whitespace().next_back()?.parse().ok()
}

/// Compiles a row, and holds it to what every row must be.
fn see(nvrtc: &Nvrtc, row: &Row, arch: &str, digest: String) -> Result<Seen, String> {
    let Compiled { ok, log, cubin } = nvrtc.compile(row, arch);
    let complain = |what: &str| Err(format!("{} {arch}: {what}\n{log}", row.key()));
    if !ok {
        return complain("does not compile");
    }
    let (stack, spills) = (" bytes stack frame", " bytes spill stores");
    let [Some(0), Some(spills @ 0)] = [stack, spills].map(|what| number_before(&log, what)) else {
        return complain("a stack, or spills");
    };
    if log.contains("(C75") {
        return complain("a note of the assembler");
    }
    if row.shared_bytes() > shared_limit(arch) {
        return complain("more shared memory than the architecture has");
    }
    let Some(registers) = number_before(&log, " registers") else {
        return complain("no count of registers");
    };
    let sass = nvrtc.disassemble(&cubin, &format!("{}-{arch}", row.key()));
    let lines = || sass.lines().filter(|line| line.contains(';'));
    let count = |names: &[&str]| {
        lines().filter(|line| names.iter().any(|name| line.contains(name))).count()
    };
    if count(&["LDL", "STL"]) > 0 {
        return complain("local loads or stores");
    }
    let of_warpgroups = |line: &str| line.contains("HGMMA") || line.contains("QGMMA");
    let between = lines().skip_while(|line| !of_warpgroups(line)).collect::<Vec<_>>();
    let end = between.iter().rposition(|line| of_warpgroups(line)).unwrap_or(0);
    if between[..end].iter().any(|line| line.contains("MEMBAR") && !line.contains(".CTA")) {
        return complain("a wait for the memory of more than the block between products");
    }
    let products = count(&["HGMMA", "QGMMA", "HMMA", "IMMA", "QMMA"]);
    let copies = count(&["UTMALDG", "LDGSTS"]);
    let as_written = match row {
        Row::MatmulReference(_) | Row::MatmulF32(_) => count(&["FFMA"]) > 0,
        Row::MatmulSm80Bytes(row) => match row.values {
            Bytes::I8 => count(&["IMMA"]) > 0,
            Bytes::Fp8AsF16 => count(&["HMMA"]) > 0,
            Bytes::Fp8 => count(&["QMMA"]) > 0,
        },
        Row::MatmulSm80(_)
        | Row::AttentionSm80(_)
        | Row::AttentionPaged(_)
        | Row::AttentionBackwardSm80(_) => products > 0,
        Row::MatmulMerge(_) => count(&["LDG.E.128"]) > 0,
        Row::MatmulSm90(row) => {
            let out = count(&["UTMASTG"]) > 0 && count(&["STSM"]) > 0;
            let shared = row.cluster == 1 || count(&["MULTICAST"]) > 0;
            count(&["HGMMA"]) > 0 && count(&["UTMALDG"]) > 0 && out && shared
        }
        Row::MatmulGroups(_)
        | Row::MatmulIndices(_)
        | Row::AttentionReference(_)
        | Row::AttentionEntries(_)
        | Row::AttentionCombine(_)
        | Row::AttentionBackwardReference(_)
        | Row::StreamingReference(_) => true,
        // Sixteen bytes a lane, where rows allow it.
        Row::AttentionBackwardRows(_) => count(&["LDG.E.128"]) > 0,
        // Sixteen bytes a thread, but where each has a row of its own.
        Row::Streaming(row) => {
            *row == Streaming::ReduceAcross || count(&["LDG.E.128", "STG.E.128"]) > 0
        }
        Row::MatmulSm90Fp8(_) => count(&["QGMMA"]) > 0 && count(&["UTMALDG"]) > 0,
        _ => count(&["HGMMA"]) > 0 && count(&["UTMALDG"]) > 0,
    };
    if !as_written {
        return complain("not the instructions that it is written for");
    }
    let shared_bytes = row.shared_bytes();
    let instructions = lines().count();
    Ok(Seen { digest, registers, spills, shared_bytes, products, copies, instructions })
}

/// A row to compile: its key in the table, architecture, digest, and what is known of it.
type Job = (String, Row, &'static str, String, Option<Seen>);

/// Compiles rows on all cores.
fn see_all(nvrtc: &Nvrtc, jobs: &[Job]) -> Vec<Result<Seen, String>> {
    let next = AtomicUsize::new(0);
    let results: Vec<OnceLock<_>> = jobs.iter().map(|_| OnceLock::new()).collect();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((i, (_, row, arch, digest, _))) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(i).map(|job| (i, job))
                } {
                    let _ = results[i].set(see(nvrtc, row, arch, digest.clone()));
                }
            });
        }
    });
    results.into_iter().map(|result| result.into_inner().expect("every job is done")).collect()
}

#[test]
fn every_row_compiles_as_it_is_written_down() {
    let Some(nvrtc) = Nvrtc::open() else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "LEASEHOLD_CUDA names no compiler");
        return println!(
            "skip: rows by NVRTC: LEASEHOLD_CUDA names no folder of nvidia-cuda-nvrtc"
        );
    };
    let set = |name| std::env::var(name).is_ok_and(|value| value == "1");
    let (all, write) = (set("LEASEHOLD_TEST_FULL"), set("LEASEHOLD_WRITE_GOLDEN"));
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut seed = clock.map_or(1, |time| time.as_nanos() as u64) | 1;
    println!("seed {seed}");
    let version = nvrtc.version();
    let mut seen = table();
    let (mut keys, mut jobs) = (Vec::new(), Vec::new());
    for row in rows() {
        for arch in row.archs() {
            let key = format!("{}\t{arch}", row.key());
            let digest = digest::of(&row, FLAGS.into_iter().chain(SAID).chain([&*version]));
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let known = seen.get(&key).filter(|seen| seen.digest == digest).cloned();
            keys.push(key.clone());
            if known.is_some() && !all && !(seed >> 33).is_multiple_of(20) {
                continue;
            }
            jobs.push((key, row, *arch, digest, known));
        }
    }
    let mut wrong = Vec::new();
    for ((key, .., known), result) in jobs.iter().zip(see_all(&nvrtc, &jobs)) {
        match result {
            Err(complaint) => wrong.push(complaint),
            Ok(now) if write => _ = seen.insert(key.clone(), now),
            Ok(now) if known.as_ref() != Some(&now) => {
                wrong.push(format!("{key}: {now}, but compiled.tsv has {known:?}"));
            }
            Ok(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if write {
        seen.retain(|key, _| keys.contains(key));
        let lines: String = seen.iter().map(|(key, seen)| format!("{key}\t{seen}\n")).collect();
        std::fs::write(file(), HEADER.to_owned() + &lines).expect("compiled.tsv is written");
    }
    let stale: Vec<&String> = seen.keys().filter(|key| !keys.contains(key)).collect();
    assert!(write || stale.is_empty(), "rows that are no more: {stale:?}");
}
