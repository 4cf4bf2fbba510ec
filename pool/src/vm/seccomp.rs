//! Whether every thread of a hypervisor is under its system call filter.

use std::{fs, io};

/// What `Seccomp:` of proc_pid_status(5) says of a thread with a filter.
const FILTER: &str = "2";

/// The threads of a process that have no filter, with what they have instead. A thread that ends meanwhile has none
/// to miss.
pub fn unfiltered_threads(pid: u32) -> io::Result<Vec<String>> {
    let mut missing = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let Ok(status) = fs::read_to_string(path.join("status")) else { continue };
        match mode(&status) {
            Some(FILTER) => {}
            other => missing.push(format!("{}: Seccomp {}", path.display(), other.unwrap_or("unknown"))),
        }
    }
    Ok(missing)
}

fn mode(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_filter_is_found_out() {
        assert_eq!(mode("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"), Some("2"));
        assert_eq!(mode("Name:\tx\n"), None);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let missing = unfiltered_threads(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // A container's own filter would cover the child as well.
        let ours = unfiltered_threads(std::process::id()).unwrap();
        assert_eq!(missing.is_empty(), ours.is_empty(), "{missing:?}");
    }
}
