//! `leasehold-bench node`, as short as it gets: every promise has its row, and the node is gone afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn every_promise_of_a_node_is_measured() {
    let folder = std::env::temp_dir().join(format!("leasehold-bench-test-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_leasehold-bench"))
        .args(["node", "--json", "--seconds", "0.05"])
        .env("TMPDIR", &folder)
        .output()
        .unwrap();
    let left = std::fs::read_dir(&folder).unwrap().count();
    std::fs::remove_dir_all(&folder).unwrap();
    let (text, error) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    let (text, error) = (text.unwrap(), error.unwrap());
    assert!(output.status.success() && error.is_empty() && left == 0, "{error}");
    let rows: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let promises = [
        "2 tenants over that of one alone",
        "2 tenants over that of one alone with as many tensors",
        "8 tenants over that of one alone",
        "8 tenants over that of one alone with as many tensors",
        "32 tenants over that of one alone",
        "32 tenants over that of one alone with as many tensors",
        "equal weights",
        "weights 1:2:4",
        "latency",
        "revoke",
        "zeroing",
        "bill",
    ];
    assert_eq!(rows.len(), promises.len());
    for (row, promise) in rows.iter().zip(promises) {
        let (what, value) = (row["what"].as_str().unwrap(), row["value"].as_f64().unwrap());
        assert!(what.contains(promise), "{what}");
        assert!(value.is_finite() && !row["samples"].as_array().unwrap().is_empty(), "{text}");
        let bound = row["bound"].as_f64().unwrap();
        let holds = if row["at_most"] == true { value <= bound } else { value >= bound };
        assert_eq!(row["kept"], holds, "{what}");
    }
}
