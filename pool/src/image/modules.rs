//! Which kernel modules the guest needs, and in which order they load.

use std::collections::{BTreeMap, BTreeSet};

/// What the guest uses of a stock Debian cloud kernel. There is no modprobe in the initramfs, so what the kernel would ask it
/// for is here too: `crc32c_generic` for ext4's checksums, `quota_v2` for the scratch disk's quota files.
/// Never `vsock_loopback`: with it an unprivileged process of the guest reaches the agent as a local peer.
pub(super) const WANTED: [&str; 10] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
    "crc32c_generic",
    "ext4",
    "quota_v2",
    "overlay",
];

/// A wanted module is neither a file nor built in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel has no module {0}")]
pub struct NoSuchModule(pub String);

/// The files (relative to the kernel's module directory) of `wanted` and of all that they depend on, each after what it
/// needs. `modules_dep` and `modules_builtin` are the contents of those files; a module that is built in needs no file.
pub(super) fn load_order(
    modules_dep: &str,
    modules_builtin: &str,
    wanted: &[&str],
) -> Result<Vec<String>, NoSuchModule> {
    let depends: BTreeMap<&str, Vec<&str>> = modules_dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (file, needs.split_whitespace().collect()))
        .collect();
    let files: BTreeMap<String, &str> = depends.keys().map(|file| (name(file), *file)).collect();
    let builtin: BTreeSet<String> = modules_builtin.lines().map(name).collect();

    let mut order = Vec::new();
    let mut visited = BTreeSet::new();
    for module in wanted.iter().map(|module| name(module)) {
        match files.get(&module) {
            Some(file) => visit(file, &depends, &mut visited, &mut order),
            None if builtin.contains(&module) => {}
            None => return Err(NoSuchModule(module)),
        }
    }
    Ok(order)
}

fn visit<'a>(
    file: &'a str,
    depends: &BTreeMap<&'a str, Vec<&'a str>>,
    visited: &mut BTreeSet<&'a str>,
    order: &mut Vec<String>,
) {
    if !visited.insert(file) {
        return;
    }
    for need in depends.get(file).into_iter().flatten() {
        visit(need, depends, visited, order);
    }
    order.push(file.to_owned());
}

/// A module's name from the name of its file: no directory, no suffix, `-` and `_` being one (as in modprobe(8)).
pub(super) fn name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split('.').next().unwrap_or(base).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko
kernel/fs/jbd2/jbd2.ko: kernel/lib/crc16.ko
kernel/fs/mbcache.ko:
kernel/lib/crc16.ko:
kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/drivers/char/hw_random/rng-core.ko.xz
kernel/drivers/char/hw_random/rng-core.ko.xz:
kernel/net/vmw_vsock/vsock_loopback.ko:
";
    const BUILTIN: &str = "kernel/drivers/virtio/virtio_pci.ko\n";

    #[test]
    fn a_module_loads_after_what_it_needs_and_once() {
        let order = load_order(DEP, BUILTIN, &["ext4", "virtio_rng", "virtio_pci", "jbd2"]).unwrap();
        assert_eq!(
            order,
            [
                "kernel/lib/crc16.ko",
                "kernel/fs/mbcache.ko",
                "kernel/fs/jbd2/jbd2.ko",
                "kernel/fs/ext4/ext4.ko",
                "kernel/drivers/char/hw_random/rng-core.ko.xz",
                "kernel/drivers/char/hw_random/virtio-rng.ko.xz",
            ]
        );
    }

    #[test]
    fn an_absent_module_is_named() {
        assert_eq!(load_order(DEP, BUILTIN, &["overlay"]), Err(NoSuchModule("overlay".into())));
    }

    #[test]
    fn the_loopback_of_vsock_is_not_wanted() {
        assert!(!WANTED.contains(&"vsock_loopback"));
    }
}
