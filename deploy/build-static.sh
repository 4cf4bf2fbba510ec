#!/usr/bin/env bash
# Builds a program that runs in guests as a static binary and leaves it at $1: the binary $2, by `cargo build` with the
# remaining arguments. Against musl, or against glibc where this machine has no musl target of Rust.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$1 name=$2
shift 2
target=x86_64-unknown-linux-musl
if [ ! -d "$(rustc --print target-libdir --target $target)" ]; then
  target=x86_64-unknown-linux-gnu
  export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static"
  echo "$name: no Rust target x86_64-unknown-linux-musl here, linking against glibc" >&2
fi
cargo build "$@" --bin "$name" --profile agent --target $target
built=${CARGO_TARGET_DIR:-target}/$target/agent/$name
cmp -s "$built" "$out" || install -D -m 755 "$built" "$out"
