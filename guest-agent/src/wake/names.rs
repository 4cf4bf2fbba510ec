//! What a machine is called: files in /run, mounted over those of the read-only image and over the boot id.

use std::{ffi::CStr, fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use rustix::{
    io::Errno,
    mount::mount_bind,
    rand::{GetRandomFlags, getrandom},
};

/// Where the files are written.
const DIRECTORY: &str = "/run/hearth";
/// What each is mounted over.
const TARGETS: [(&str, &str); 3] = [
    ("machine-id", "/etc/machine-id"),
    ("hostname", "/etc/hostname"),
    ("boot-id", "/proc/sys/kernel/random/boot_id"),
];

const RESOLV_CONF: &str = "resolv.conf";

/// The boot id's file and what it is mounted over, for those who have a /proc of their own.
pub(crate) const BOOT_ID: (&CStr, &CStr) = (c"/run/hearth/boot-id", c"/proc/sys/kernel/random/boot_id");

/// Makes the files, empty: nobody has a name before the wake.
pub(super) fn make() -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    TARGETS.iter().try_for_each(|(name, _)| {
        let path = Path::new(DIRECTORY).join(name);
        fs::write(&path, "")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444))
    })
}

/// Writes the files, the ids drawn anew. Call it after the generator was reseeded.
pub(super) fn write(hostname: &str) -> io::Result<()> {
    let (machine, boot) = (random_uuid()?, random_uuid()?);
    let machine: String = machine.chars().filter(|digit| *digit != '-').collect();
    for (name, content) in [("machine-id", machine.as_str()), ("hostname", hostname), ("boot-id", &boot)] {
        // Written in place: a mount over the image's file shows the same inode.
        fs::write(Path::new(DIRECTORY).join(name), format!("{content}\n"))?;
    }
    Ok(())
}

/// Mounts them.
pub(super) fn bind() -> Result<(), Errno> {
    TARGETS.iter().try_for_each(|(name, target)| mount_bind(Path::new(DIRECTORY).join(name), *target))
}

/// Lets programs ask `resolver` for names.
pub(super) fn write_resolver(resolver: std::net::Ipv4Addr) -> io::Result<()> {
    let path = Path::new(DIRECTORY).join(RESOLV_CONF);
    fs::write(&path, format!("nameserver {resolver}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444))?;
    Ok(mount_bind(&path, "/etc/resolv.conf")?)
}

/// The machine-id that processes read. Empty when there is none.
pub(super) fn machine_id() -> String {
    fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned()
}

fn random_uuid() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(uuid(bytes))
}

/// A version 4 UUID (RFC 9562, 5.4) of these random bytes.
fn uuid(bytes: [u8; 16]) -> String {
    let number = u128::from_be_bytes(bytes);
    let number = number & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{number:032x}");
    let cut = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [cut(0, 8), cut(8, 12), cut(12, 16), cut(16, 20), cut(20, 32)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_id_has_one_place() {
        let (file, target) = BOOT_ID;
        let found = TARGETS.iter().find(|(_, over)| over.as_bytes() == target.to_bytes()).unwrap();
        assert_eq!(Path::new(DIRECTORY).join(found.0).as_os_str().as_encoded_bytes(), file.to_bytes());
    }

    #[test]
    fn a_uuid_has_its_version_and_variant() {
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_ne!(random_uuid().unwrap(), random_uuid().unwrap());
    }
}
