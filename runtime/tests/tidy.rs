//! Rules of the repository as tests: arrows between rooms, `unsafe` only where listed, one name per op on every
//! floor, the light leased build. The tables are those of `docs/ARCHITECTURE.md`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn architecture() -> String {
    std::fs::read_to_string(root().join("runtime/docs/ARCHITECTURE.md")).unwrap()
}

/// The rows of the first table after `heading`: first cell to the comma-separated second.
fn table(text: &str, heading: &str) -> BTreeMap<String, BTreeSet<String>> {
    let start = text.find(heading).unwrap_or_else(|| panic!("no {heading:?}"));
    let rows = text[start..].lines().skip_while(|line| !line.starts_with("|---"));
    rows.skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let list = cells[1].split(',').map(|s| s.trim().to_string());
            (cells[0].trim_matches('`').to_string(), list.filter(|s| !s.is_empty()).collect())
        })
        .collect()
}

/// Every tracked-looking source file with this ending below `dir`.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|e| e.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Code without comments, strings kept, so that prose about `unsafe` or `crate::` does not count.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.collect::<Vec<_>>().join("\n")
}

/// The first name of each path in a list such as `{a, b::{c, d}, e as f}`, or of the one path.
fn first_names(paths: &str) -> BTreeSet<String> {
    let first = |path: &str| -> String {
        path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(list) = paths.strip_prefix('{') else { return BTreeSet::from([first(paths)]) };
    let (mut depth, mut start, mut names) = (0, 0, BTreeSet::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                names.insert(first(&list[start..at]));
                start = at + 1;
            }
            '}' => depth -= 1,
            _ => {}
        }
        if c == '}' && start == at + 1 {
            break;
        }
    }
    names
}

/// What a file names from its crate's root on: after `crate::`, or after as many `super::` as it lies deep.
fn seen(path: &Path, src: &Path) -> BTreeSet<String> {
    let code = code(path);
    let inside = path.strip_prefix(src).unwrap().with_extension("");
    let depth = inside.components().filter(|part| part.as_os_str() != "mod").count();
    let climb = "super::".repeat(depth);
    let roots =
        ["crate::", &climb].map(|root| code.split(root).skip(1).flat_map(first_names).collect());
    let [by_name, by_climbing]: [BTreeSet<String>; 2] = roots;
    by_name.union(&by_climbing).cloned().collect()
}

#[test]
fn names_in_nested_lists_are_seen() {
    let names = first_names("{a::{b, c::d}, e, f::{g}, self as h}; use i::j;");
    for (name, expected) in [("a", true), ("e", true), ("f", true), ("i", false), ("g", false)] {
        assert_eq!(names.contains(name), expected, "{name}: {names:?}");
    }
    assert!(first_names("one::two::three").contains("one"));
}

fn check_rooms(src: &str, heading: &str) {
    let text = architecture();
    let rooms = table(&text, heading);
    let src = root().join(src);
    for path in files(&src, ".rs") {
        let inside = path.strip_prefix(&src).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let room = first.trim_end_matches(".rs").to_string();
        if room == "lib" || room == "main" || room == "bin" {
            continue;
        }
        let allowed = rooms.get(&room).unwrap_or_else(|| panic!("room {room} is in no table"));
        for other in seen(&path, &src).intersection(&rooms.keys().cloned().collect()) {
            assert!(
                *other == room || allowed.contains(other),
                "{}: arrow {room} -> {other} is not in the table",
                inside.display()
            );
        }
    }
}

#[test]
fn arrows_inside_the_runtime() {
    check_rooms("runtime/src", "Rooms of `leasehold` ");
}

#[test]
fn arrows_inside_the_node() {
    check_rooms("runtime/node/src", "Rooms of `leasehold-node` ");
}

