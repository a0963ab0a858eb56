#!/bin/sh
# Builds the launcher as a small static program, in a target folder of its own, and prints its path.
# Usage: runtime/launcher/build-static.sh [--probe]
#   --probe  the tests' launcher, which can leave out layers; it gets a name of its own.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${LEASEHOLD_STATIC_TARGET:-${CARGO_TARGET_DIR:-$here/../../target}/static}
triple=$(rustc -vV | sed -n 's/^host: //p')
features=program
name=leasehold-launcher
if [ "${1:-}" = --probe ]; then
    features=program,probe
    target=$target/probe
fi
# No relocation: a position-independent program would relocate itself at every start.
RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=static' \
    cargo build --quiet --release --manifest-path "$here/Cargo.toml" --target "$triple" --target-dir "$target" \
    --no-default-features --features "$features" --bin "$name" \
    --config 'profile.release.opt-level="s"' --config 'profile.release.lto=true' \
    --config 'profile.release.panic="abort"' --config 'profile.release.codegen-units=1' \
    --config 'profile.release.strip=true' --config 'profile.release.debug=false' >&2
echo "$target/$triple/release/$name"
