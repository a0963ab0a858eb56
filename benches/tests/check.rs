//! `leasehold-bench check` rehearsed with tiny shapes, where there is no card: every table has its rows, every row its number
//! or the reason why there is none, and what was computed is right. The schema is the Rust type, which refuses a field too
//! many or too few. Also through `benches/gpu/check/peers.py`, without PyTorch, and as `benches/gpu/check/run` runs all of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use leasehold::Device;
use leasehold_bench::check::report::{CUT, Maybe, Report};
use leasehold_bench::check::{names, read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a machine without a card has no rows of.
const ABSENT: [&str; 2] = ["sanitizer", "adapter"];
/// Tables of rows with local ones beside leased ones, which need nobody else.
const LEASED: [&str; 2] = ["leased", "programs"];

/// Parses files, in which no block says a function or class twice: the second would take the place of the first.
const NAMES_ONCE: &str = "
import ast, sys
for path in sys.argv[1:]:
    for node in ast.walk(ast.parse(open(path).read())):
        body = node.body if isinstance(getattr(node, 'body', None), list) else []
        named = [of.name for of in body if isinstance(of, (ast.FunctionDef, ast.ClassDef))]
        twice = {name for name in named if named.count(name) > 1}
        assert not twice, f'{path}: said twice: {twice}'
";

/// Operands as the library hands them over, one of them empty.
const OPERANDS: &str = "
import ctypes, sys
sys.path.insert(0, sys.argv[1])
import peers
raw = (ctypes.c_uint8 * 3)(1, 2, 3)
assert bytes(peers.operand(ctypes.addressof(raw), 3)) == bytes([1, 2, 3])
assert bytes(peers.operand(None, 0)) == b''
";

/// What of the peers needs no card.
const ALONE: &str = include_str!("alone.py");

/// A file of this test's own, gone before and after.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        let file = format!("leasehold-check-{}-{name}.json", std::process::id());
        Self(std::env::temp_dir().join(file))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn bench() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_leasehold-bench"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn tiny(command: &mut Command, file: &File) -> Output {
    let words = ["--tiny", "--budget", "1", "--seed", "7", "--commit", "a test", "--out"];
    command.args(words).arg(&file.0).env("NODEVICE_SELECT", "1").output().unwrap()
}

/// Runs every table on a device and holds the report against its schema and its own words.
fn rehearse(device: &str) -> Report {
    let file = File::new(device);
    let output = tiny(Command::new(bench()).args(["--device", device, "check"]), &file);
    assert!(output.status.success(), "{}", said(&output));
    let report = read(&file.0).unwrap();
    assert_eq!(report.faults(), Vec::<String>::new());
    assert!(report.rehearsal && report.seed == 7 && report.commit == "a test");
    assert_eq!(report.device.asked, device);
    assert!(report.peers.why_not().unwrap().contains("peers.py"));
    let tables: Vec<&str> = report.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(tables, names());
    for table in &report.tables {
        for row in &table.rows {
            let number = row.ours.known();
            assert_eq!(number.is_none(), ABSENT.contains(&table.name.as_str()), "{row:?}");
            // What a lease adds can be less than what is measured beside it.
            let speed = number.is_none_or(|number| number.value > 0.0 || number.unit == "us added");
            assert!(speed, "{}: {row:?}", table.name);
            let has_peers = row.peers.iter().any(|peer| matches!(peer.number, Maybe::Is(_)));
            assert_eq!(has_peers, LEASED.contains(&table.name.as_str()), "{row:?}");
            // No model of the examples is named here.
            let is_drawn = row.what.contains("random weights of seed 7");
            assert_eq!(is_drawn, table.name == "programs", "{row:?}");
        }
    }
    report
}

