//! Runs the system's own tools: a fixed search path, no input, and the end of what they printed in every error.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe,
    process::Command,
    time::timeout,
};

/// mke2fs and depmod are in /usr/sbin, which not every user's `PATH` has.
const TOOL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Lines of a failed tool's output that its error carries.
const TAIL_LINES: usize = 20;

/// A tool of the host did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is not installed.
    #[error("{tool} is not installed: apt-get install {package}")]
    Missing {
        /// The command.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// It could not be started, or its output not be read or kept.
    #[error("running {tool}")]
    Io {
        /// The command.
        tool: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ran for too long, and was killed.
    #[error("{tool} did not end within {limit:?}, log in {}{tail}", log.display())]
    TooLong {
        /// The command.
        tool: &'static str,
        /// Its bound.
        limit: Duration,
        /// Where everything it printed is kept.
        log: PathBuf,
        /// The end of what it printed.
        tail: Tail,
    },
    /// It ran and failed.
    #[error("{tool}: {status}{}{tail}", log.as_ref().map(|l| format!(", log in {}", l.display())).unwrap_or_default())]
    Failed {
        /// The command.
        tool: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Where everything it printed is kept.
        log: Option<PathBuf>,
        /// The end of what it printed.
        tail: Tail,
    },
}

/// The last lines of a tool's output; displays as an indented block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// One run of a tool, being put together.
pub(super) struct Tool {
    name: &'static str,
    package: &'static str,
    command: Command,
}

impl Tool {
    /// The tool `name` of the Debian package `package`.
    pub fn new(name: &'static str, package: &'static str) -> Self {
        let mut command = Command::new(name);
        command.env("PATH", TOOL_PATH).env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).kill_on_drop(true);
        Self { name, package, command }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs it to its end and returns what it wrote to stdout. Killed when dropped.
    pub async fn output(mut self) -> Result<String, CommandError> {
        let output = self.command.output().await.map_err(|source| self.failed_to_run(source))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let mut tail = Tail::default();
        String::from_utf8_lossy(&output.stderr).lines().for_each(|line| tail.push(line));
        Err(CommandError::Failed { tool: self.name, status: output.status, log: None, tail })
    }

    /// Runs it to its end, for `limit` at most, keeps what it prints in the file `log` and hands each line to `each`.
    /// Killed when dropped.
    pub async fn logged(
        mut self,
        log: &Path,
        limit: Duration,
        mut each: impl FnMut(&str),
    ) -> Result<(), CommandError> {
        let name = self.name;
        let io_error = |source| CommandError::Io { tool: name, source };
        let mut file = std::fs::File::create(log).map_err(io_error)?;
        let (reader, writer) = io::pipe().map_err(io_error)?;
        self.command.stdout(writer.try_clone().map_err(io_error)?).stderr(writer);
        let mut child = self.command.spawn().map_err(|source| self.failed_to_run(source))?;
        // The command keeps the pipe's writing ends; with them gone, the pipe ends when the tool does.
        drop(self);

        let mut tail = Tail::default();
        let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(io_error)?;
        let mut lines = BufReader::new(reader).split(b'\n');
        let ended = timeout(limit, async {
            while let Some(line) = lines.next_segment().await.map_err(io_error)? {
                file.write_all(&line).and_then(|()| file.write_all(b"\n")).map_err(io_error)?;
                let line = String::from_utf8_lossy(&line);
                tail.push(line.trim_end());
                each(line.trim_end());
            }
            child.wait().await.map_err(io_error)
        });
        let Ok(status) = ended.await else {
            return Err(CommandError::TooLong { tool: name, limit, log: log.to_owned(), tail });
        };
        let status = status?;
        if status.success() {
            return Ok(());
        }
        Err(CommandError::Failed { tool: name, status, log: Some(log.to_owned()), tail })
    }

    fn failed_to_run(&self, source: io::Error) -> CommandError {
        let Self { name: tool, package, .. } = *self;
        match source.kind() {
            io::ErrorKind::NotFound => CommandError::Missing { tool, package },
            _ => CommandError::Io { tool, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_carries_the_end_of_the_output_and_names_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        let mut seen = 0;
        let script = "seq 1 30; echo last >&2; exit 3";
        let error = Tool::new("sh", "dash")
            .args(["-c", script])
            .logged(&log, Duration::from_secs(60), |_| seen += 1)
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("sh: exit status: 3, log in /"), "{text}");
        assert!(text.contains("\n    12\n") && !text.contains("\n    11\n"), "{text}");
        assert!(text.ends_with("\n    30\n    last"), "{text}");
        assert_eq!(seen, 31);
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 31);
    }

    #[tokio::test]
    async fn what_does_not_end_is_ended_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        let limit = Duration::from_millis(300);
        let tool = Tool::new("sh", "dash").args(["-c", "echo begun; exec sleep 1000"]);
        let error = tool.logged(&log, limit, |_| ()).await.unwrap_err().to_string();
        assert!(error.starts_with("sh did not end within 300ms, log in /"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_tool_names_its_package() {
        let error = Tool::new("no-such-tool", "some-package").output().await.unwrap_err();
        assert_eq!(error.to_string(), "no-such-tool is not installed: apt-get install some-package");
    }
}
