//! The scratch disk's template: an empty file system with user quotas, copied (sparse) for each bake, which mounts it.

use std::fs;

use super::{
    ImageError, RECIPE_VERSION, at, blocking,
    command::Tool,
    progress::Progress,
    store::{Labels, Locked, Stored},
};

pub(super) const KIND: &str = "scratch";
pub(super) const FILE: &str = "scratch.ext4";

/// No journal, since nobody reads the disk after its VM; every inode table written now, so that no kernel thread does it
/// while a job runs; root's reserved blocks none, so that the quota alone decides.
const OPTIONS: [&str; 8] = [
    "-O",
    "quota,^has_journal,^resize_inode",
    "-E",
    "quotatype=usrquota,lazy_itable_init=0,root_owner=0:0",
    "-m",
    "0",
    "-L",
    "scratch",
];

pub(super) fn inputs(scratch_mib: u64) -> Labels {
    Labels::from([
        ("recipe", RECIPE_VERSION.to_string()),
        ("options", OPTIONS.join(" ")),
        ("mib", scratch_mib.to_string()),
    ])
}

pub(super) async fn build(
    store: &Locked,
    scratch_mib: u64,
    progress: &dyn Progress,
) -> Result<Stored, ImageError> {
    let (inputs, facts) = (inputs(scratch_mib), Labels::new());
    if let Some(stored) = store.adopt(KIND, &inputs, &facts)? {
        return Ok(stored);
    }
    progress.report(KIND, &format!("making an empty disk of {scratch_mib} MiB"));
    let temp = store.temp(KIND)?;
    let file = temp.path.join(FILE);
    fs::File::create(&file).and_then(|f| f.set_len(scratch_mib << 20)).map_err(at(&file))?;
    Tool::new("mke2fs", "e2fsprogs").args(["-q", "-t", "ext4"]).args(OPTIONS).arg(&file).output().await?;
    let store = store.clone();
    blocking(move || store.publish(KIND, &inputs, &facts, &temp)).await
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, process::Command};

    use super::*;
    use crate::image::store::Store;

    #[tokio::test]
    async fn the_template_is_sparse_clean_and_has_user_quotas() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::new(data.path()).lock(&()).await.unwrap();
        let stored = match build(&store, 64, &()).await {
            Err(ImageError::Command(crate::image::CommandError::Missing { .. })) => {
                println!("SKIPPED: mke2fs is not installed");
                return;
            }
            other => other.unwrap(),
        };
        let file = stored.dir.join(FILE);
        let meta = fs::metadata(&file).unwrap();
        assert_eq!(meta.len(), 64 << 20);
        assert!(meta.blocks() * 512 < 4 << 20, "{} blocks", meta.blocks());
        let show = Command::new("/usr/sbin/dumpe2fs").arg("-h").arg(&file).output().unwrap();
        let text = String::from_utf8_lossy(&show.stdout);
        for line in
            ["Filesystem state:         clean", "User quota inode:         3", "Mount count:              0"]
        {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains("has_journal") && !text.contains("Group quota inode"), "{text}");
        assert!(build(&store, 64, &()).await.unwrap().dir == stored.dir, "a second time nothing is made");
    }
}
