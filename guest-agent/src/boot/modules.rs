//! Kernel modules of the initramfs, in the order of their names.

use std::{fs, fs::File, io, path::Path};

use rustix::{io::Errno, system::finit_module};

use crate::console::say;

const DIRECTORY: &str = "/modules";

/// Loads every module, and removes the files, whose memory is the machine's. One that fails is said and skipped:
/// what needed it will say what it misses.
pub(super) fn load_all() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        if let Err(error) = load(&path) {
            say(&format_args!("module {}: {error}", path.display()));
        }
        let _ = fs::remove_file(&path);
    }
}

fn load(path: &Path) -> io::Result<()> {
    match finit_module(File::open(path)?, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
