//! An exec request, checked. Pure.

use std::ffi::CString;

use bytes::Bytes;
use hearth_schemas::{
    guest::messages::{Exec, Given, User},
    limits::{INLINE_STDIN_MAX_BYTES, NAME_MAX_BYTES},
};

use super::limits::{Abilities, LimitError, Limits};
use crate::tree::{PathError, check_path};

/// Where commands are looked up when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Paths to try in turn.
    pub(super) programs: Vec<CString>,
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    /// Relative to the working tree; empty means the tree itself.
    pub(super) cwd: String,
    /// The same for a system call; never empty.
    pub(super) cwd_in_tree: CString,
    pub(super) user: User,
    pub(super) limits: Limits,
    /// Whether it may use IP.
    pub(super) ip: bool,
    /// In a copy of the working tree of its own.
    pub(super) fresh: bool,
    /// Files that only it sees: names and streams.
    pub(super) given: Vec<(String, u32)>,
    /// 0 means an empty stdin.
    pub(super) stdin: u32,
    pub(super) stdout: u32,
    pub(super) stderr: u32,
    /// Whether all of it is on the stream of the request.
    pub(super) inline: bool,
    pub(super) stdin_bytes: Bytes,
    /// What it is called on the live connection; 0 where it is not copied.
    pub(super) live: u32,
}

/// What makes a request one that cannot be run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("argv is empty, or its first word is")]
    NoCommand,
    #[error("argv[{0}] has a NUL byte")]
    ArgumentNul(usize),
    #[error("env: the name {0:?} is empty, or has '=' or a NUL byte")]
    Name(String),
    #[error("env: the value of {0:?} has a NUL byte")]
    ValueNul(String),
    #[error("cwd")]
    Cwd(#[source] PathError),
    #[error("user {0} is unknown to this agent")]
    User(i32),
    #[error("given: {0:?} is no name, or only fresh copies have such files")]
    Given(String),
    #[error(
        "inline: only for fresh copies, and with at most {INLINE_STDIN_MAX_BYTES} bytes of stdin; got {0}"
    )]
    Inline(usize),
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl Plan {
    pub(super) fn new(exec: Exec, able: Abilities) -> Result<Self, PlanError> {
        let command = exec.argv.first().filter(|command| !command.is_empty());
        let path = exec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let programs = candidates(command.ok_or(PlanError::NoCommand)?, path);
        let argument =
            |(index, word): (usize, String)| CString::new(word).map_err(|_| PlanError::ArgumentNul(index));
        let to_c = |word: String| CString::new(word).map_err(|_| PlanError::ArgumentNul(0));
        let cwd = if exec.cwd == "." { String::new() } else { exec.cwd };
        if !cwd.is_empty() {
            check_path(&cwd).map_err(PlanError::Cwd)?;
        }
        Ok(Self {
            // Before the words: a NUL in the first is then named as what it is.
            programs: programs.map(to_c).collect::<Result<_, _>>()?,
            argv: exec.argv.into_iter().enumerate().map(argument).collect::<Result<_, _>>()?,
            env: exec.env.into_iter().map(variable).collect::<Result<_, _>>()?,
            cwd_in_tree: to_c(if cwd.is_empty() { ".".to_owned() } else { cwd.clone() })?,
            cwd,
            user: User::try_from(exec.user).map_err(|_| PlanError::User(exec.user))?,
            limits: Limits::new(exec.limits, able)?,
            ip: exec.ip,
            fresh: exec.fresh,
            given: given(exec.given, exec.fresh)?,
            stdin: exec.stdin,
            stdout: exec.stdout,
            stderr: exec.stderr,
            inline: inline(exec.inline, exec.fresh, &exec.stdin_bytes)?,
            stdin_bytes: exec.stdin_bytes,
            live: exec.live,
        })
    }
}

fn inline(inline: bool, fresh: bool, stdin: &Bytes) -> Result<bool, PlanError> {
    let fits = stdin.len() <= INLINE_STDIN_MAX_BYTES && (inline || stdin.is_empty());
    if fits && (fresh || !inline) { Ok(inline) } else { Err(PlanError::Inline(stdin.len())) }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(plain)
}

