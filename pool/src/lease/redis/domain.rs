//! Which host this is.

use std::{fs, io, path::Path};

use sha2::{Digest, Sha256};

/// Names this host, where a CID and a port mean something: a digest of its machine-id, which is itself not to be
/// shown around (machine-id(5)). Blocks on the file system.
pub fn host_domain() -> io::Result<String> {
    read_domain(Path::new("/etc/machine-id"))
}

fn read_domain(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(machine_id) => domain_of(&machine_id),
        // As in many a container.
        Err(error) if error.kind() == io::ErrorKind::NotFound => domain_of(""),
        Err(error) => Err(error),
    }
}

fn domain_of(machine_id: &str) -> io::Result<String> {
    let id = machine_id.trim();
    // Empty or "uninitialized" in an image that has never booted: one name for all of its copies.
    if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        let what = "/etc/machine-id names no machine, and by that workers tell hosts apart: run systemd-machine-id-setup, or \
                    write 32 hexadecimal digits to it that no other host has";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let digest = Sha256::new_with_prefix("hearth lease domain\n").chain_update(id).finalize();
    Ok(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_the_machines_own_and_does_not_tell_its_id() {
        let id = "0123456789abcdef0123456789abcdef";
        let domain = domain_of(&format!("{id}\n")).unwrap();
        assert_eq!(domain.len(), 16);
        assert!(!id.contains(&domain));
        assert_ne!(domain, domain_of(&id.replace('0', "1")).unwrap());
        for nothing in ["", "uninitialized\n", "0123"] {
            assert!(domain_of(nothing).unwrap_err().to_string().contains("systemd-machine-id-setup"));
        }
        let absent = read_domain(Path::new("/no/such/machine-id")).unwrap_err().to_string();
        assert!(absent.contains("systemd-machine-id-setup"), "{absent}");
    }
}
