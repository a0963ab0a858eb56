//! Tells the backends which compiler and which crates their bits depend on.

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
    let checksums = |names: &[&str]| {
        let packages = lock.split("[[package]]").filter(|package| {
            let package = package.trim_start();
            names.iter().any(|name| package.starts_with(&format!("name = \"{name}")))
        });
        let lines = packages.flat_map(str::lines).filter(|line| line.starts_with("checksum"));
        lines.collect::<Vec<_>>().join(" ")
    };
    println!("cargo:rustc-env=LEASEHOLD_WGPU={}", checksums(&["naga", "wgpu"]));
}
