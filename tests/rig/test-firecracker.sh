#!/usr/bin/env bash
# Runs the tests of real Firecracker VMs: on this machine where its KVM boots a guest, else inside the rig.
#
#   FIRECRACKER=/path [JAILER=/path] tests/rig/test-firecracker.sh [TEST NAME...]
#
# FIRECRACKER is `firecracker` of the PATH unless told, JAILER the file `jailer` beside it if there is one. Without a
# Firecracker it says that it skips, and succeeds.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'test-firecracker: %s\n' "$*" >&2; }
FIRECRACKER=${FIRECRACKER:-$(command -v firecracker || true)}
if [ -z "$FIRECRACKER" ]; then
  say 'SKIPPED: no Firecracker: FIRECRACKER names none, and there is none on the PATH'
  exit 0
fi
FIRECRACKER=$(realpath "$FIRECRACKER")
[ -n "${JAILER:-}" ] || { JAILER=$(dirname "$FIRECRACKER")/jailer; [ -x "$JAILER" ] || JAILER=; }
export FIRECRACKER JAILER
say "$("$FIRECRACKER" --version | sed -n 1p)${JAILER:+, $("$JAILER" --version | sed -n 1p)}"

# A binary that needs a newer libc than the rig's Debian has would not start there.
target=()
libc=$(ldd --version | sed -n '1s/.* //p')
dpkg --compare-versions "$libc" le 2.36 || target=(--target x86_64-unknown-linux-musl)
agent=${HEARTH_AGENT:-${CARGO_TARGET_DIR:-target}/release/hearth-agent}
deploy/build-agent.sh "$agent"
built() { # name of an executable, arguments of cargo
  local name=$1; shift
  cargo "$@" --quiet "${target[@]}" --message-format json |
    sed -n "s/.*\"executable\":\"\([^\"]*\/$name[^\"]*\)\".*/\1/p" | tail -1
}
# What is measured is what users run.
release=()
[[ " $* " != *' real::bench'* ]] || release=(--release)
binary=$(built firecracker_real test --no-run "${release[@]}" --package hearth-pool --all-features --test firecracker_real)
commands=$(built firecracker test --no-run --package hearth-tests --test firecracker)
hearth=$(built hearth build --package hearth-worker --bin hearth)

# Outside of the rig there is a mirror to build the image from, inside there is none.
data=${HEARTH_DATA:-/var/lib/hearth}
export HEARTH_RIG_DATA=$data HEARTH_AGENT
HEARTH_AGENT=$(realpath "$agent")
role() { "$binary" --exact "real::role_$1" --ignored --nocapture --test-threads=1 >&2; }
role image

mkdir -p "$data/rig"
input=$(mktemp -d "$data/rig/input.XXXXXX")
trap 'rm -rf "$input"' EXIT
finish() { # status
  awk '/^test result: / { passed += $4; failed += $6 }
    END { printf "test-firecracker: %d passed, %d failed\n", passed, failed }' "$input/output"
  exit "$1"
}

# That /dev/kvm is there proves nothing. A guest that answers does, and the answer holds until the next boot.
kvm_works() {
  [ -e /dev/kvm ] && [ "$(id -u)" = 0 ] || return 1
  local answer=$data/rig/kvm-$(cat /proc/sys/kernel/random/boot_id)
  if [ ! -e "$answer" ]; then
    say 'trying whether KVM boots a guest here (a minute at most)'
    if (export HEARTH_RIG_FIRECRACKER=$FIRECRACKER; timeout 60 "$BASH" -c "$(declare -f role); binary=$binary; role probe"); then
      echo yes >"$answer"
    else
      echo no >"$answer"
    fi
  fi
  [ "$(cat "$answer")" = yes ]
}
status=0
if kvm_works; then
  say 'KVM works: on this machine'
  export HEARTH_RIG_FIRECRACKER=$FIRECRACKER
  [ -z "$JAILER" ] || export HEARTH_RIG_JAILER=$JAILER
  export HEARTH_BIN=$hearth
  for tests in "$binary" "$commands"; do
    "$tests" --nocapture --test-threads=1 "$@" | tee -a "$input/output" || status=$?
  done
  finish "$status"
fi

say 'KVM boots no guest here: in the rig'
# A worker in there has its broker and its Redis here. They end when this script has.
mkfifo "$input/alive"
HEARTH_RIG_SERVERS=$input/servers "$commands" --exact role_servers --ignored --nocapture <"$input/alive" >&2 &
exec 7>"$input/alive"
while [ ! -e "$input/servers" ] && kill -0 $!; do sleep 0.2; done
mkdir "$input/data"
cp -a --reflink=auto --sparse=always "$data/images" "$input/data/"
rm -rf "$input/data/images/log"
cp "$agent" "$input/hearth-agent"
for program in "$binary=firecracker_real" "$commands=commands" "$hearth=hearth"; do
  cp "${program%=*}" "$input/${program##*=}"
  strip --strip-debug "$input/${program##*=}" 2>/dev/null || true
done
cat >"$input/inside.sh" <<INSIDE
export HEARTH_RIG_DATA=\$PWD/data HEARTH_AGENT=\$PWD/hearth-agent HEARTH_RIG_FIRECRACKER=\$PWD/bin/firecracker
modprobe tun
$(sed 's/127\.0\.0\.1/10.0.2.2/; s/^/export /' "$input/servers")
[ ! -x bin/jailer ] || export HEARTH_RIG_JAILER=\$PWD/bin/jailer
export HEARTH_BIN=\$PWD/hearth
status=0
for tests in ./firecracker_real ./commands; do
  "\$tests" --nocapture --test-threads=1 $(printf ' %q' "$@") || status=\$?
done
exit "\$status"
INSIDE
in=()
for name in data hearth-agent firecracker_real commands hearth inside.sh; do in+=(--in "$input/$name"); done
tests/rig/run.sh "${in[@]}" --net \
  -- bash ./inside.sh | tee "$input/output" || status=$?
finish "$status"