#[test]
fn every_table_is_rehearsed_on_the_cpu() {
    let report = rehearse("cpu");
    let file = File::new("summary");
    std::fs::write(&file.0, serde_json::to_string(&report).unwrap()).unwrap();
    let output = Command::new(bench()).arg("check-summary").arg(&file.0).output().unwrap();
    let text = said(&output);
    assert!(output.status.success() && text.starts_with("**A rehearsal"), "{text}");
    assert!(names().iter().all(|name| text.contains(&format!("| {name} |"))), "{text}");
    assert!(!text.contains("| met") && !text.contains("not yet"), "{text}");
    // Random shapes are those of the seed.
    let dense = |report: &Report| {
        let table = report.tables.iter().find(|table| table.name == "dense").unwrap();
        table.rows.iter().map(|row| row.what.clone()).collect::<Vec<_>>()
    };
    let again = File::new("again");
    let mut command = Command::new(bench());
    let output = tiny(command.args(["--device", "cpu", "check", "--table", "dense"]), &again);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(dense(&read(&again.0).unwrap()), dense(&report));
}

#[test]
fn every_table_is_rehearsed_on_a_graphics_adapter() {
    let mut adapters = Device::list();
    adapters.retain(|found| found.caps.backend == "wgpu");
    let Some(found) = adapters.first() else {
        let ci = std::env::var_os("CI").is_some_and(|v| v == "true");
        assert!(!ci, "no wgpu adapter, and mesa-vulkan-drivers could have been installed");
        println!("skip: no wgpu adapter (install mesa-vulkan-drivers)");
        return;
    };
    rehearse(&found.name);
}

/// Where a process was lost, another goes on after the row: it keeps those before and asks nothing of them.
#[test]
fn from_a_row_on_earlier_rows_are_kept() {
    let file = File::new("from");
    let check = |from: &str| {
        let words = ["--device", "cpu", "check", "--table", "launches", "--from", from];
        let output = tiny(Command::new(bench()).args(words), &file);
        (output.status.code(), said(&output))
    };
    let refused = check("1");
    assert!(refused.0 != Some(0), "{}", refused.1);
    let (status, text) = check("0");
    assert!(status == Some(0) && text.contains("check: launches: row 0: "), "{text}");
    let rows = || read(&file.0).unwrap().tables.remove(0).rows;
    let whats = || rows().iter().map(|row| row.what.clone()).collect::<Vec<_>>();
    let first = rows();
    // As a process leaves it that ends in its second row.
    let mut cut = read(&file.0).unwrap();
    let mut row = cut.tables[0].rows.remove(1);
    row.ours = Maybe::not(CUT);
    cut.tables[0].rows.truncate(1);
    cut.tables[0].rows.push(row);
    std::fs::write(&file.0, serde_json::to_string(&cut).unwrap()).unwrap();
    let (status, text) = check("2");
    assert!(status != Some(0) && text.contains("cut off here"), "{text}");
    assert!(!text.contains(": row 1: ") && text.contains(": row 2: "), "{text}");
    assert_eq!(whats(), first.iter().map(|row| row.what.clone()).collect::<Vec<_>>());
    let found = rows();
    assert_eq!(found[0].ours, first[0].ours);
    assert_eq!(found[1].ours.why_not(), Some(CUT));
    let (status, text) = check("9");
    assert!(status != Some(0) && text.contains("--from 9"), "{text}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A folder of this test's own, gone before and after.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = format!("leasehold-check-{}-{name}", std::process::id());
        let folder = Self(std::env::temp_dir().join(folder));
        let _ = std::fs::remove_dir_all(&folder.0);
        folder
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A tree's script, on the CPU with tiny shapes.
fn script(tree: &Path, out: &Folder, words: &[&str]) -> Command {
    let mut command = Command::new(tree.join("benches/gpu/check/run"));
    let tiny = ["--tiny", "--device", "cpu", "--budget", "1", "--seed", "7"];
    command.arg(&out.0).args(tiny).args(words);
    command
}

/// Names in an archive.
fn listed(archive: &Path) -> String {
    said(&Command::new("tar").arg("-tzf").arg(archive).output().unwrap())
}

/// The script that a person with a card starts, with the models of the examples where they are already here.
#[test]
fn the_script_leaves_reports_of_every_table() {
    assert_eq!(bench().parent().unwrap(), root().join("target/release"), "it takes what is there");
    let (out, archive) = (Folder::new("script"), Folder::new("archive"));
    let models = std::env::home_dir().unwrap().join(".cache/leasehold/models");
    let archive = archive.0.join("found.tgz");
    let mut command = script(root(), &out, &["--seconds", "3000", "--archive"]);
    command.arg(&archive);
    if models.is_dir() {
        command.arg("--models").arg(&models);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&out.0).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "json") {
            let report = read(&path).unwrap();
            assert_eq!(report.faults(), Vec::<String>::new(), "{}", path.display());
            assert!(report.rehearsal && report.seed == 7);
            if path.file_stem().is_some_and(|name| name == "smoke") {
                assert_eq!(report.gaps(), Vec::<String>::new());
                assert!(report.tables.len() > 10);
                assert!(report.tables.iter().all(|table| (1..=2).contains(&table.rows.len())));
            } else if report.device.asked == "cpu" {
                found.extend(report.tables.into_iter().map(|table| table.name));
            }
        }
    }
    found.sort_unstable();
    // Its table of other libraries is of a graphics adapter, and what the checker is given is a part of its table.
    let mut wanted = names();
    wanted.retain(|name| !["adapter", "watched"].contains(name));
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    let summary = out.text("summary.md");
    assert!(summary.starts_with("Smoke: passed.") && !summary.contains("Left out"), "{summary}");
    assert!(wanted.iter().all(|name| summary.contains(&format!("| {name} |"))), "{summary}");
    let listed = listed(&archive);
    assert!(["parity.json", "smoke.log", "summary.md"].iter().all(|name| listed.contains(name)));
}

