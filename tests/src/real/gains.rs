//! What this process and its VMs hold of the host: files, processes, descriptors, memory. After whatever a program
//! did, it must be what it was before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// How much more memory a worker may use after a program than before: what its allocator keeps.
const MEMORY_SLACK_KIB: u64 = 48 * 1024;
/// How much the logs of VMs may take together.
const LOGS_MAX_BYTES: u64 = 1 << 20;

/// What is held at one moment.
#[derive(Clone, Debug, Default)]
pub struct Held {
    files: BTreeSet<PathBuf>,
    log_bytes: u64,
    processes: Vec<String>,
    descriptors: BTreeMap<String, usize>,
    memory_kib: u64,
}

impl Held {
    /// Looks now. Everything below `places` counts.
    pub fn now(places: &[&Path]) -> Self {
        let mut held = Self { processes: processes(), descriptors: descriptors(), ..Self::default() };
        for place in places {
            held.walk(place);
        }
        held.memory_kib = memory_kib("VmRSS:");
        held
    }

    /// Whether nobody has looked yet.
    pub fn is_empty(&self) -> bool {
        self.memory_kib == 0
    }

    /// Starts to look for the highest use of memory anew.
    pub fn forget_peak() -> io::Result<()> {
        // proc(5): 5 resets the peak resident set size.
        fs::write("/proc/self/clear_refs", "5")
    }

    /// What there is now that there was not before, and what is above its bound.
    pub fn gained_since(&self, before: &Self) -> Vec<String> {
        let mut gains: Vec<_> =
            self.files.difference(&before.files).map(|file| format!("file {}", file.display())).collect();
        if self.log_bytes > LOGS_MAX_BYTES {
            gains.push(format!("{} bytes of logs", self.log_bytes));
        }
        if self.processes.len() > before.processes.len() {
            gains.push(format!("processes {:?}, before {:?}", self.processes, before.processes));
        }
        for (kind, count) in &self.descriptors {
            let was = before.descriptors.get(kind).copied().unwrap_or_default();
            if *count > was {
                gains.push(format!("{count} descriptors of kind {kind}, before {was}"));
            }
        }
        let peak = memory_kib("VmHWM:");
        if self.memory_kib.max(peak) > before.memory_kib + MEMORY_SLACK_KIB {
            gains.push(format!(
                "{} KiB of memory, at most {peak}, before {}",
                self.memory_kib, before.memory_kib
            ));
        }
        gains
    }

    fn walk(&mut self, place: &Path) {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_dir() {
                self.walk(&path);
            }
            if path.extension().is_some_and(|extension| extension == "log") {
                self.log_bytes += metadata.len();
            }
            self.files.insert(nameless(&path));
        }
    }
}

/// The same path whichever VM of a slot it is of: a VM's directories end with its lease's token.
fn nameless(path: &Path) -> PathBuf {
    let plain = |part: std::path::Component<'_>| {
        let part = part.as_os_str().to_string_lossy().into_owned();
        match part.rsplit_once('-') {
            Some((slot, token)) if token.len() > 8 && token.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                format!("{slot}-TOKEN")
            }
            _ => part,
        }
    };
    path.components().map(plain).collect()
}

/// This process and all that descend from it, by name.
fn processes() -> Vec<String> {
    let mut children = BTreeMap::<u32, Vec<(u32, String)>>::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name is in parentheses and may hold some itself.
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let mut fields = tail.split(' ');
        let (state, parent) = (fields.next(), fields.next().and_then(|field| field.parse().ok()));
        if let (Some(parent), false) = (parent, matches!(state, Some("Z" | "X"))) {
            let name = head.split_once('(').map_or("", |(_, name)| name);
            children.entry(parent).or_default().push((pid, name.to_owned()));
        }
    }
    let (mut found, mut next) = (Vec::new(), vec![std::process::id()]);
    while let Some(pid) = next.pop() {
        for (pid, name) in children.remove(&pid).unwrap_or_default() {
            next.push(pid);
            found.push(name);
        }
    }
    found.sort();
    found
}

/// Open descriptors of this process by what they are: `socket`, `pipe`, `anon_inode` or `file`.
fn descriptors() -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        let kind =
            target.split_once(':').filter(|_| !target.starts_with('/')).map_or("file", |(kind, _)| kind);
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

fn memory_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}
