#!/usr/bin/env bash
# Builds the machine that the rig boots: `image.sh DIR` leaves kernel, initramfs and root image in DIR, unless they are
# there already and were built by this very script. Needs root and mmdebstrap; takes packages from the host's own mirrors.
set -euo pipefail
cd "$(dirname "$0")"

readonly SUITE=bookworm
readonly PACKAGES=busybox-static,e2fsprogs,iproute2,kmod,mount,nftables,procps,util-linux
# What the initramfs loads to reach the root disk; the rest comes by modprobe.
readonly EARLY=(virtio_pci virtio_blk ext4 crc32c_generic)
out=$1
recipe=$(cat image.sh init | sha256sum | cut -c 1-16)

say() { printf 'rig: %s\n' "$*" >&2; }
[ "$(cat "$out/recipe" 2>/dev/null)" != "$recipe" ] || exit 0
[ "$(id -u)" = 0 ] || { say 'building its machine needs root'; exit 1; }

for tool in cpio depmod dpkg-deb mke2fs mmdebstrap modprobe xz; do
  command -v "$tool" >/dev/null || { say "its machine cannot be built without $tool"; exit 1; }
done

mkdir -p "$out"
exec 9>"$out/lock"
flock 9
[ "$(cat "$out/recipe" 2>/dev/null)" != "$recipe" ] || exit 0
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
tree=$work/tree

say "installing its machine (Debian $SUITE, once)"
key=/usr/share/keyrings/debian-archive-keyring.gpg
apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
  sort -u | while read -r uri release component; do
  case $release/$component in
  "$SUITE"/main | "$SUITE"-updates/main | "$SUITE"-security/main)
    echo "deb${key:+ [signed-by=$key]} $uri $release main" ;;
  esac
done >"$work/sources.list"

# The kernel is unpacked by hand: installed, it would bring a generator of initramfs along and run it. Unpacked in place,
# it would replace the link /lib by a directory.
cat >"$work/kernel.sh" <<'HOOK'
set -e
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')
cd "$2" && apt-get -qq -o APT::Sandbox::User= download "$kernel"
dpkg-deb -x "$kernel"_*.deb "$2/kernel-package"
mv "$2/kernel-package/lib/modules" "$1/usr/lib/"
HOOK
TMPDIR=$work mmdebstrap --quiet --mode=root --variant=essential --include="$PACKAGES" \
  --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --customize-hook="sh $work/kernel.sh \"\$1\" $work" "$SUITE" "$tree" "$work/sources.list" >&2
release=$(ls "$tree/lib/modules")
depmod -b "$tree" "$release"
install -m 755 init "$tree/rig-init"
mkdir -p "$tree/rig"
echo rig >"$tree/etc/hostname"

say 'making its initramfs and its disk'
mkdir -p "$work/early"/{bin,dev,proc,sys,root,modules}
cp "$tree/bin/busybox" "$work/early/bin/"
# Built in: no file. `--show-depends` lists a module after what it needs.
n=10
for module in "${EARLY[@]}"; do
  modprobe -d "$tree" -S "$release" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
done | awk '!seen[$0]++' | while read -r file; do
  case $file in
  *.xz) xz -dc "$file" >"$work/early/modules/$n-$(basename "$file" .xz)" ;;
  *) cp "$file" "$work/early/modules/$n-$(basename "$file")" ;;
  esac
  n=$((n + 1))
done
cat >"$work/early/init" <<'INIT'
#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev
for module in /modules/*; do busybox insmod "$module"; done
until [ -b /dev/vda ]; do busybox usleep 10000; done
busybox mount -t ext4 /dev/vda /root || exec busybox poweroff -f
busybox mount --move /dev /root/dev
exec busybox switch_root /root /rig-init
INIT
chmod +x "$work/early/init"
(cd "$work/early" && find . -print0 | cpio --null --quiet -o -H newc) >"$work/initramfs"

rm -rf "${tree:?}"/var/cache/* "${tree:?}"/var/lib/apt/* "${tree:?}"/usr/share/locale/*
cp "$work/kernel-package/boot/vmlinuz-$release" "$work/kernel"
truncate -s 6G "$work/root.ext4"
mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1 -m 0 -d "$tree" "$work/root.ext4"
mv "$work"/{kernel,initramfs,root.ext4} "$out/"
echo "$recipe" >"$out/recipe"
