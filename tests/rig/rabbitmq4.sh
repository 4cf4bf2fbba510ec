#!/usr/bin/env bash
# Makes a directory with Debian trixie's RabbitMQ 4 in it, for tests against that release: rabbitmq4.sh DIR. As root, from
# the host's own mirror; outside the repository, about 250 MB. There already: nothing is done.
set -euo pipefail

readonly SUITE=trixie
readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
dir=${1:?usage: rabbitmq4.sh DIR}
say() { printf 'rabbitmq4: %s\n' "$*" >&2; }

[ ! -x "$dir/usr/lib/rabbitmq/bin/rabbitmq-server" ] || exit 0
[ "$(id -u)" = 0 ] || { say 'not root: cannot make it'; exit 1; }
command -v mmdebstrap >/dev/null || { say 'mmdebstrap is missing: deploy/install-deps.sh test'; exit 1; }
mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages' 'Release: bookworm' \
  'Component: main' | sed -n 1p)
[ -n "$mirror" ] || { say "no apt source for bookworm, from whose mirror $SUITE is taken"; exit 1; }

partial=$dir.partial
rm -rf "$partial"
mkdir -p "$(dirname "$dir")"
options=$(mktemp)
trap 'rm -f "$options"; rm -rf "$partial"' EXIT
# How the host reaches its mirrors.
apt-config dump Acquire | grep -E '^Acquire::(http|https|Retries|ForceIPv[46]|Check-Valid-Until)' >"$options" || true
mmdebstrap --quiet --variant=minbase --include=rabbitmq-server --aptopt="$options" \
  --customize-hook='rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*' \
  "$SUITE" "$partial" "deb [signed-by=$KEYRING] $mirror $SUITE main" >&2
mv "$partial" "$dir"
say "made $dir: $(chroot "$dir" dpkg-query -W -f '${Version}' rabbitmq-server)"
