//! Which paths and patterns stay inside a job's working tree: plain, relative, no way up.
//!
//! Both ends check: the worker before a VM is taken, the agent because it trusts nobody, the worker again for what
//! a guest sends.

use crate::limits::{PATH_COMPONENT_MAX_BYTES, PATH_MAX_BYTES};

/// Why a path or pattern was refused. Each message says what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is empty.
    #[error("is empty; allowed is a path relative to the working tree, such as `src/main.c`")]
    Empty,
    /// It starts with a slash.
    #[error("is absolute; allowed is a path relative to the working tree, such as `src/main.c`")]
    Absolute,
    /// A component is `..`.
    #[error("contains `..`; allowed is a path that stays inside the working tree")]
    Parent,
    /// A component is `.`.
    #[error("contains `.` as a component; allowed is the plain form, such as `src/main.c`")]
    Current,
    /// Two slashes in a row, or one at the end.
    #[error(
        "has an empty component (`//`, or a `/` at the end); allowed is the plain form, such as `src/main.c`"
    )]
    EmptyComponent,
    /// It contains a NUL character.
    #[error("contains a NUL character, which no path can")]
    Nul,
    /// It is longer than [`PATH_MAX_BYTES`].
    #[error("has {0} bytes; allowed are 1 to {PATH_MAX_BYTES}")]
    TooLong(usize),
    /// A component is longer than [`PATH_COMPONENT_MAX_BYTES`].
    #[error("has a component of {0} bytes; allowed are 1 to {PATH_COMPONENT_MAX_BYTES}")]
    ComponentTooLong(usize),
    /// `**` shares its component with something else.
    #[error("has `**` inside a component; allowed is `**` as a whole component, such as `plots/**/*.png`")]
    StarStar,
    /// A `[` without its `]`, an empty or a backward range.
    #[error(
        "has an invalid `[…]`; allowed are sets such as `[abc]`, `[a-z]` and `[!0-9]`, closed within a component"
    )]
    Class,
    /// Syntax of other glob dialects.
    #[error("contains `{0}`; a pattern knows `*`, `?`, `[…]` and `**` only")]
    Dialect(char),
}

/// Whether `path` names something inside the working tree.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_path(path: &str) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.len() > PATH_MAX_BYTES {
        return Err(PathError::TooLong(path.len()));
    }
    if path.contains('\0') {
        return Err(PathError::Nul);
    }
    if path.starts_with('/') {
        return Err(PathError::Absolute);
    }
    path.split('/').try_for_each(check_component)
}

fn check_component(component: &str) -> Result<(), PathError> {
    match component {
        "" => Err(PathError::EmptyComponent),
        "." => Err(PathError::Current),
        ".." => Err(PathError::Parent),
        long if long.len() > PATH_COMPONENT_MAX_BYTES => Err(PathError::ComponentTooLong(long.len())),
        _ => Ok(()),
    }
}

/// Whether `pattern` can only match inside the working tree, and means the same to every glob library:
/// `*`, `?` and `[…]` within one component, `**` across them. One `/` at its end is allowed: all files in directories.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_glob(pattern: &str) -> Result<(), PathError> {
    let pattern = pattern.strip_suffix('/').filter(|directory| !directory.is_empty()).unwrap_or(pattern);
    check_path(pattern)?;
    pattern.split('/').try_for_each(check_glob_component)
}

fn check_glob_component(component: &str) -> Result<(), PathError> {
    if let Some(odd) = component.chars().find(|c| matches!(c, '{' | '}' | '\\')) {
        return Err(PathError::Dialect(odd));
    }
    if component.contains("**") && component != "**" {
        return Err(PathError::StarStar);
    }
    let mut rest = component;
    while let Some((_, class)) = rest.split_once('[') {
        rest = check_class(class)?;
    }
    Ok(())
}

/// Checks what follows a `[` and returns what follows its `]`.
fn check_class(class: &str) -> Result<&str, PathError> {
    let class = class.strip_prefix(['!', '^']).unwrap_or(class);
    // A `]` in the first place would be literal in some dialects and an empty set in others.
    let (set, rest) = class.split_once(']').ok_or(PathError::Class)?;
    if set.is_empty() || set.contains('[') {
        return Err(PathError::Class);
    }
    let chars: Vec<char> = set.chars().collect();
    let backward = |w: &[char]| matches!(w, [from, '-', to] if from > to);
    if chars.windows(3).any(backward) { Err(PathError::Class) } else { Ok(rest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_relative_paths_are_allowed() {
        for path in ["a", "a/b.c", ".hidden", "..a", "a..", "ä/ö", "with space", &"x".repeat(255)] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn every_way_out_is_refused() {
        let table = [
            ("", PathError::Empty),
            ("/etc/passwd", PathError::Absolute),
            ("/", PathError::Absolute),
            ("..", PathError::Parent),
            ("a/../b", PathError::Parent),
            ("./a", PathError::Current),
            ("a//b", PathError::EmptyComponent),
            ("a/", PathError::EmptyComponent),
            ("a\0b", PathError::Nul),
        ];
        for (path, why) in table {
            assert_eq!(check_path(path), Err(why), "{path:?}");
        }
        assert_eq!(check_path(&"x".repeat(256)), Err(PathError::ComponentTooLong(256)));
        assert_eq!(check_path(&"x/".repeat(513)), Err(PathError::TooLong(1026)));
    }

    #[test]
    fn patterns_mean_one_thing() {
        for pattern in [
            "*.png",
            "plots/**/*.png",
            "**",
            "a?c",
            "[a-z]x[!0-9]",
            "[^ab]",
            "[a-]",
            "[-a]",
            "a/",
            "*/",
            "a/b/",
        ] {
            assert_eq!(check_glob(pattern), Ok(()), "{pattern}");
        }
        let table = [
            ("../*", PathError::Parent),
            ("/tmp/*", PathError::Absolute),
            ("/", PathError::Absolute),
            ("a//", PathError::EmptyComponent),
            ("../", PathError::Parent),
            ("a**", PathError::StarStar),
            ("***", PathError::StarStar),
            ("[a", PathError::Class),
            ("[]", PathError::Class),
            ("[]a]", PathError::Class),
            ("[!]", PathError::Class),
            ("[z-a]", PathError::Class),
            ("a[/]b", PathError::Class),
            ("{a,b}", PathError::Dialect('{')),
            ("a\\*", PathError::Dialect('\\')),
        ];
        for (pattern, why) in table {
            assert_eq!(check_glob(pattern), Err(why), "{pattern:?}");
        }
    }
}