/// Rooms see the backend's trait; one file names the backends behind it, and these do not see each other.
#[test]
fn only_device_names_concrete_backends() {
    let src = root().join("runtime/src");
    for path in files(&src, ".rs") {
        let inside = path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
        let code = code(&path);
        for (backend, its_type) in
            [("cpu", "Cpu"), ("cuda", "Cuda"), ("wgpu", "Wgpu"), ("null", "Null")]
        {
            let own = inside.starts_with(&format!("backend/{backend}"));
            let forms = [format!("backend::{backend}"), format!("{backend}::{its_type}")];
            let named = forms.iter().any(|form| code.contains(form));
            assert!(own || inside == "device.rs" || !named, "{inside} names the backend {backend}");
        }
    }
}

/// Control never sees an op or a device: of the executor it knows the messages.
#[test]
fn control_sees_only_the_executors_messages() {
    let src = root().join("runtime/node/src");
    for path in files(&src.join("control"), ".rs") {
        for part in code(&path).split("crate::executor").skip(1) {
            let ok = part.starts_with("::protocol") || part.starts_with("::{protocol");
            assert!(ok, "{}: executor{}", path.display(), part.lines().next().unwrap());
        }
    }
}

/// Lines of kernels and of their model: no formatter sees those.
#[test]
fn lines_of_cpp_have_128_columns_at_most() {
    let mut wide = Vec::new();
    for folder in ["kernels/cuda", "kernels/host", "kernels/tests", "benches/gpu"] {
        let files: Vec<PathBuf> = [".cu", ".cpp", ".h"]
            .into_iter()
            .flat_map(|ending| files(&root().join(folder), ending))
            .collect();
        assert!(!files.is_empty(), "no C++ in {folder}");
        for path in files {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.lines().enumerate().filter(|(_, line)| line.chars().count() > 128);
            let inside = path.strip_prefix(root()).unwrap().display();
            wide.extend(lines.map(|(i, _)| format!("{inside}:{}", i + 1)));
        }
    }
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}

#[test]
fn every_crate_has_the_shared_lints() {
    for manifest in files(&root(), "Cargo.toml") {
        let text = std::fs::read_to_string(&manifest).unwrap();
        let outside = manifest.starts_with(root().join("benches/peers"));
        if text.contains("[package]") && !outside {
            assert!(text.contains("[lints]\nworkspace = true"), "{}", manifest.display());
        }
    }
}

#[test]
fn arrows_between_crates() {
    let crates = table(&architecture(), "Crates:");
    for manifest in files(&root(), "Cargo.toml") {
        let text = std::fs::read_to_string(&manifest).unwrap();
        let Some(name) = text.lines().find_map(|l| l.strip_prefix("name = ")) else { continue };
        let name = name.trim_matches('"');
        let Some(allowed) = crates.get(name) else {
            assert!(manifest.starts_with(root().join("benches/peers")), "{name} is in no table");
            continue;
        };
        let start = text.find("\n[dependencies]").unwrap_or(text.len());
        let deps = text[start..].lines().skip(2).take_while(|line| !line.starts_with('['));
        for dep in deps.filter(|line| line.starts_with("leasehold")) {
            let dep = dep.split([' ', '=', '.']).next().unwrap();
            assert!(allowed.contains(dep), "arrow {name} -> {dep} is not in the table");
        }
    }
}

#[test]
fn unsafe_stays_in_named_files() {
    let named = table(&architecture(), "## `unsafe`");
    let mut used = BTreeSet::new();
    for path in files(&root(), ".rs") {
        let inside = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let source = code(&path);
        let mut words = source.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        if inside.ends_with("tests/tidy.rs") || !words.any(|word| word == "unsafe") {
            continue;
        }
        assert!(named.contains_key(&inside), "{inside} holds unsafe and is not listed");
        used.insert(inside);
    }
    let listed: BTreeSet<String> = named.into_keys().collect();
    let stale: Vec<_> = listed.difference(&used).collect();
    assert!(stale.is_empty(), "listed but without unsafe: {stale:?}");
}

