//! One line to the console (the VM's) or stderr (a host's). Used sparingly: a console is slow, and one that is
//! written to while the VM is snapshotted can hang it.

use std::{
    error::Error,
    fmt::{self, Display},
    io::Write as _,
};

/// Writes one line. A console that is gone is no reason to fail.
pub fn say(line: &dyn Display) {
    let line = format!("hearth-agent: {line}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// An error with its sources, on one line.
pub struct Chain<'a>(pub &'a dyn Error);

impl Display for Chain<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(out, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
