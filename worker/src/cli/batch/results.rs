//! Where a batch's results go.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    path::Path,
};

use super::done::{self, Done};
use crate::cli::exit::{Exit, Failure};

/// A file, or standard output.
pub struct Results {
    writer: BufWriter<Box<dyn Write + Send>>,
    name: String,
}

impl Results {
    /// Opens what was asked for; with it, which jobs have their results there.
    pub fn open(out: Option<&Path>, resume: bool) -> Result<(Self, Done), Failure> {
        let (writer, done, name): (Box<dyn Write + Send>, _, _) = match out {
            None => (Box::new(io::stdout()), Done::default(), "standard output".to_owned()),
            Some(path) if resume => {
                let (file, done) = done::resume(path).map_err(|error| failed(path, &error))?;
                (Box::new(file), done, path.display().to_string())
            }
            Some(path) => {
                let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
                    let failure = failed(path, &error);
                    match error.kind() {
                        io::ErrorKind::AlreadyExists => failure.remedy("--resume goes on with it"),
                        _ => failure,
                    }
                })?;
                (Box::new(file), Done::default(), path.display().to_string())
            }
        };
        Ok((Self { writer: BufWriter::new(writer), name }, done))
    }

    /// Writes one result, which has no line end in it.
    pub fn write(&mut self, result: &[u8]) -> Result<(), Failure> {
        let written = self.writer.write_all(result).and_then(|()| self.writer.write_all(b"\n"));
        written.map_err(|error| self.failure(&error))
    }

    /// Hands what was written to the system.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &io::Error) -> Failure {
        match error.kind() {
            // `hearth … | head` has had what it wanted.
            io::ErrorKind::BrokenPipe => Failure::new(Exit::Output, ""),
            _ => Failure::new(Exit::Output, format!("{}: {error}", self.name)),
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Output, format!("{}: {error}", path.display()))
}
