//! An image whose guest has no vsock.

use std::{fs, path::Path};

use hearth_pool::image::Image;

/// The image with a guest whose kernel has no AF_VSOCK. Its initramfs is written to `directory`.
pub fn without_vsock(image: &Image, directory: &Path) -> Image {
    let path = directory.join("initramfs.cpio");
    fs::write(&path, unpacked_without_vsock(&fs::read(&image.initramfs.path).unwrap())).unwrap();
    let mut image = image.clone();
    image.initramfs.path = path;
    image.inputs_sha256 = format!("{:0>64}", "b");
    image
}

/// What an initramfs gains that is unpacked after it: every module of vsock as an empty file, so that the guest's kernel has
/// no AF_VSOCK. In cpio's format `newc` (initramfs: "the newest file wins").
fn unpacked_without_vsock(initramfs: &[u8]) -> Vec<u8> {
    let entry = |name: &str, mode: u32| {
        let fields = [1, mode, 0, 0, 1, 0, 0, 0, 0, 0, 0, u32::try_from(name.len()).unwrap() + 1, 0];
        let fields: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        let mut entry = format!("070701{fields}{name}\0").into_bytes();
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry
    };
    let hex = |at: usize| {
        let field = initramfs.get(at..at + 8).unwrap();
        usize::from_str_radix(std::str::from_utf8(field).unwrap(), 16).unwrap()
    };
    let (mut at, mut archive) = (0, initramfs.to_vec());
    archive.resize(archive.len().next_multiple_of(512), 0);
    loop {
        let (size, length) = (hex(at + 6 + 6 * 8), hex(at + 6 + 11 * 8));
        let name = std::str::from_utf8(&initramfs[at + 110..at + 110 + length - 1]).unwrap();
        if name == "TRAILER!!!" {
            archive.extend(entry(name, 0));
            return archive;
        }
        if name.contains("vsock") {
            archive.extend(entry(name, 0o100_644));
        }
        at = (at + 110 + length).next_multiple_of(4);
        at = (at + size).next_multiple_of(4);
    }
}
