//! Setting rules, by the `nft` of the distribution.

use std::{
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};

use super::Namespace;

/// Sets rules in a namespace: all of them or none. Blocks for some milliseconds.
pub(super) fn apply(nft: &Path, namespace: &Namespace, rules: &str) -> io::Result<()> {
    namespace.run(|| {
        let mut child = Command::new(nft)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", nft.display())))?;
        // It reads all before it says anything.
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(rules.as_bytes()));
        let output = child.wait_with_output()?;
        if output.status.success() {
            return written;
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(io::Error::other(format!("nft: {}: {said}", output.status)))
    })
}
