//! What Firecracker says itself, in a process that is started and asked by hand.

use std::path::Path;

use hearth_pool::{
    firecracker::api::{ApiError, Fresh, Limits, Loaded, MemoryBackend, SnapshotLoad},
    net::with_card,
    snapshot::Verification,
};
use tokio::process::{Child, Command};

use super::Rig;

impl Rig {
    /// What Firecracker says of a load in a directory that has a vsock socket already.
    pub async fn load_beside_a_stale_socket(&self) -> String {
        let directory = self.files_of("bash");
        drop(std::os::unix::net::UnixListener::bind(directory.path().join("vsock.sock")).unwrap());
        refused(self.load(directory.path()).await).await
    }

    /// What Firecracker says of a load where the card's TAP is not.
    pub async fn load_without_tap(&self) -> String {
        let directory = self.files_of(&with_card("bash"));
        refused(self.load(directory.path()).await).await
    }

    /// What Firecracker says of a second load where the first VM lives: whatever the manifest says, the vsock device is in the
    /// state, and its socket has one name.
    pub async fn load_twice_in_one_place(&self) -> String {
        let directory = self.files_of("bash");
        let (mut first, loaded) = self.load(directory.path()).await;
        let loaded = loaded.unwrap();
        let why = refused(self.load(directory.path()).await).await;
        drop(loaded);
        first.kill().await.unwrap();
        why
    }

    /// A directory in which a runtime's snapshot finds its files.
    fn files_of(&self, runtime: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let snapshot = self.config.store().current(runtime, &self.here, Verification::Size).unwrap();
        for (from, to) in [
            (snapshot.root(), "root.img"),
            (snapshot.scratch(), "scratch.img"),
            (snapshot.memory(), "memory"),
            (snapshot.state(), "state"),
        ] {
            std::os::unix::fs::symlink(from, directory.path().join(to)).unwrap();
        }
        directory
    }

    async fn load(&self, directory: &Path) -> (Child, Result<Loaded, ApiError>) {
        let _ = std::fs::remove_file(directory.join("api.sock"));
        // In its jail it could not make a TAP either.
        let child = Command::new("setpriv")
            .arg("--bounding-set=-net_admin")
            .arg(&self.config.firecracker)
            .args(["--api-sock", "api.sock"])
            .current_dir(directory)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let fresh = Fresh::connect(&directory.join("api.sock"), Limits::default()).await.unwrap();
        let load = SnapshotLoad {
            snapshot_path: "state".to_owned(),
            mem_backend: MemoryBackend::File("memory".to_owned()),
            resume_vm: false,
            network_overrides: Vec::new(),
            vsock_override: None,
        };
        (child, fresh.load(load).await)
    }
}

async fn refused((mut child, loaded): (Child, Result<Loaded, ApiError>)) -> String {
    let why = loaded.unwrap_err().to_string();
    assert!(!child.wait().await.unwrap().success(), "a failed load ends the process");
    why
}