/// What there is no time for is named, with the step that another run goes on at, which sums both.
#[test]
fn the_script_ends_in_time_and_goes_on() {
    let out = Folder::new("seconds");
    let run = |words: &[&str]| {
        let words = [&["--tables", "launches,dense,fp8"], words].concat();
        let output = script(root(), &out, &words).output().unwrap();
        (output.status.success(), said(&output))
    };
    // Ten of them are kept for the end.
    let (is_good, text) = run(&["--seconds", "10"]);
    let left = "Left out, since the 10 s are over (--from launches goes on): launches dense fp8.";
    assert!(is_good && text.contains(left) && out.text("summary.md").contains(left), "{text}");
    assert!(listed(&out.0.join("all.tgz")).contains("summary.md"));
    let (is_good, text) = run(&["--seconds", "600", "--from", "dense"]);
    assert!(is_good && !text.contains("Left out") && !text.contains("| launches |"), "{text}");
    let (is_good, text) = script_of_one(&out, "launches");
    assert!(
        is_good && ["launches", "dense", "fp8"].iter().all(|name| text.contains(name)),
        "{text}"
    );
    let (is_good, text) = run(&["--from", "sums"]);
    assert!(!is_good && text.contains("--from 'sums': allowed: launches,dense,fp8"), "{text}");
}

fn script_of_one(out: &Folder, table: &str) -> (bool, String) {
    let output = script(root(), out, &["--tables", table]).output().unwrap();
    (output.status.success(), said(&output))
}

