//! Digests of files.

use std::{fs::File, io, path::Path};

use sha2::{Digest, Sha256};

/// SHA-256 of a file's bytes, in lower-case hexadecimal. Blocks.
pub fn sha256_file(path: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut io::BufReader::with_capacity(1 << 20, File::open(path)?), &mut HashWriter(&mut digest))?;
    Ok(hex(&digest.finalize()))
}

/// SHA-256 of some bytes, in lower-case hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a value's JSON, in lower-case hexadecimal.
pub fn sha256_of(value: &impl serde::Serialize) -> String {
    // Structs of strings and numbers always have a JSON form.
    sha256(&serde_json::to_vec(value).unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_file(file.path()).unwrap(), expected);
        assert_eq!(sha256(b"abc"), expected);
    }
}
