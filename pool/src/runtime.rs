//! Runtimes: the named templates that jobs ask for, as TOML files.
//!
//! Four come with the binary (`deploy/runtimes/`), so that it works alone; a directory of the operator's replaces
//! them by name or adds to them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use hearth_schemas::limits::{AGENT_RESERVE_MIB, NAME_MAX_BYTES, PATH_COMPONENT_MAX_BYTES};
use hearth_schemas::{
    job::is_name,
    manifest::{Entry, Transport},
};
use serde::{Deserialize, Serialize};

/// Virtual processors that a runtime may ask for.
pub const VCPUS_MAX: u32 = 64;
/// Least memory of a VM in MiB: below it the kernel does not reach the agent.
pub const VM_MEMORY_MIN_MIB: u64 = 128;
/// Most memory of a VM in MiB. `-M pc` puts more than 3 GiB above the PCI hole, which needs no other care.
pub const VM_MEMORY_MAX_MIB: u64 = 64 * 1024;
/// Least size of a scratch disk in MiB.
pub const SCRATCH_MIN_MIB: u64 = 16;
/// Largest scratch disk in MiB. Its file is sparse.
pub const SCRATCH_MAX_MIB: u64 = 64 * 1024;
/// Packages and warm-up commands of one runtime, each.
pub const LIST_MAX: usize = 256;

const _: () = assert!(VM_MEMORY_MIN_MIB > AGENT_RESERVE_MIB, "a job gets some of every VM's memory");

const BUILT_IN: [(&str, &str); 4] = [
    ("bash.toml", include_str!("../../deploy/runtimes/bash.toml")),
    ("gcc.toml", include_str!("../../deploy/runtimes/gcc.toml")),
    ("node.toml", include_str!("../../deploy/runtimes/node.toml")),
    ("python.toml", include_str!("../../deploy/runtimes/python.toml")),
];

/// One runtime. Everything in it is checked; see [`Runtime::parse`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// What jobs call it: `[A-Za-z0-9_-]`, 1 to 64 bytes.
    pub name: String,
    /// Debian packages beyond the essential ones.
    pub packages: Vec<String>,
    /// How the agent of its VMs is reached.
    #[serde(default, skip_serializing_if = "AgentTransport::is_vsock")]
    pub transport: AgentTransport,
    /// What the `code` shorthand runs.
    pub entry: Entry,
    /// What it runs for other languages, by name.
    #[serde(default)]
    pub languages: BTreeMap<String, Entry>,
    /// Run in order before the snapshot, as root; each must succeed.
    #[serde(default)]
    pub warm_up: Vec<WarmUp>,
    /// Virtual processors, 1 to [`VCPUS_MAX`].
    pub vcpus: u32,
    /// Memory of the VM in MiB, [`VM_MEMORY_MIN_MIB`] to [`VM_MEMORY_MAX_MIB`]. A job gets
    /// [`AGENT_RESERVE_MIB`] less.
    pub vm_memory_mib: u64,
    /// Size of the scratch disk in MiB, [`SCRATCH_MIN_MIB`] to [`SCRATCH_MAX_MIB`].
    pub scratch_mib: u64,
}

/// How the agent of a runtime's VMs is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentTransport {
    /// Over vsock, and in no other way.
    #[default]
    Vsock,
    /// Over the serial port: the VMs have no vsock device.
    Serial,
    /// Over vsock, and over the serial port where the guest's vsock does not answer at the greeting.
    VsockOrSerial,
}

impl AgentTransport {
    /// Whether the serial port carries no session.
    pub fn is_vsock(&self) -> bool {
        *self == Self::Vsock
    }

    /// Whether VMs have a vsock device.
    pub fn has_vsock(self) -> bool {
        self != Self::Serial
    }

    /// What a manifest says of a host whose vsock is `vsock`: the transport, and whether the serial port is there beside it.
    pub(crate) fn on(self, vsock: Transport) -> (Transport, bool) {
        match self {
            Self::Vsock => (vsock, false),
            Self::Serial => (Transport::Serial, false),
            Self::VsockOrSerial => (vsock, true),
        }
    }
}

/// One command of a warm-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmUp {
    /// Command and arguments.
    pub argv: Vec<String>,
}

/// A runtime's file was not taken. Every message names the file, and the field where there is one.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The file or the directory could not be read.
    #[error("{}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not TOML, or a field is missing, unknown or of the wrong type.
    #[error("{file}{}: {field}: {message}", line.map(|n| format!(":{n}")).unwrap_or_default())]
    Syntax {
        /// The file.
        file: String,
        /// Its line, from 1, where known.
        line: Option<usize>,
        /// The field as a path; `.` is the whole file.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// A field is of the right type and not allowed.
    #[error("{file}: {field}: {message}")]
    Field {
        /// The file.
        file: String,
        /// The field as a path.
        field: String,
        /// What is allowed.
        message: String,
    },
}

impl Runtime {
    /// Parses and checks one file. `file` is used in errors only, except that its stem must be the runtime's name.
    pub fn parse(file: &str, text: &str) -> Result<Self, RuntimeError> {
        let runtime: Self = serde_path_to_error::deserialize(
            toml::Deserializer::parse(text).map_err(|e| syntax(file, text, ".".into(), &e))?,
        )
        .map_err(|e| syntax(file, text, e.path().to_string(), e.inner()))?;
        check(file, &runtime).map_err(|(field, message)| RuntimeError::Field {
            file: file.to_owned(),
            field,
            message,
        })?;
        Ok(runtime)
    }
}

/// The runtimes of this host by name.
#[derive(Clone, Debug)]
pub struct Runtimes(BTreeMap<String, Runtime>);

