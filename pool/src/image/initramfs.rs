//! The initramfs: the agent as `/init`, and the modules it loads before it can see the root disk.

use std::{fs, io, path::Path};

use super::{
    Agent, ImageError, RECIPE_VERSION, at, blocking,
    cpio::Archive,
    kernel,
    progress::Progress,
    store::{Labels, Locked, Stored},
};

pub(super) const KIND: &str = "initramfs";
/// Uncompressed: unpacking takes longer under TCG than reading a few MiB more.
pub(super) const FILE: &str = "initramfs.cpio";

pub(super) fn inputs(kernel: &Stored, agent: &Agent) -> Labels {
    let files = kernel.meta.files.iter().filter(|file| file.name.starts_with(kernel::MODULES));
    let modules = files.map(|file| format!("{} {}\n", file.name, file.sha256)).collect();
    Labels::from([
        ("recipe", RECIPE_VERSION.to_string()),
        ("agent", agent.sha256.clone()),
        ("modules", modules),
    ])
}

pub(super) async fn build(
    store: &Locked,
    kernel: &Stored,
    agent: &Agent,
    progress: &dyn Progress,
) -> Result<Stored, ImageError> {
    let (inputs, facts) = (inputs(kernel, agent), Labels::new());
    if let Some(stored) = store.adopt(KIND, &inputs, &facts)? {
        return Ok(stored);
    }
    progress.report(KIND, "packing the agent and the kernel's modules");
    let temp = store.temp(KIND)?;
    let (store, agent, modules) = (store.clone(), agent.path.clone(), kernel.dir.join(kernel::MODULES));
    blocking(move || {
        write(&temp.path.join(FILE), &agent, &modules).map_err(at(&temp.path))?;
        store.publish(KIND, &inputs, &facts, &temp)
    })
    .await
}

fn write(to: &Path, agent: &Path, modules: &Path) -> io::Result<()> {
    let mut archive = Archive::new(io::BufWriter::new(fs::File::create(to)?));
    for dir in ["dev", "proc", "sys", "newroot", "modules"] {
        archive.dir(dir)?;
    }
    // The kernel opens it as the agent's stdin, stdout and stderr before anything is mounted.
    archive.char_device("dev/console", 0o600, 5, 1)?;
    let mut files = fs::read_dir(modules)?.collect::<io::Result<Vec<_>>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    for file in files {
        let name = format!("modules/{}", file.file_name().to_string_lossy());
        archive.file(&name, 0o644, &fs::read(file.path())?)?;
    }
    archive.file("init", 0o755, &fs::read(agent)?)?;
    archive.finish().map(|_| ())
}
