#!/usr/bin/env bash
# Builds the guest agent as a static binary and leaves it at $1: against musl, or against glibc where this machine has
# no musl target of Rust.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-${CARGO_TARGET_DIR:-target}/release/hearth-agent}
target=x86_64-unknown-linux-musl
if [ ! -d "$(rustc --print target-libdir --target $target)" ]; then
  target=x86_64-unknown-linux-gnu
  export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static"
  echo "agent: no Rust target x86_64-unknown-linux-musl here, linking against glibc" >&2
fi
cargo build --package hearth-guest-agent --profile agent --target $target
built=${CARGO_TARGET_DIR:-target}/$target/agent/hearth-agent
cmp -s "$built" "$out" || install -D -m 755 "$built" "$out"
