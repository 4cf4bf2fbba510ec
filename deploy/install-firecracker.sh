#!/usr/bin/env bash
# Installs an official Firecracker release: `firecracker` and `jailer`, digest checked, into one directory of the PATH.
#
#   deploy/install-firecracker.sh [--version 1.16.1] [--to /usr/local/bin] [--sha256 HEX] [--from URL|DIR]
#
# --sha256 pins the archive to a digest that you know (SHA-256 of firecracker-vVERSION-ARCH.tgz). Without it the archive is
# checked against the digest that the release publishes beside it, and the binaries against the list inside: that finds
# a damaged download, not a forged release. --from takes the archive from a mirror or a directory, for hosts without
# internet. Nothing is installed unless every check holds.
set -euo pipefail

version=1.16.1 to=/usr/local/bin sha256='' from=''
readonly RELEASES=https://github.com/firecracker-microvm/firecracker/releases/download

say() { printf 'install-firecracker: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
  --version | --to | --sha256 | --from) [ $# -ge 2 ] || die "$1 needs a value" ;;
  esac
  case $1 in
  --version) version=${2#v}; shift 2 ;;
  --to) to=$2; shift 2 ;;
  --sha256) sha256=$2; shift 2 ;;
  --from) from=$2; shift 2 ;;
  -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) die "what is $1? (--help lists the options)" ;;
  esac
done

[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || die "--version $version: allowed is MAJOR.MINOR.PATCH, such as 1.16.1"
[ "$version" != 1.16.0 ] || die 'version 1.16.0 is refused: vsock of a guest that it restores can stay dead (fixed in 1.16.1)'
[ "$(printf '1.15.1\n%s\n' "$version" | sort -V | head -n 1)" = 1.15.1 ] || die "version $version is refused: 1.15.1 is the first"
[ -z "$sha256" ] || [[ $sha256 =~ ^[0-9a-fA-F]{64}$ ]] || die '--sha256: allowed are 64 hex digits'
arch=$(uname -m)
case $arch in x86_64) ;; *) die "$arch is not supported: x86_64 is" ;; esac
[ -d "$to" ] && [ -w "$to" ] || die "$to is no directory that can be written: run as root, or give --to"

archive=firecracker-v$version-$arch.tgz
from=${from:-$RELEASES/v$version}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

get() { # name
  case $from in
  http://* | https://*)
    command -v curl >/dev/null || die 'curl is missing: apt-get install curl'
    curl --fail --silent --show-error --location --retry 3 --max-time 600 --output "$work/$1" "$from/$1" ||
      die "cannot download $from/$1 (for a host without internet: --from DIR)" ;;
  *) cp -- "$from/$1" "$work/$1" 2>/dev/null || die "there is no $from/$1" ;;
  esac
}

say "getting $archive"
get "$archive"
if [ -z "$sha256" ]; then
  get "$archive.sha256.txt"
  sha256=$(cut -d ' ' -f 1 "$work/$archive.sha256.txt")
  [[ $sha256 =~ ^[0-9a-fA-F]{64}$ ]] || die "$archive.sha256.txt holds no SHA-256"
fi
printf '%s  %s\n' "${sha256,,}" "$work/$archive" | sha256sum --check --status ||
  die "$archive has SHA-256 $(sha256sum "$work/$archive" | cut -d ' ' -f 1), not $sha256: nothing was installed"

inside=release-v$version-$arch
tar -xzf "$work/$archive" -C "$work" --no-same-owner || die "$archive is no archive"
for name in firecracker jailer; do
  file=$work/$inside/$name-v$version-$arch
  [ -f "$file" ] && [ ! -L "$file" ] || die "$archive has no $inside/$name-v$version-$arch"
  if [ -f "$work/$inside/SHA256SUMS" ]; then
    (cd "$work/$inside" && grep -F "  $name-v$version-$arch" SHA256SUMS | grep -v '\.debug$' | sha256sum --check --status) ||
      die "$name does not have the digest of SHA256SUMS: nothing was installed"
  fi
  chmod 755 "$file"
  "$file" --version 2>/dev/null | head -n 1 | grep -q "v$version\$" || die "$name does not run here, or is not v$version"
done
for name in firecracker jailer; do
  # By rename: a running one stays as it is.
  install -m 755 "$work/$inside/$name-v$version-$arch" "$to/.$name.new"
  mv -f "$to/.$name.new" "$to/$name"
done
say "firecracker and jailer $version are in $to; hearth doctor says whether this host can use them"
