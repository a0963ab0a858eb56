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

/// The rooms that a file names as `crate::room`, its test modules included.
fn seen(path: &Path) -> BTreeSet<String> {
    let code = code(path);
    let mut seen = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        let names: Vec<&str> = match part.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap().split(',').collect(),
            None => vec![part],
        };
        for name in names {
            let name = name.trim_start();
            let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
            seen.insert(name[..end].to_string());
        }
    }
    seen
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
        for other in seen(&path).intersection(&rooms.keys().cloned().collect()) {
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
        let holds = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe("];
        if inside.ends_with("tests/tidy.rs") || !holds.iter().any(|form| source.contains(form)) {
            continue;
        }
        assert!(named.contains_key(&inside), "{inside} holds unsafe and is not listed");
        used.insert(inside);
    }
    let listed: BTreeSet<String> = named.into_keys().collect();
    let stale: Vec<_> = listed.difference(&used).collect();
    assert!(stale.is_empty(), "listed but without unsafe: {stale:?}");
}

#[test]
fn an_op_has_one_name_on_every_floor() {
    use leasehold::op::Op;
    let built = ["matmul", "attention", "norm", "softmax", "map", "gather", "reduce", "copy"];
    for name in built {
        assert!(Op::NAMES.contains(&name), "{name} is no op");
        for floor in ["runtime/src/op", "runtime/src/tensor/ops", "runtime/src/reference"] {
            let path = root().join(floor).join(format!("{name}.rs"));
            assert!(path.exists(), "{} is missing", path.display());
        }
    }
}

/// Asserts that a build, given as arguments of `cargo tree -p`, pulls none of these crates.
fn check_light(build: &[&str], heavy: &[&str]) {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "-e", "normal", "--prefix", "none", "--offline", "-p"])
        .args(build)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.starts_with(&format!("{} v", build[0])), "{tree}");
    for heavy in heavy {
        let hit = tree.lines().any(|line| line.split([' ', '-']).next() == Some(heavy));
        assert!(!hit, "{} pulls {heavy}:\n{tree}", build[0]);
    }
}

const GPU_AND_ASYNC: [&str; 6] = ["wgpu", "naga", "cudarc", "tokio", "async", "smol"];

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
