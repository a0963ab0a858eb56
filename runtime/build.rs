//! Tells the CPU backend which compiler and which GEMM crate its bits depend on.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../Cargo.lock");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output();
    let version = output.map(|o| String::from_utf8_lossy(&o.stdout).replace('\n', "; "));
    println!("cargo:rustc-env=LEASEHOLD_RUSTC={}", version.unwrap_or_else(|e| e.to_string()));
    // Beside a foreign lock file the version is unknown, and the id says so.
    let lock = std::fs::read_to_string("../Cargo.lock").unwrap_or_default();
    let gemm: Vec<&str> = lock
        .split("[[package]]")
        .filter(|package| package.trim_start().starts_with("name = \"gemm"))
        .flat_map(|package| package.lines().filter(|line| line.starts_with("checksum")))
        .collect();
    println!("cargo:rustc-env=LEASEHOLD_GEMM={}", gemm.join(" "));
}
