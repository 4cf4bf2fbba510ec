//! Which paths a request may name. Pure.

use hearth_schemas::limits::{PATH_COMPONENT_MAX_BYTES, PATH_MAX_BYTES};
use rustix::io::Errno;

/// What is wrong with a path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {PATH_MAX_BYTES} bytes")]
    TooLong,
    #[error("is absolute")]
    Absolute,
    #[error("has an empty component, or one that is '.' or '..'")]
    Component,
    #[error("has a component longer than {PATH_COMPONENT_MAX_BYTES} bytes")]
    LongComponent,
    #[error("has a NUL byte")]
    Nul,
    /// The kernel refused it: a link on the way, no such directory, a file where a directory should be.
    #[error("cannot be reached within the working tree")]
    Unreachable(#[from] Errno),
}

/// A plain relative path: no way up, no detour, short enough.
pub(crate) fn check_path(path: &str) -> Result<(), PathError> {
    match path {
        "" => return Err(PathError::Empty),
        _ if path.len() > PATH_MAX_BYTES => return Err(PathError::TooLong),
        _ if path.starts_with('/') => return Err(PathError::Absolute),
        _ if path.contains('\0') => return Err(PathError::Nul),
        _ => {}
    }
    path.split('/').try_for_each(|component| match component {
        "" | "." | ".." => Err(PathError::Component),
        _ if component.len() > PATH_COMPONENT_MAX_BYTES => Err(PathError::LongComponent),
        _ => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_pass() {
        for good in ["a", "a/b.c", "...", "a b/ü", ".hidden", "-", &"x".repeat(255)] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        let long = "a/".repeat(600);
        let component = "x".repeat(256);
        for (bad, why) in [
            ("", PathError::Empty),
            ("/etc/passwd", PathError::Absolute),
            ("..", PathError::Component),
            ("a/../b", PathError::Component),
            ("./a", PathError::Component),
            ("a//b", PathError::Component),
            ("a/", PathError::Component),
            ("a\0b", PathError::Nul),
            (&long, PathError::TooLong),
            (&component, PathError::LongComponent),
        ] {
            assert_eq!(check_path(bad), Err(why), "{bad}");
        }
    }
}
