//! The command line of the agent on a host.

use std::{ffi::OsString, path::PathBuf};

/// Exit code for a command line that makes no sense (sysexits.h).
pub const EX_USAGE: u8 = 64;

/// What the agent does on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// Socket to listen on; must not exist yet.
    pub unix: PathBuf,
    /// Working tree; must exist.
    pub tree: PathBuf,
}

/// What is wrong with a command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// An argument that is none of ours.
    #[error("unknown argument {0:?}; usage: hearth-agent --unix SOCKET --tree DIRECTORY")]
    Unknown(OsString),
    /// An argument that needs a value, or is needed.
    #[error("{0} is missing; usage: hearth-agent --unix SOCKET --tree DIRECTORY")]
    Missing(&'static str),
}

/// Parses the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, ArgsError> {
    let mut arguments = arguments.into_iter();
    let (mut unix, mut tree) = (None, None);
    while let Some(argument) = arguments.next() {
        let (slot, name) = match argument.to_str() {
            Some("--unix") => (&mut unix, "the value of --unix"),
            Some("--tree") => (&mut tree, "the value of --tree"),
            _ => return Err(ArgsError::Unknown(argument)),
        };
        *slot = Some(PathBuf::from(arguments.next().ok_or(ArgsError::Missing(name))?));
    }
    Ok(Arguments {
        unix: unix.ok_or(ArgsError::Missing("--unix"))?,
        tree: tree.ok_or(ArgsError::Missing("--tree"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Arguments, ArgsError> {
        parse(words.split_whitespace().map(OsString::from))
    }

    #[test]
    fn both_paths_are_needed_in_any_order() {
        let expected = Arguments { unix: "/s".into(), tree: "/t".into() };
        assert_eq!(parse_words("--tree /t --unix /s"), Ok(expected));
        assert_eq!(parse_words("--tree /t"), Err(ArgsError::Missing("--unix")));
        assert_eq!(parse_words("--unix"), Err(ArgsError::Missing("the value of --unix")));
        assert_eq!(parse_words("--help"), Err(ArgsError::Unknown("--help".into())));
    }
}
