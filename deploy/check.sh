#!/usr/bin/env bash
# Runs the named checks in order, all of them even when one fails, and ends with a summary. Exit 1 when any failed.
set -uo pipefail
cd "$(dirname "$0")/.."

# Each check is a function; it fails by its exit code, and puts what it had to leave out into `skipped`.
deps() { deploy/install-deps.sh test; }
fmt() { cargo fmt --all --check; }
clippy() { cargo clippy --workspace --all-targets --all-features -- -D warnings; }
agent() { deploy/build-agent.sh "${HEARTH_AGENT:-}"; }
build() {
  cargo build --release --package hearth-worker || return 1
  # By the name that the snapshots of processes have.
  if grep -q 'process test hypervisor' "${CARGO_TARGET_DIR:-target}/release/hearth"; then
    echo 'the test hypervisor is in the shipped binary' >&2
    return 1
  fi
}
# Here a real VM that cannot be had is a failure, not a skipped test.
tests() { HEARTH_REQUIRE_REAL=1 cargo test --workspace --all-features --no-fail-fast; }
# The tests of the broker once more, against RabbitMQ 4 in a directory of its own.
rabbitmq4() {
  if [ "$(id -u)" != 0 ]; then
    skipped='RabbitMQ 4: making a directory for it takes root'
    printf '\nSKIPPED %s\n' "$skipped" >&2
    return
  fi
  local dir=${HEARTH_TEST_RABBITMQ:-/var/tmp/hearth-rabbitmq4} each tests=()
  tests/rig/rabbitmq4.sh "$dir" || return 1
  for each in worker/tests/amqp_*.rs; do tests+=(--test "$(basename "$each" .rs)"); done
  HEARTH_TEST_RABBITMQ=$dir cargo test --package hearth-worker --all-features --no-fail-fast "${tests[@]}"
}
firecracker() {
  if [ -z "${FIRECRACKER:-}" ] && ! command -v firecracker >/dev/null; then
    skipped='real Firecracker: FIRECRACKER names none, and there is none on the PATH'
    printf '\nSKIPPED %s\n' "$skipped" >&2
    return
  fi
  tests/rig/test-firecracker.sh
}
deny() {
  cargo deny --log-level error check bans licenses sources || return 1
  # The advisory database lives on a host of its own, which not every network reaches.
  if timeout 60 cargo deny --log-level error fetch db >/dev/null 2>&1; then
    cargo deny --log-level error check --disable-fetch advisories
  else
    skipped='advisories: their database cannot be reached from here'
    printf '\nSKIPPED %s\n' "$skipped" >&2
  fi
}

summary=()
failed=0
for check in "$@"; do
  printf '\n=== %s\n' "$check" >&2
  skipped='' started=$SECONDS outcome=ok
  "$check" || { outcome=FAILED; failed=1; }
  summary+=("$(printf '%-11s %-7s %4d s%s' "$check" "$outcome" $((SECONDS - started)) "${skipped:+  SKIPPED $skipped}")")
  # Without what `deps` installs the rest would fail for reasons that are not the code's.
  [ "$check$outcome" != depsFAILED ] || break
done

printf '\n=== summary\n' >&2
printf '%s\n' "${summary[@]}" >&2
exit $failed
