//! Whether a program can run where there are no libraries.

/// Why a file is no static program for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStatic {
    /// Not an x86-64 ELF file, or cut short.
    #[error("not a program for x86-64 Linux")]
    Foreign,
    /// It asks for a dynamic loader, which the initramfs does not have.
    #[error("dynamically linked")]
    Dynamic,
}

const MAGIC_64_LITTLE: &[u8] = b"\x7fELF\x02\x01";
const EM_X86_64: u16 = 62;
const PT_INTERP: u32 = 3;

/// Looks through the program headers (elf(5)) for an interpreter.
pub(super) fn check_static(elf: &[u8]) -> Result<(), NotStatic> {
    let headers = program_headers(elf).ok_or(NotStatic::Foreign)?;
    if headers.contains(&PT_INTERP) { Err(NotStatic::Dynamic) } else { Ok(()) }
}

/// The types of all program headers.
fn program_headers(elf: &[u8]) -> Option<Vec<u32>> {
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    if !elf.starts_with(MAGIC_64_LITTLE) || half(18)? != EM_X86_64 {
        return None;
    }
    let offset = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (usize::from(half(54)?), usize::from(half(56)?));
    (0..count)
        .map(|n| {
            let at = offset.checked_add(n * size)?;
            Some(u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(types: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(MAGIC_64_LITTLE);
        bytes[18] = 62;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = types.len() as u8;
        for kind in types {
            bytes.extend(kind.to_le_bytes());
            bytes.extend([0; 52]);
        }
        bytes
    }

    #[test]
    fn an_interpreter_makes_a_program_dynamic() {
        assert_eq!(check_static(&elf(&[1, 1])), Ok(()));
        assert_eq!(check_static(&elf(&[6, PT_INTERP, 1])), Err(NotStatic::Dynamic));
    }

    #[test]
    fn what_is_no_whole_elf_file_is_foreign() {
        let whole = elf(&[1, 1]);
        for end in [0, 5, 30, 60, 70, whole.len() - 56] {
            assert_eq!(check_static(&whole[..end]), Err(NotStatic::Foreign), "{end} bytes");
        }
        assert_eq!(check_static(b"#!/bin/sh\n"), Err(NotStatic::Foreign));
    }

    #[test]
    fn this_test_is_linked_dynamically() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(check_static(&own), Err(NotStatic::Dynamic));
    }
}
