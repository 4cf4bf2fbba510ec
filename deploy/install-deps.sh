#!/usr/bin/env bash
# Installs what Hearth needs on Debian bookworm and what this machine lacks; as root. Nothing missing: nothing said,
# nothing touched. `install-deps.sh test` also wants what the checks need (rustfmt, clippy, cargo-deny, servers).
set -euo pipefail

readonly SUITE=bookworm
readonly QEMU_LEAST=8.2 # the first with `migrate file:`; bookworm itself has 7.2
readonly VHOST_DEVICE_VSOCK=0.3.0
readonly CARGO_DENY=0.20.2
readonly S3S_FS=0.14.1    # an S3 server
readonly AZURITE=3.35.0   # an Azure server; the last that runs on the Node.js of Debian bookworm
readonly GRAFANA_SCHEMA=13.2.3 # Grafana's types for dashboards
readonly TYPESCRIPT=5.9.3
readonly TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/hearth-tools
readonly SCHEMA_AT=$TOOLS/grafana-schema-$GRAFANA_SCHEMA
readonly MUSL=x86_64-unknown-linux-musl
readonly CARGO_BIN=${CARGO_HOME:-$HOME/.cargo}/bin
PATH=$PATH:$CARGO_BIN:/usr/sbin:/sbin

say() { printf 'deps: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
at_least() { dpkg --compare-versions "$1" ge "$2"; } # version, least

# For the test that asks.
[ "${1:-}" != where-grafana-schema ] || { printf '%s\n' "$SCHEMA_AT"; exit; }

# --- what is missing -------------------------------------------------------------------------------------------------

packages=() # Debian packages to install from the host's own suite
want() { has "$1" || { say "$1 is missing (package $2)"; packages+=("$2"); }; } # command, package

want mmdebstrap mmdebstrap
want mke2fs e2fsprogs
want xz xz-utils
want depmod kmod
want unshare util-linux
want nft nftables # for jobs with a network
if [ "${1:-}" = test ]; then # the tests start servers of their own on free ports
  want redis-server redis-server
  [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || { say 'RabbitMQ is missing (package rabbitmq-server)'; packages+=(rabbitmq-server); }
  want node nodejs
  want npm npm
  want ip iproute2 # a world for networks to be tried in
  want cpio cpio # for the machine in which real Firecracker is tested
  want promtool prometheus # alerts are tested with it
fi
has cc || { say 'a C linker is missing (packages gcc, libc6-dev)'; packages+=(gcc libc6-dev); }

qemu_version() { qemu-system-x86_64 --version 2>/dev/null | sed -n '1s/.*version \([0-9.]*\).*/\1/p'; }
qemu_missing() {
  local version; version=$(qemu_version || true)
  [ -n "$version" ] && at_least "$version" "$QEMU_LEAST" && return 1
  say "QEMU $QEMU_LEAST or newer is missing (found: ${version:-none})"
}

musl_missing() { [ ! -d "$(rustc --print target-libdir --target $MUSL 2>/dev/null)" ]; }

# --- apt -------------------------------------------------------------------------------------------------------------

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 "$@" >&2; }
apt_update() { [ -n "${updated:-}" ] || { say 'refreshing package lists'; apt_get update; updated=1; }; }
apt_install() { # arguments of `apt-get install`
  [ "$(id -u)" = 0 ] || die "not root: cannot install $*"
  apt_update
  say "installing $*"
  hold_services
  apt_get install -y --no-install-recommends "$@"
  release_services "$@"
}

# Packages bring services along; nothing that is installed here starts one, now or at the next boot.
readonly POLICY=/usr/sbin/policy-rc.d
hold_services() {
  [ ! -e "$POLICY" ] || return 0
  printf '#!/bin/sh\nexit 101\n' >"$POLICY"
  chmod +x "$POLICY"
  held_services=1
}
release_services() { # packages
  [ -n "${held_services:-}" ] || return 0
  rm -f "$POLICY"
  held_services=
  local package
  for package in "$@"; do
    case $package in redis-server | rabbitmq-server | prometheus) systemctl disable "$package" >/dev/null 2>&1 || true ;; esac
  done
}
trap 'release_services' EXIT

# Where apt's own sources name a suite: `FILE:N`, the Nth line of a .list or the Nth stanza of a .sources file.
sources_entry() { # suite
  apt-get indextargets --no-release-info 'Created-By: Packages' "Release: $1" 'Component: main' \
    --format '$(SOURCESENTRY)' 2>/dev/null | sed -n 1p
}

