#!/usr/bin/env bash
# Runs a command inside a machine that has a true /dev/kvm, whatever this one has: QEMU emulates it, AMD's nested
# virtualisation included. Times inside are emulated; only ratios mean anything.
#
#   FIRECRACKER=/path [JAILER=/path] tests/rig/run.sh [--in PATH]... [--out DIR] [--limit SECONDS] [--net] -- COMMAND [ARG]...
#
# The command runs in a directory that holds every PATH by its base name, with firecracker and jailer on its PATH, as
# root. What it prints is printed here, what it leaves in `out/` is unpacked to DIR, its exit status is this script's
# (124: it took longer than the limit; 125: the rig itself failed). With --net, what listens on this machine's 127.0.0.1 is
# reached in there at 10.0.2.2. RIG_CACHE is where the machine is kept.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

fail() { printf 'rig: %s\n' "$*" >&2; exit 125; }
inputs=() out='' limit=1800 card=()
while [ $# -gt 0 ]; do
  case $1 in
  --in) inputs+=("$2"); shift 2 ;;
  --out) out=$2; shift 2 ;;
  --limit) limit=$2; shift 2 ;;
  --net) card=(-nic user,model=virtio-net-pci); shift ;;
  --) shift; break ;;
  *) fail "what is $1?" ;;
  esac
done
[ $# -gt 0 ] || fail 'no command'
[ -x "${FIRECRACKER:-}" ] || fail 'FIRECRACKER does not name a binary'
cache=${RIG_CACHE:-${HEARTH_DATA:-/var/lib/hearth}/rig}
"$here/image.sh" "$cache" || fail 'its machine could not be built'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/in/bin"
install -m 755 "$FIRECRACKER" "$work/in/bin/firecracker"
[ -z "${JAILER:-}" ] || install -m 755 "$JAILER" "$work/in/bin/jailer"
# Hard to get wrong: every word of the command is quoted by the shell that will not have to guess.
{
  printf '#!/bin/bash\nexport PATH=$PWD/bin:$PATH\nexec'
  printf ' %q' "$@"
  printf '\n'
} >"$work/in/command"
chmod +x "$work/in/command"
tar -cf "$work/in.tar" -C "$work/in" .
for path in ${inputs[@]+"${inputs[@]}"}; do
  tar -rf "$work/in.tar" --sparse -C "$(dirname "$path")" "$(basename "$path")"
done
truncate -s 4G "$work/out.tar"

status=0
timeout --kill-after=10 "$limit" qemu-system-x86_64 \
  -M q35 -accel tcg,thread=multi -cpu max,+svm -smp 2 -m "${RIG_MEMORY_MIB:-3072}" \
  -nodefaults -no-user-config -display none -no-reboot \
  -kernel "$cache/kernel" -initrd "$cache/initramfs" \
  -append 'console=ttyS0 quiet loglevel=4 panic=-1 cgroup_no_v1=all random.trust_cpu=on no_timer_check' \
  -serial "file:$work/kernel.log" -serial stdio "${card[@]}" \
  -drive "file=$cache/root.ext4,format=raw,if=none,id=root,snapshot=on,cache=unsafe" -device virtio-blk-pci,drive=root \
  -drive "file=$work/in.tar,format=raw,if=none,id=in,readonly=on" -device virtio-blk-pci,drive=in \
  -drive "file=$work/out.tar,format=raw,if=none,id=out,cache=unsafe,discard=unmap" -device virtio-blk-pci,drive=out \
  </dev/null || status=$?
[ "$status" != 124 ] || { printf 'rig: not done within %s s\n' "$limit" >&2; exit 124; }

mkdir -p "$work/out"
tar -xf "$work/out.tar" -C "$work/out" 2>/dev/null || true
status=$(cat "$work/out/.status" 2>/dev/null) || { tail -20 "$work/kernel.log" >&2; fail 'the machine ended before the command'; }
[ -z "$out" ] || { mkdir -p "$out" && cp -a --sparse=always "$work/out/." "$out/"; }
exit "$status"
