//! The guest's kernel: Debian's cloud kernel, unpacked and never installed on the host.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    ImageError, RECIPE_VERSION,
    apt::{self, PrivateApt},
    at, blocking,
    command::Tool,
    modules,
    progress::Progress,
    store::{Labels, Locked, Stored},
};

pub(super) const KIND: &str = "kernel";
/// The bzImage.
pub(super) const VMLINUZ: &str = "vmlinuz";
/// `NN-name.ko` in the order of loading.
pub(super) const MODULES: &str = "modules";
/// The fact that is `uname -r` of the guest.
pub(super) const RELEASE: &str = "release";

/// The package that depends on the newest kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

pub(super) fn inputs() -> Labels {
    Labels::from([
        ("recipe", RECIPE_VERSION.to_string()),
        ("suite", apt::SUITE.to_owned()),
        ("package", META_PACKAGE.to_owned()),
        ("modules", modules::WANTED.join(" ")),
    ])
}

/// Looks for the newest kernel in the mirror, and gets it if it is not there already.
pub(super) async fn build(
    store: &Locked,
    sources: &str,
    progress: &dyn Progress,
) -> Result<Stored, ImageError> {
    let temp = store.temp(KIND)?;
    let scratch = store.temp("kernel-package")?;
    progress.report(KIND, "reading the package lists of the mirror");
    let apt = PrivateApt::update(scratch.path.clone(), sources).await?;
    let depends = apt.field(META_PACKAGE, "Depends").await?.unwrap_or_default();
    let (package, version) = newest(&depends).ok_or_else(|| {
        ImageError::Odd(format!("{META_PACKAGE} depends on {depends:?}, not on one kernel"))
    })?;
    let release = package.trim_start_matches("linux-image-").to_owned();

    let inputs = inputs();
    let facts = Labels::from([(RELEASE, release.clone()), ("version", version.clone())]);
    if let Some(stored) = store.adopt(KIND, &inputs, &facts)? {
        return Ok(stored);
    }
    progress.report(KIND, &format!("downloading Linux {release} ({version})"));
    let deb = apt.download(&package, &version).await?;
    let tree = scratch.path.join("tree");
    Tool::new("dpkg-deb", "dpkg").arg("-x").args([&deb, &tree]).output().await?;
    // The package's own post-installation would do this.
    Tool::new("depmod", "kmod").arg("-b").arg(&tree).arg(&release).output().await?;
    let vmlinuz = tree.join("boot").join(format!("vmlinuz-{release}"));
    fs::copy(&vmlinuz, temp.path.join(VMLINUZ)).map_err(at(&vmlinuz))?;
    take_modules(&tree.join("lib/modules").join(&release), &temp.path.join(MODULES)).await?;
    let store = store.clone();
    blocking(move || store.publish(KIND, &inputs, &facts, &temp)).await
}

/// The kernel's package and version in the `Depends` of the meta package: `linux-image-6.1.0-0-cloud-amd64 (= 6.1.1-1)`.
fn newest(depends: &str) -> Option<(String, String)> {
    let (package, version) = depends.split_once(" (= ")?;
    let version = version.strip_suffix(')')?;
    (package.starts_with("linux-image-") && !version.contains([' ', ',']))
        .then(|| (package.into(), version.into()))
}

async fn take_modules(from: &Path, to: &Path) -> Result<(), ImageError> {
    let read = |name: &str| fs::read_to_string(from.join(name)).map_err(at(from));
    let order = modules::load_order(&read("modules.dep")?, &read("modules.builtin")?, &modules::WANTED)?;
    fs::create_dir(to).map_err(at(to))?;
    for (n, file) in order.iter().enumerate() {
        let source = from.join(file);
        let target = to.join(format!("{n:02}-{}.ko", modules::name(file)));
        plain(&source, &target).await?;
    }
    Ok(())
}

/// Copies a module, decompressed: the agent hands it to the kernel as it is.
async fn plain(source: &Path, target: &Path) -> Result<(), ImageError> {
    if source.extension().is_some_and(|ext| ext == "xz") {
        let copy: PathBuf = target.with_extension("ko.xz");
        fs::copy(source, &copy).map_err(at(source))?;
        Tool::new("xz", "xz-utils").arg("-d").arg(&copy).output().await?;
        return Ok(());
    }
    if source.extension().is_none_or(|ext| ext != "ko") {
        let error = io::Error::new(io::ErrorKind::Unsupported, "neither .ko nor .ko.xz");
        return Err(at(source)(error));
    }
    fs::copy(source, target).map(|_| ()).map_err(at(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_meta_package_depends_on() {
        assert_eq!(
            newest("linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)"),
            Some(("linux-image-6.1.0-56-cloud-amd64".into(), "6.1.192-2".into()))
        );
        assert_eq!(newest(""), None);
        assert_eq!(newest("linux-image-a (= 1), linux-image-b (= 2)"), None);
        assert_eq!(newest("linux-image-a (>= 1)"), None);
    }
}