impl Runtimes {
    /// The built-in runtimes, then every `*.toml` of `dir`, which replaces one of the same name.
    /// Blocks on the file system.
    pub fn load(dir: Option<&Path>) -> Result<Self, RuntimeError> {
        let mut runtimes = BTreeMap::new();
        for (file, text) in BUILT_IN {
            let runtime = Runtime::parse(file, text)?;
            runtimes.insert(runtime.name.clone(), runtime);
        }
        for path in dir.map(toml_files).transpose()?.unwrap_or_default() {
            let text = fs::read_to_string(&path).map_err(|source| read_error(&path, source))?;
            let runtime = Runtime::parse(&path.display().to_string(), &text)?;
            runtimes.insert(runtime.name.clone(), runtime);
        }
        Ok(Self(runtimes))
    }

    /// The runtime of that name.
    pub fn get(&self, name: &str) -> Option<&Runtime> {
        self.0.get(name)
    }

    /// All of them, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Runtime> {
        self.0.values()
    }
}

fn toml_files(dir: &Path) -> Result<Vec<PathBuf>, RuntimeError> {
    let mut paths = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>())
        .map_err(|source| read_error(dir, source))?;
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "toml"));
    paths.sort();
    Ok(paths)
}

fn read_error(path: &Path, source: io::Error) -> RuntimeError {
    RuntimeError::Read { path: path.to_owned(), source }
}

fn syntax(file: &str, text: &str, field: String, error: &toml::de::Error) -> RuntimeError {
    let line =
        error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
    RuntimeError::Syntax { file: file.to_owned(), line, field, message: error.message().to_owned() }
}

type FieldError = (String, String);

fn check(file: &str, runtime: &Runtime) -> Result<(), FieldError> {
    check_name(file, &runtime.name)?;
    range("vcpus", u64::from(runtime.vcpus), 1, u64::from(VCPUS_MAX))?;
    range("vm_memory_mib", runtime.vm_memory_mib, VM_MEMORY_MIN_MIB, VM_MEMORY_MAX_MIB)?;
    range("scratch_mib", runtime.scratch_mib, SCRATCH_MIN_MIB, SCRATCH_MAX_MIB)?;
    check_packages(&runtime.packages)?;
    check_languages(runtime)?;
    range("warm_up", runtime.warm_up.len() as u64, 0, LIST_MAX as u64)?;
    for (n, warm_up) in runtime.warm_up.iter().enumerate() {
        check_argv(&format!("warm_up[{n}].argv"), &warm_up.argv)?;
    }
    Ok(())
}

fn check_name(file: &str, name: &str) -> Result<(), FieldError> {
    if !is_name(name) {
        return refuse("name", format!("{name:?} is not 1 to {NAME_MAX_BYTES} of A-Z, a-z, 0-9, _ and -"));
    }
    let stem = Path::new(file).file_stem().unwrap_or_default();
    if stem != name {
        return refuse(
            "name",
            format!("{name:?} differs from the file's name, {:?}", stem.to_string_lossy()),
        );
    }
    Ok(())
}

/// Debian policy 5.6.1; an option of `apt-get` cannot pass for a package then.
fn check_packages(packages: &[String]) -> Result<(), FieldError> {
    range("packages", packages.len() as u64, 0, LIST_MAX as u64)?;
    let tail = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    for (n, package) in packages.iter().enumerate() {
        let starts = package.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !starts || package.len() < 2 || !package.bytes().all(tail) {
            return refuse(&format!("packages[{n}]"), format!("{package:?} is no name of a Debian package"));
        }
    }
    Ok(())
}

fn check_languages(runtime: &Runtime) -> Result<(), FieldError> {
    check_entry("entry", &runtime.entry)?;
    let own = runtime.entry.language.as_deref();
    if let Some(language) = own {
        check_language("entry.language", language)?;
    }
    for (language, entry) in &runtime.languages {
        let field = format!("languages.{language}");
        check_language(&field, language)?;
        check_entry(&field, entry)?;
        if own == Some(language) || entry.language.is_some() {
            return refuse(&field, format!("{language:?} has two names, or is what [entry] is already"));
        }
    }
    Ok(())
}

fn check_language(field: &str, language: &str) -> Result<(), FieldError> {
    if is_name(language) {
        return Ok(());
    }
    refuse(field, format!("{language:?} is not 1 to {NAME_MAX_BYTES} of A-Z, a-z, 0-9, _ and -"))
}

fn check_entry(field: &str, entry: &Entry) -> Result<(), FieldError> {
    check_entry_file(&format!("{field}.file"), &entry.file)?;
    if let Some(compile) = &entry.compile {
        check_argv(&format!("{field}.compile.argv"), &compile.argv)?;
    }
    check_argv(&format!("{field}.argv"), &entry.argv)
}

fn check_entry_file(field: &str, file: &str) -> Result<(), FieldError> {
    let bad = file.is_empty() || file == "." || file == ".." || file.contains(['/', '\0']);
    if bad || file.len() > PATH_COMPONENT_MAX_BYTES {
        return refuse(field, format!("{file:?} is not the name of one file, without directories"));
    }
    Ok(())
}

fn check_argv(field: &str, argv: &[String]) -> Result<(), FieldError> {
    if argv.first().is_none_or(String::is_empty) {
        return refuse(field, "names no command".into());
    }
    if argv.iter().any(|arg| arg.contains('\0')) {
        return refuse(field, "contains a NUL byte".into());
    }
    Ok(())
}

fn range(field: &str, value: u64, least: u64, most: u64) -> Result<(), FieldError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    refuse(field, format!("{value} is not within {least} to {most}"))
}

fn refuse(field: &str, message: String) -> Result<(), FieldError> {
    Err((field.to_owned(), message))
}

#[cfg(test)]
#[path = "runtime_tests.rs"]
mod tests;
