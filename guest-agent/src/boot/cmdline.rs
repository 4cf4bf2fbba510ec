//! What the kernel's command line says to the agent. Pure.

use std::path::PathBuf;

/// The `hearth.` words of a command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CommandLine {
    /// `hearth.root`: block device of the root image.
    pub(super) root: Option<String>,
    /// `hearth.rootfstype`: its file system, `ext4` unless told.
    pub(super) root_type: Option<String>,
    /// `hearth.scratch`: block device of the scratch disk.
    pub(super) scratch: Option<String>,
    /// `hearth.channel`: serial port that the host may speak on.
    pub(super) channel: Option<PathBuf>,
}

/// Reads a command line. Words that are not ours are the kernel's; of two with one name the later counts.
pub(super) fn parse(text: &str) -> CommandLine {
    let mut line = CommandLine::default();
    for (name, value) in text.split_whitespace().filter_map(|word| word.split_once('=')) {
        let value = Some(value.to_owned()).filter(|value| !value.is_empty());
        match name {
            "hearth.root" => line.root = value,
            "hearth.rootfstype" => line.root_type = value,
            "hearth.scratch" => line.scratch = value,
            "hearth.channel" => line.channel = value.map(PathBuf::from),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_words_are_taken_and_the_rest_is_left() {
        let line =
            parse("console=ttyS0 quiet hearth.root=/dev/vda hearth.scratch= hearth.channel=/dev/ttyS1\n");
        assert_eq!(line.root.as_deref(), Some("/dev/vda"));
        assert_eq!(line.scratch, None);
        assert_eq!(line.channel, Some("/dev/ttyS1".into()));
        assert_eq!(parse(""), CommandLine::default());
        assert_eq!(parse("hearth.root=a hearth.root=b").root.as_deref(), Some("b"));
    }
}
