//! The root image: a minimal Debian with a runtime's packages, as a read-only ext4 file system.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    ImageError, RECIPE_VERSION, apt, at, blocking,
    command::Tool,
    progress::Progress,
    store::{Labels, Locked, Stored, Temp},
    tree::{self, Extent},
};
use crate::runtime::Runtime;

pub(super) const KIND: &str = "root";
pub(super) const FILE: &str = "root.ext4";
/// What is installed, for people: one `name version` per line.
const PACKAGES: &str = "packages.txt";

/// What must be free before anything is installed: the tree, the image of it, and the packages, of a large runtime.
const ROOM_MIB: u64 = 2048;
/// How long an installation may take: a slow mirror, on a slow host. Tools that have no room left may try for ever.
const INSTALL_LIMIT: Duration = Duration::from_secs(3600);

/// No journal: it is never written. A fixed UUID: same tree, (nearly) the same image.
const OPTIONS: [&str; 12] = [
    "-O",
    "^has_journal,^resize_inode",
    "-E",
    "lazy_itable_init=0,root_owner=0:0",
    "-U",
    "68656172-7468-4000-8000-000000000001",
    "-m",
    "0",
    "-L",
    "root",
    "-b",
    "4096",
];
/// Never unpacked, so that it is neither written nor removed.
const EXCLUDED: [&str; 5] = [
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/man/*",
];

pub(super) fn inputs(runtime: &Runtime) -> Labels {
    let mut packages = runtime.packages.clone();
    packages.sort();
    packages.dedup();
    Labels::from([
        ("recipe", RECIPE_VERSION.to_string()),
        ("suite", apt::SUITE.to_owned()),
        ("packages", packages.join(",")),
    ])
}

/// Installs the runtime's packages from the host's mirrors and makes the image of them, unless the very same versions
/// are there already. Needs root, since the image's files belong to root.
pub(super) async fn build(
    store: &Locked,
    runtime: &Runtime,
    sources: &str,
    progress: &dyn Progress,
) -> Result<Stored, ImageError> {
    if !rustix::process::geteuid().is_root() {
        return Err(ImageError::NotRoot);
    }
    store.room(ROOM_MIB)?;
    let inputs = inputs(runtime);
    let work = store.temp("root-tree")?;
    let tree = work.path.join("tree");
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let started_unix_s = i64::try_from(started.as_secs()).unwrap_or(i64::MAX);
    install(store, runtime, &inputs, sources, &work, &tree, progress).await?;

    let status = tree.join("var/lib/dpkg/status");
    let installed = installed(&fs::read_to_string(&status).map_err(at(&status))?);
    let facts = Labels::from([("installed", super::digest::of(&installed))]);
    if let Some(stored) = store.adopt(KIND, &inputs, &facts)? {
        return Ok(stored);
    }
    progress.report(KIND, "making the file system");
    let image = store.temp(KIND)?;
    fs::write(image.path.join(PACKAGES), installed.join("")).map_err(at(&image.path))?;
    let held = (store.clone(), tree.clone());
    let (work, extent) = blocking(move || {
        let (_store, tree) = held;
        tree::prepare(&tree, started_unix_s).map(|extent| (work, extent)).map_err(at(&tree))
    })
    .await?;
    make_file_system(&tree, extent, &image.path.join(FILE)).await?;
    let store = store.clone();
    blocking(move || {
        // Before the lock is released.
        drop(work);
        store.publish(KIND, &inputs, &facts, &image)
    })
    .await
}

async fn install(
    store: &Locked,
    runtime: &Runtime,
    inputs: &Labels,
    sources: &str,
    work: &Temp,
    tree: &Path,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let write = |name: &str, content: &str| -> Result<PathBuf, ImageError> {
        let path = work.path.join(name);
        fs::write(&path, content).map_err(at(&path)).map(|()| path)
    };
    let sources = write("sources.list", sources)?;
    let options = write("apt.conf", &apt::acquire_options().await?)?;
    let packages = inputs.get("packages").map(String::as_str).unwrap_or_default();
    progress.report(KIND, &format!("installing Debian {} with {packages}", apt::SUITE));
    confined()
        .await
        // Its own temporary files are then swept with ours.
        .env("TMPDIR", &work.path.to_string_lossy())
        .args(["mmdebstrap", "--mode=root", "--variant=essential", "--format=directory"])
        .arg(format!("--include={packages}"))
        .arg(format!("--aptopt={}", options.display()))
        .arg("--dpkgopt=force-unsafe-io")
        .args(EXCLUDED.map(|path| format!("--dpkgopt=path-exclude={path}")))
        .arg(apt::SUITE)
        .args([tree, &sources])
        .logged(&store.log(&format!("root-{}", runtime.name)), INSTALL_LIMIT, |line| {
            if let Some(message) = line.strip_prefix("I: ") {
                progress.report(KIND, message);
            }
        })
        .await?;
    Ok(())
}

/// The command that mmdebstrap runs under. It mounts the host's /dev and more inside the tree; in a mount namespace of its
/// own nothing of that is left on the host however it ends, and removing the tree can never reach into a mount. The PID
/// namespace ends all of its children with it, and it ends with us.
async fn confined() -> Tool {
    let namespaces = ["--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let tool = Tool::new("setpriv", "util-linux").args(["--pdeathsig", "KILL", "--"]);
    // A container without CAP_SYS_ADMIN refuses, and would also refuse mmdebstrap's mounts, which it then goes without.
    match Tool::new("unshare", "util-linux").args(namespaces).arg("true").output().await {
        Ok(_) => tool.arg("unshare").args(namespaces).arg("--"),
        Err(_) => tool,
    }
}

async fn make_file_system(tree: &Path, extent: Extent, file: &Path) -> Result<(), ImageError> {
    fs::File::create(file).and_then(|f| f.set_len(image_bytes(extent))).map_err(at(file))?;
    Tool::new("mke2fs", "e2fsprogs")
        .env("E2FSPROGS_FAKE_TIME", &tree::DATE_UNIX_S.to_string())
        .args(["-q", "-t", "ext4"])
        .args(OPTIONS)
        .arg("-N")
        .arg(inodes(extent).to_string())
        .arg("-d")
        .args([tree, file])
        .output()
        .await?;
    Ok(())
}

fn inodes(extent: Extent) -> u64 {
    extent.inodes + 64
}

/// Room for the data, for inodes of 256 bytes, and for large directories and bitmaps. What is too much stays a hole.
fn image_bytes(extent: Extent) -> u64 {
    let data = extent.blocks * 4096;
    let bytes = data + data / 20 + inodes(extent) * 256 + (16 << 20);
    bytes.next_multiple_of(1 << 20)
}

/// `name version` of every package of a dpkg status file, sorted, each with its line's end.
fn installed(status: &str) -> Vec<String> {
    let field = |paragraph: &str, name: &str| -> Option<String> {
        paragraph.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    let mut lines: Vec<String> = status
        .split("\n\n")
        .filter_map(|paragraph| {
            Some(format!("{} {}\n", field(paragraph, "Package:")?, field(paragraph, "Version:")?))
        })
        .collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_read_from_dpkgs_status() {
        let status = "Package: b\nStatus: install ok installed\nVersion: 2:1-1\nDescription: x\n y\n\nPackage: a\nVersion: 1\n";
        assert_eq!(installed(status), ["a 1\n", "b 2:1-1\n"]);
    }

    #[test]
    fn the_order_of_packages_is_no_input() {
        let parse = |packages: &str| {
            let text = format!(
                "name=\"x\"\npackages={packages}\nvcpus=1\nvm_memory_mib=256\nscratch_mib=64\nentry={{file=\"a\",argv=[\"a\"]}}"
            );
            inputs(&Runtime::parse("x.toml", &text).unwrap())
        };
        assert_eq!(parse("[\"aa\",\"bb\"]"), parse("[\"bb\",\"aa\",\"aa\"]"));
        assert_ne!(parse("[\"aa\"]"), parse("[\"bb\"]"));
    }

    #[test]
    fn an_image_has_room_for_its_tree() {
        let extent = Extent { inodes: 1000, blocks: 10_000 };
        let bytes = image_bytes(extent);
        assert!(bytes > 10_000 * 4096 + 1000 * 256 && bytes.is_multiple_of(1 << 20));
    }
}
