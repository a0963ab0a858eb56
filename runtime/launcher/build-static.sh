#!/bin/sh
# Builds a small static program, in a target folder of its own, and prints its path. Called by the tests, .ci/test and
# examples/run.
# Usage: runtime/launcher/build-static.sh [--probe | --front]
#   (nothing)  the launcher
#   --probe    the tests' launcher, which can leave out layers; it gets a folder of its own
#   --front    the front, `leasehold`
#
# Linked with musl where the toolchain has it (`rustup target add x86_64-unknown-linux-musl`): glibc asks the processor
# for its caches at every start, by some hundred CPUID instructions, and in a virtual machine each of them is a trap.
# That is half a millisecond a program.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${LEASEHOLD_STATIC_TARGET:-${CARGO_TARGET_DIR:-$here/../../target}/static}
host=$(cd "$here" && rustc -vV | sed -n 's/^host: //p')

musl=${host%-gnu}-musl
if [ -d "$(cd "$here" && rustc --print sysroot)/lib/rustlib/$musl" ]; then triple=$musl; else triple=$host; fi

# build MANIFEST NAME ARGUMENTS...: no relocation, since a position-independent program relocates itself at every start.
build() {
    manifest=$1
    name=$2
    shift 2
    key=$(echo "$triple" | tr - _)
    env "CC_$key=${CC:-cc}" "CFLAGS_$key=-U_FORTIFY_SOURCE" \
        RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=static' \
        cargo build --quiet --manifest-path "$manifest" --target "$triple" --target-dir "$target" --bin "$name" "$@" >&2
}

case ${1:-} in
--front)
    build "$here/../cli/Cargo.toml" leasehold --profile front --locked
    echo "$target/$triple/front/leasehold"
    exit
    ;;
--probe)
    features=program,probe
    target=$target/probe
    ;;
*) features=program ;;
esac
build "$here/Cargo.toml" leasehold-launcher --release --no-default-features --features "$features" \
    --config 'profile.release.opt-level="s"' --config 'profile.release.lto=true' \
    --config 'profile.release.panic="abort"' --config 'profile.release.codegen-units=1' \
    --config 'profile.release.strip=true' --config 'profile.release.debug=false'
echo "$target/$triple/release/leasehold-launcher"
