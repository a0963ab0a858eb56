//! The peers that live in Python: the scripts of `benches/scripts`, whose JSON lines are matched with our timings.

use leasehold_bench::measure::Timing;
use leasehold_peers::{Result, Row};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Script and library of each.
const SCRIPTS: [(&str, &str); 3] =
    [("matmul_torch.py", "torch"), ("matmul_numpy.py", "numpy"), ("attention_torch.py", "torch")];

/// Rows of every script beside what was timed here, under the names that it was timed by. Scripts none of whose shapes
/// were timed are not run.
///
/// # Errors
/// A script that fails, with what it said.
pub fn rows(python: &Path, ours: &[(String, Timing)]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (script, library) in SCRIPTS {
        let op = script.split('_').next().unwrap_or(script);
        for dtype in ["f32", "bf16"] {
            let kind = format!("{op} {dtype} ");
            let runs_it = library != "numpy" || dtype == "f32";
            if !runs_it || !ours.iter().any(|(name, _)| name.starts_with(&kind)) {
                continue;
            }
            let lines = output(python, script, dtype)?;
            let peer = lines.first().map(|line| peer(library, line)).unwrap_or_default();
            for line in lines.iter().skip(1) {
                let name = name(op, dtype, line);
                let ours = ours.iter().find(|(ours, _)| *ours == name);
                if let (Some((_, timing)), Some(ms)) = (ours, line["ms_median"].as_f64()) {
                    rows.push(Row::new(&name, peer.clone(), timing.median_s, ms / 1e3));
                }
            }
        }
    }
    Ok(rows)
}

/// The JSON lines of one script: of the machine first, then of each shape.
fn output(python: &Path, script: &str, dtype: &str) -> Result<Vec<Value>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
    let threads = std::thread::available_parallelism()?.to_string();
    let output = Command::new(python)
        .arg(folder.join(script))
        .args(["--threads", &threads, "--dtype", dtype])
        .output()
        .map_err(|error| format!("{}: {error}", python.display()))?;
    if !output.status.success() {
        return Err(format!("{script}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?)
}

/// The library with its version, and the core that numpy's OpenBLAS detected.
fn peer(library: &str, machine: &Value) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or("of unknown version");
    match library {
        "numpy" => format!("numpy {} ({}, {})", text("numpy"), text("blas"), text("core")),
        _ => format!("{library} {}", text(library)),
    }
}

/// As the cases of this program name themselves.
fn name(op: &str, dtype: &str, line: &Value) -> String {
    let size = |key: &str| line[key].as_u64().unwrap_or(0);
    if op == "attention" {
        let mask = if line["causal"] == true { "causal" } else { "full" };
        let (heads, sequence, dim) = (size("heads"), size("sequence"), size("dim"));
        return format!("attention {dtype} {heads}x{sequence}x{dim} {mask}");
    }
    let times = if size("batch") == 1 { String::new() } else { format!("{} x ", size("batch")) };
    format!("matmul {dtype} {times}{}x{}x{}", size("m"), size("n"), size("k"))
}
