//! `deploy/install-firecracker.sh`, with an archive laid out like a release whose programs say their version.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

const ARCHIVE: &str = "firecracker-v1.16.1-x86_64.tgz";

/// A release in a directory, and a directory to install to.
struct Release(TempDir);

impl Release {
    fn new() -> Self {
        let release = Self(tempfile::tempdir().unwrap());
        let inside = release.path("release-v1.16.1-x86_64");
        fs::create_dir(&inside).unwrap();
        fs::create_dir(release.path("bin")).unwrap();
        for (name, says) in [("firecracker", "Firecracker"), ("jailer", "Jailer")] {
            let program = inside.join(format!("{name}-v1.16.1-x86_64"));
            fs::write(&program, format!("#!/bin/sh\necho '{says} v1.16.1'\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        release.sh("cd release-v1.16.1-x86_64 && sha256sum * >SHA256SUMS");
        release.pack();
        release
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The archive and its digest, as a release has them.
    fn pack(&self) {
        self.sh(&format!(
            "tar -czf {ARCHIVE} release-v1.16.1-x86_64 && sha256sum {ARCHIVE} >{ARCHIVE}.sha256.txt"
        ));
    }

    fn sh(&self, script: &str) {
        assert!(
            Command::new("sh").args(["-ec", script]).current_dir(self.0.path()).status().unwrap().success()
        );
    }

    fn install(&self, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/install-firecracker.sh");
        let mut command = Command::new(script);
        command.arg("--from").arg(self.0.path()).arg("--to").arg(self.path("bin")).args(arguments);
        command.output().unwrap()
    }

    /// Installs nothing, and says why.
    fn refuses(&self, arguments: &[&str], why: &str) {
        let output = self.install(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(fs::read_dir(self.path("bin")).unwrap().count(), 0, "{said}");
    }
}

#[test]
fn a_release_is_installed_when_every_digest_is_right() {
    let release = Release::new();
    let output = release.install(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["firecracker", "jailer"] {
        let mode = fs::metadata(release.path("bin").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{name}");
    }
    assert_eq!(fs::read_dir(release.path("bin")).unwrap().count(), 2);
}

#[test]
fn another_digest_installs_nothing() {
    let release = Release::new();
    release.refuses(&["--sha256", &"0".repeat(64)], "nothing was installed");
    release.refuses(&["--sha256", "12"], "64 hex digits");
    release.sh(&format!("printf x >>{ARCHIVE}"));
    release.refuses(&[], "nothing was installed");
}

#[test]
fn a_program_that_was_changed_or_left_out_installs_nothing() {
    let changed = Release::new();
    changed.sh("echo '# more' >>release-v1.16.1-x86_64/jailer-v1.16.1-x86_64");
    changed.pack();
    changed.refuses(&[], "jailer does not have the digest of SHA256SUMS");
    let left_out = Release::new();
    left_out.sh("rm release-v1.16.1-x86_64/jailer-v1.16.1-x86_64");
    left_out.pack();
    left_out.refuses(&[], "has no release-v1.16.1-x86_64/jailer");
}

#[test]
fn releases_that_cannot_be_used_are_refused_by_name() {
    let release = Release::new();
    release.refuses(&["--version", "1.16.0"], "1.16.0 is refused");
    release.refuses(&["--version", "1.14.2"], "1.15.1 is the first");
    release.refuses(&["--version", "latest"], "MAJOR.MINOR.PATCH");
    release.refuses(&["--version", "1.16.2"], "there is no");
    release.refuses(&["--colour"], "what is --colour?");
}