/// A machine that cuts a command off tells it first, or does not: what was found is there either way.
#[test]
fn a_script_that_is_told_to_end_keeps_what_it_found() {
    let out = Folder::new("told");
    let mut child = script(root(), &out, &["--tables", "launches,parity,dense"]).spawn().unwrap();
    let has_begun = || out.text("parity.log").contains("row 1");
    for _ in 0..6000 {
        if has_begun() || child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // Before it is told, the table that has ended is in the archive.
    assert!(has_begun() && listed(&out.0.join("all.tgz")).contains("launches.json"));
    let told = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    let status = child.wait().unwrap();
    assert!(told.success() && status.code() == Some(143), "{status}");
    let summary = out.text("summary.md");
    assert!(summary.contains("Left out, since this was told to end: parity dense."), "{summary}");
    assert!(summary.contains("| launches |") && summary.contains("cut off here"), "{summary}");
    assert!(listed(&out.0.join("all.tgz")).contains("parity.json"));
}

/// What is carried to a card runs where it is unpacked; where something of it is broken the smoke says so, and nothing else
/// is asked unless it is wanted.
#[test]
fn what_is_carried_is_tried_before_anything_else() {
    if Command::new("strip").arg("--version").output().is_err() {
        println!("skip: no strip, which binutils has");
        return;
    }
    let (tree, out) = (Folder::new("carried"), Folder::new("smoke"));
    std::fs::create_dir_all(&tree.0).unwrap();
    let archive = tree.0.join("check.tgz");
    let mut collect = Command::new(root().join("benches/gpu/check/run"));
    collect.args(["--build", "--collect", "--arch", "sm_90a", "--archive"]).arg(&archive);
    let output = collect.output().unwrap();
    let size = said(&output);
    assert!(output.status.success() && size.contains("MiB, of at most 64"), "{size}");
    assert!(!size.contains("THAT IS TOO LARGE"), "{size}");
    let mut unpack = Command::new("tar");
    unpack.args(["--no-same-owner", "-xzf"]).arg(&archive).arg("-C").arg(&tree.0);
    assert!(unpack.status().unwrap().success());
    let carried = tree.0.join("check");
    let run = |words: &[&str]| {
        let words = [&["--tables", "smoke,launches"], words].concat();
        let output = script(&carried, &out, &words).output().unwrap();
        (output.status.success(), said(&output))
    };
    let (is_good, text) = run(&[]);
    assert!(is_good && text.contains("Smoke: passed.") && text.contains("| launches |"), "{text}");
    std::fs::remove_file(out.0.join("launches.json")).unwrap();
    std::fs::remove_file(carried.join("target/release/leasehold-node")).unwrap();
    let (is_good, text) = run(&[]);
    assert!(!is_good && text.contains("Smoke: FAILED"), "{text}");
    assert!(text.contains("since the smoke failed") && !text.contains("| launches |"), "{text}");
    let (is_good, text) = run(&["--go-on"]);
    assert!(!is_good && text.contains("Smoke: FAILED") && text.contains("| launches |"), "{text}");
}

#[test]
fn pythons_side_answers_and_names_what_it_lacks() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu/check/peers.py");
    let library = bench().with_file_name("examples").join("libcheck.so");
    assert!(library.exists(), "{}: cargo build --release --examples makes it", library.display());
    let file = File::new("python");
    let mut command = Command::new("python3");
    command.arg("-B").arg(&script).arg(library).args([
        "--device",
        "cpu",
        "--table",
        "dense,launches",
    ]);
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skip: no python3");
        return;
    }
    // What only a machine with PyTorch imports is Python at least.
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu/check/cublas.py");
    let parsed =
        Command::new("python3").args(["-c", NAMES_ONCE]).arg(other).arg(script).output().unwrap();
    assert!(parsed.status.success(), "{}", said(&parsed));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu/check");
    for of in [OPERANDS, ALONE] {
        let alone = Command::new("python3").args(["-B", "-c", of]).arg(&folder).output().unwrap();
        assert!(alone.status.success(), "{}", said(&alone));
    }
    let output = tiny(&mut command, &file);
    assert!(output.status.success(), "{}", said(&output));
    let report = read(&file.0).unwrap();
    assert_eq!(report.faults(), Vec::<String>::new());
    let why = report.peers.why_not();
    assert!(why.is_none_or(|why| why.starts_with("no PyTorch")), "{why:?}");
    let rows = report.tables.iter().flat_map(|table| &table.rows);
    assert!(rows.clone().count() > 3 && rows.clone().all(|row| row.ours.known().is_some()));
    if let Some(why) = why {
        assert!(rows.flat_map(|row| &row.peers).all(|peer| {
            peer.number.why_not().is_some_and(|said| said == why || said.contains("nobody else"))
        }));
    }
}