/// Names of the files of a folder, without those that are no op.
fn floor(folder: &str, ending: &str, others: &[&str]) -> BTreeSet<String> {
    let found = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap());
    let names = found
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(ending)?.to_string()));
    names.filter(|name| !others.contains(&name.as_str())).collect()
}

#[test]
fn an_op_has_one_name_on_every_floor() {
    use leasehold::op::Op;
    let all = Op::NAMES.iter().map(|name| name.to_string()).collect();
    let helpers = ["mod", "checked", "cost", "lens", "operand", "scores"];
    let parity = std::fs::read_to_string(root().join("runtime/tests/common/mod.rs")).unwrap();
    let list = parity.split("parity!(@ $open; ").nth(1).unwrap().split(')').next().unwrap();
    let tested: BTreeSet<String> = list.split_whitespace().map(String::from).collect();
    let whole = [
        ("op", floor("runtime/src/op", ".rs", &helpers)),
        ("reference", floor("runtime/src/reference", ".rs", &["mod", "functions"])),
    ];
    for (name, found) in whole {
        assert_eq!(found, all, "{name}");
    }
    // Kernels come one by one; what some backend runs has a builder and a parity test, and what has a shader too.
    let builders = floor("runtime/src/tensor/ops", ".rs", &["mod"]);
    assert_eq!(builders, tested, "builders and parity tests");
    let shared = [
        "prelude",
        "attention_coop",
        "attention_tiled",
        "batch",
        "columns",
        "coop",
        "coop_emulated",
        "elements",
        "epilogue",
        "fault",
        "fold",
        "heads",
        "lines",
        "matmul_coop",
        "matmul_tiled",
        "neighbours",
        "product",
        "rows",
        "stage",
        "store",
    ];
    let shaders = floor("shaders/src/wgsl", ".wgsl", &shared);
    assert!(shaders.is_subset(&tested) && tested.is_subset(&all), "{shaders:?} {tested:?}");
}

/// What `cargo tree` prints below the repository's root.
fn tree(args: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--prefix", "none", "--offline"])
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Asserts that a build, given as arguments of `cargo tree -p`, pulls none of these crates.
fn check_light(build: &[&str], heavy: &[&str]) {
    let tree = tree(&[&["-e", "normal", "-p"], build].concat());
    assert!(tree.starts_with(&format!("{} v", build[0])), "{tree}");
    for heavy in heavy {
        let hit = tree.lines().any(|line| line.split([' ', '-']).next() == Some(heavy));
        assert!(!hit, "{} pulls {heavy}:\n{tree}", build[0]);
    }
}

/// A feature that only tests ask of a crate has everything above it built twice, for programs and for tests.
#[test]
fn tests_and_programs_are_built_of_the_same_crates() {
    let crates = |edges| -> BTreeSet<String> {
        let text = tree(&["--workspace", "-e", edges, "-f", "{p} {f}"]);
        text.lines().map(|line| line.trim_end_matches(" (*)").to_string()).collect()
    };
    let (programs, tests) = (crates("normal,build"), crates("normal,build,dev"));
    let other: Vec<_> = programs.difference(&tests).collect();
    assert!(other.is_empty(), "tests turn features of these on: {other:?}");
}

const GPU_AND_ASYNC: [&str; 6] = ["wgpu", "naga", "libloading", "tokio", "async", "smol"];

#[test]
fn the_leased_build_is_light() {
    let build = ["leasehold", "--no-default-features", "--features", "remote"];
    check_light(&build, &GPU_AND_ASYNC);
    check_light(&build, &["clap", "rayon", "gemm"]);
}

/// Every job starts through the front.
#[test]
fn the_front_is_light() {
    check_light(&["leasehold-cli"], &GPU_AND_ASYNC);
    check_light(&["leasehold-cli"], &["rayon", "gemm", "regex"]);
}