/// The files of a command by their names, which become parts of paths.
fn given(files: Vec<Given>, fresh: bool) -> Result<Vec<(String, u32)>, PlanError> {
    let named = |file: Given| {
        if fresh && is_name(&file.name) {
            Ok((file.name, file.stream))
        } else {
            Err(PlanError::Given(file.name))
        }
    };
    files.into_iter().map(named).collect()
}

/// Where a command may be: itself when it has a slash, else in each directory of the path (an empty one is the
/// working directory), like execvp(3).
fn candidates(command: &str, path: &str) -> impl Iterator<Item = String> {
    let places = if command.contains('/') { vec![command.to_owned()] } else { search(command, path) };
    places.into_iter()
}

fn search(command: &str, path: &str) -> Vec<String> {
    let join = |directory: &str| {
        if directory.is_empty() { format!("./{command}") } else { format!("{directory}/{command}") }
    };
    path.split(':').map(join).collect()
}

fn variable((name, value): (String, String)) -> Result<CString, PlanError> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(PlanError::Name(name));
    }
    CString::new(format!("{name}={value}")).map_err(|_| PlanError::ValueNul(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(change: impl FnOnce(&mut Exec)) -> Result<Plan, PlanError> {
        let mut exec = Exec { argv: vec!["run".into()], ..Exec::default() };
        change(&mut exec);
        Plan::new(exec, Abilities::default())
    }

    fn programs(command: &str, path: Option<&str>) -> Vec<String> {
        let plan = plan(|exec| {
            exec.argv = vec![command.into()];
            exec.env.extend(path.map(|path| ("PATH".into(), path.into())));
        });
        plan.unwrap().programs.iter().map(|program| program.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_command_is_looked_up_in_its_own_path() {
        assert_eq!(programs("ls", Some("/a:/b")), ["/a/ls", "/b/ls"]);
        assert_eq!(programs("ls", Some("/a:")), ["/a/ls", "./ls"]);
        assert_eq!(programs("./ls", Some("/a")), ["./ls"]);
        assert_eq!(programs("ls", None).len(), 3);
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_its_field() {
        assert_eq!(plan(|exec| exec.argv.clear()), Err(PlanError::NoCommand));
        assert_eq!(plan(|exec| exec.argv = vec![String::new()]), Err(PlanError::NoCommand));
        assert_eq!(plan(|exec| exec.argv.push("a\0".into())), Err(PlanError::ArgumentNul(1)));
        assert_eq!(plan(|exec| exec.argv = vec!["\0".into()]), Err(PlanError::ArgumentNul(0)));
        let with = |name: &str, value: &str| plan(|exec| drop(exec.env.insert(name.into(), value.into())));
        assert_eq!(with("a=b", ""), Err(PlanError::Name("a=b".into())));
        assert_eq!(with("", ""), Err(PlanError::Name(String::new())));
        assert_eq!(with("a", "\0"), Err(PlanError::ValueNul("a".into())));
        assert!(matches!(plan(|exec| exec.cwd = "/etc".into()), Err(PlanError::Cwd(_))));
        assert!(matches!(plan(|exec| exec.cwd = "a/../..".into()), Err(PlanError::Cwd(_))));
        assert_eq!(plan(|exec| exec.user = 7), Err(PlanError::User(7)));
        assert_eq!(plan(|exec| exec.inline = true), Err(PlanError::Inline(0)));
        let long = |exec: &mut Exec| exec.stdin_bytes = vec![0; INLINE_STDIN_MAX_BYTES + 1].into();
        assert_eq!(plan(|exec| exec.stdin_bytes = "x".into()), Err(PlanError::Inline(1)));
        let inline = |exec: &mut Exec| (exec.inline, exec.fresh) = (true, true);
        assert!(plan(|exec| (inline(exec), long(exec)).0).is_err());
        assert!(plan(inline).unwrap().inline);
        assert_eq!(plan(|exec| exec.cwd = ".".into()).unwrap().cwd, "");
    }
}