# The same entry, with all its options and keys, for another suite.
derive_source() { # entry, suite
  local file=${1%:*} n=${1##*:}
  case $file in
  *.sources)
    awk -v n="$n" -v suite="$2" '
      BEGIN { RS = ""; FS = "\n" }
      /(^|\n)Types:/ && ++stanza == n {
        for (i = 1; i <= NF; i++) {
          if ($i ~ /^#/) continue
          if ($i !~ /^[ \t]/) skip = tolower($i) ~ /^(suites|types|enabled):/
          if (!skip) print $i
        }
        print "Types: deb\nSuites: " suite
      }' "$file" ;;
  *) sed -n "${n}p" "$file" |
    sed -E "s/^deb(-src)?([[:space:]]+\[[^]]*\])?[[:space:]]+([^[:space:]]+)[[:space:]]+[^[:space:]]+/deb\2 \3 $2/" ;;
  esac
}

add_backports() {
  local suite=$SUITE-backports entry target
  [ -z "$(sources_entry "$suite")" ] || return 0
  entry=$(sources_entry "$SUITE")
  [ -n "$entry" ] || die "no apt source for $SUITE: QEMU $QEMU_LEAST or newer has to be installed by hand"
  case $entry in *.sources:*) target=hearth-backports.sources ;; *) target=hearth-backports.list ;; esac
  target=/etc/apt/sources.list.d/$target
  say "adding $suite as $target, like $entry"
  derive_source "$entry" "$suite" >"$target"
  updated=
}

install_qemu() {
  local candidate
  [ "$(id -u)" = 0 ] || die 'not root: cannot install QEMU'
  apt_update
  candidate=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: \([0-9]*:\)\{0,1\}//p')
  if [ -n "$candidate" ] && at_least "$candidate" "$QEMU_LEAST"; then
    apt_install qemu-system-x86
  else
    add_backports
    apt_install -t "$SUITE-backports" qemu-system-x86
  fi
  local version; version=$(qemu_version)
  at_least "${version:-0}" "$QEMU_LEAST" || die "QEMU is ${version:-absent} after its installation, not $QEMU_LEAST"
}

# --- cargo -----------------------------------------------------------------------------------------------------------

# In a target directory of its own, so that the workspace's stays as it is.
cargo_install() { # crate, version, more arguments
  local crate=$1 version=$2
  shift 2
  say "building $crate $version (a few minutes, once)"
  env -u CARGO_TARGET_DIR cargo install --quiet --locked --version "$version" "$@" "$crate" >&2
}

install_azurite() {
  local prefix=$TOOLS/azurite-$AZURITE
  say "installing azurite $AZURITE"
  npm install --silent --no-audit --no-fund --omit=dev --prefix "$prefix" "azurite@$AZURITE" >&2 || return 1
  ln -sf "$prefix/node_modules/.bin/azurite-blob" "$CARGO_BIN/azurite-blob"
}

install_grafana_schema() {
  say "installing Grafana's schema $GRAFANA_SCHEMA"
  npm install --silent --no-audit --no-fund --prefix "$SCHEMA_AT" \
    "@grafana/schema@$GRAFANA_SCHEMA" "typescript@$TYPESCRIPT" >&2
}

install_musl() {
  has rustup && rustup target add $MUSL >&2 && return 0
  say "NOTE: no Rust target $MUSL here: the guest agent is linked statically against glibc instead"
  say '      (same function, larger; libc6-dev is needed)'
  [ -e "$(cc -print-file-name=libc.a)" ] || apt_install libc6-dev
}

for_tests() {
  cargo fmt --version >/dev/null 2>&1 || { say 'rustfmt is missing'; rustup component add rustfmt >&2; }
  cargo clippy --version >/dev/null 2>&1 || { say 'clippy is missing'; rustup component add clippy >&2; }
  has cargo-deny || cargo_install cargo-deny "$CARGO_DENY"
  has s3s-fs || cargo_install s3s-fs "$S3S_FS" --features binary
  has azurite-blob || install_azurite
  [ -x "$SCHEMA_AT/node_modules/.bin/tsc" ] || install_grafana_schema
}

# ---------------------------------------------------------------------------------------------------------------------

has cargo || die 'no Rust toolchain (cargo): install one first, 1.88 or newer'
has apt-get || die 'this machine has no apt-get: install QEMU 8.2+, mmdebstrap, e2fsprogs, kmod and xz by hand'
if [ ${#packages[@]} -gt 0 ]; then apt_install "${packages[@]}"; fi
if qemu_missing; then install_qemu; fi
if musl_missing; then install_musl; fi
has vhost-device-vsock || cargo_install vhost-device-vsock "$VHOST_DEVICE_VSOCK"
if [ "${1:-}" = test ]; then for_tests; fi
