//! The ELF kernel inside a bzImage: Firecracker before 1.17 boots nothing else.

use lz4_flex::block::decompress;

/// Magic of the boot protocol's header, at [`HEADER`] (Documentation/arch/x86/boot.rst, like every offset here).
const MAGIC: &[u8; 4] = b"HdrS";
const HEADER: usize = 0x202;
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR_BYTES: usize = 512;
const ELF: &[u8; 4] = b"\x7fELF";
/// Magic of LZ4's legacy format, which `lz4 -l` and so the kernel's build writes.
const LZ4_LEGACY: &[u8; 4] = b"\x02\x21\x4c\x18";
/// What a block of the legacy format holds at most, unpacked.
const LZ4_BLOCK_BYTES: usize = 8 << 20;
/// Largest kernel taken, unpacked. Debian's has 51 MiB.
const KERNEL_MAX_BYTES: usize = 512 << 20;

/// No kernel could be taken out of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// It is cut short, or no bzImage of boot protocol 2.08 or later.
    #[error("not a bzImage, or one that is cut short")]
    NotAKernel,
    /// The payload is packed in a way that is not known here.
    #[error("the kernel is packed with {0}, and only LZ4 and no packing at all are known")]
    Packing(&'static str),
    /// The payload does not unpack.
    #[error("the kernel's payload is damaged: {0}")]
    Damaged(String),
}

/// The ELF image inside `bzimage`. An ELF image is returned as it is.
pub fn vmlinux(bzimage: &[u8]) -> Result<Vec<u8>, KernelError> {
    if bzimage.starts_with(ELF) {
        return Ok(bzimage.to_vec());
    }
    let payload = payload(bzimage).ok_or(KernelError::NotAKernel)?;
    let kernel = match payload {
        packed if packed.starts_with(LZ4_LEGACY) => lz4_legacy(packed)?,
        plain if plain.starts_with(ELF) => plain.to_vec(),
        packed => return Err(KernelError::Packing(packing(packed))),
    };
    if kernel.starts_with(ELF) {
        Ok(kernel)
    } else {
        Err(KernelError::Damaged("what it unpacks to is no ELF image".to_owned()))
    }
}

fn payload(bzimage: &[u8]) -> Option<&[u8]> {
    if bzimage.get(HEADER..HEADER + MAGIC.len())? != MAGIC {
        return None;
    }
    let sectors = match *bzimage.get(SETUP_SECTORS)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR_BYTES + number(bzimage, PAYLOAD_OFFSET)?;
    bzimage.get(start..start.checked_add(number(bzimage, PAYLOAD_LENGTH)?)?)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

/// Blocks, each with its packed length, and last of all the unpacked length of the whole (Documentation: the kernel's build
/// appends it to every packed payload).
fn lz4_legacy(packed: &[u8]) -> Result<Vec<u8>, KernelError> {
    let damaged = |what: &str| KernelError::Damaged(what.to_owned());
    let size_at = packed.len().saturating_sub(4);
    let size = number(packed, size_at).filter(|size| *size <= KERNEL_MAX_BYTES);
    let size = size.ok_or_else(|| damaged("its length makes no sense"))?;
    let mut kernel = Vec::with_capacity(size);
    let mut at = LZ4_LEGACY.len();
    while at < size_at {
        let length = number(packed, at).ok_or_else(|| damaged("a block has no length"))?;
        let block = at.checked_add(4 + length).and_then(|end| packed.get(at + 4..end));
        let block = block.ok_or_else(|| damaged("a block is cut short"))?;
        let most = LZ4_BLOCK_BYTES.min(size.saturating_sub(kernel.len()));
        kernel.extend(decompress(block, most).map_err(|error| damaged(&error.to_string()))?);
        at += 4 + length;
    }
    if kernel.len() == size { Ok(kernel) } else { Err(damaged("it unpacks to another length")) }
}

fn packing(packed: &[u8]) -> &'static str {
    match packed {
        [0x1f, 0x8b, ..] => "gzip",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [b'B', b'Z', b'h', ..] => "bzip2",
        _ => "something unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with this payload and one sector of setup.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR_BYTES + 16];
        image[SETUP_SECTORS] = 1;
        image[HEADER..HEADER + 4].copy_from_slice(MAGIC);
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"what follows the payload");
        image
    }

    fn lz4(parts: &[&[u8]]) -> Vec<u8> {
        let mut packed = LZ4_LEGACY.to_vec();
        for part in parts {
            // Literals only: a token with their number (below 15), and they themselves.
            let block = [&[u8::try_from(part.len() << 4).unwrap()], *part].concat();
            packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            packed.extend(block);
        }
        let size: usize = parts.iter().map(|part| part.len()).sum();
        packed.extend(u32::try_from(size).unwrap().to_le_bytes());
        packed
    }

    #[test]
    fn the_kernel_is_unpacked_block_by_block() {
        let packed = lz4(&[b"\x7fELF one", b" and two"]);
        assert_eq!(vmlinux(&bzimage(&packed)).unwrap(), b"\x7fELF one and two");
        assert_eq!(vmlinux(&bzimage(b"\x7fELF")).unwrap(), b"\x7fELF");
        assert_eq!(vmlinux(b"\x7fELF already").unwrap(), b"\x7fELF already");
    }

    #[test]
    fn what_is_no_kernel_is_refused_and_never_panics() {
        assert_eq!(vmlinux(b""), Err(KernelError::NotAKernel));
        assert_eq!(vmlinux(&[0; 4096]), Err(KernelError::NotAKernel));
        assert_eq!(vmlinux(&bzimage(b"\xfd7zXZ")), Err(KernelError::Packing("xz")));
        assert!(matches!(vmlinux(&bzimage(&lz4(&[b"no ELF"]))), Err(KernelError::Damaged(_))));
        let whole = bzimage(&lz4(&[b"\x7fELF one", b" and two"]));
        for length in 0..whole.len() - b"what follows the payload".len() {
            assert!(vmlinux(&whole[..length]).is_err(), "{length}");
        }
        let packed = lz4(&[b"\x7fELF one", b" and two"]);
        for (n, bit) in (4..packed.len()).flat_map(|n| (0..8).map(move |bit| (n, bit))) {
            let mut odd = packed.clone();
            odd[n] ^= 1 << bit;
            // It may still be an ELF image with another letter.
            let _ = vmlinux(&bzimage(&odd));
        }
    }
}
