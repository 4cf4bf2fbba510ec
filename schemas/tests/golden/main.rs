//! Bytes that a released version wrote decode to the same values for ever. See `golden/README.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod v1;

use std::{
    collections::BTreeSet,
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
};

use bytes::BytesMut;
use hearth_schemas::guest::frame::{Frame, decode, encode};
use prost::Message;

/// Compares values with the files of one version.
pub struct Golden {
    directory: PathBuf,
    seen: BTreeSet<String>,
    written: Vec<String>,
}

impl Golden {
    fn new(version: &str) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(version);
        Self { directory, seen: BTreeSet::new(), written: Vec::new() }
    }

    /// A message: its file decodes to it, and it still encodes to its file.
    pub fn message<M: Message + Default + PartialEq + Debug>(&mut self, name: &str, value: &M) {
        let bytes = self.bytes(name, &value.encode_to_vec());
        assert_eq!(&M::decode(&bytes[..]).unwrap(), value, "{name}");
        assert_eq!(value.encode_to_vec(), bytes, "{name} is written in another way than before");
    }

    /// A frame, header and all.
    pub fn frame(&mut self, name: &str, value: &Frame) {
        let mut encoded = BytesMut::new();
        encode(value, &mut encoded);
        let bytes = self.bytes(name, &encoded);
        let mut buffer = BytesMut::from(&bytes[..]);
        assert_eq!(decode(&mut buffer).unwrap().as_ref(), Some(value), "{name}");
        assert!(buffer.is_empty(), "{name} has more than its frame");
        assert_eq!(encoded, bytes, "{name} is written in another way than before");
    }

    /// The bytes of a file; a file that is not there yet is written.
    fn bytes(&mut self, name: &str, now: &[u8]) -> Vec<u8> {
        assert!(self.seen.insert(format!("{name}.hex")), "{name} is there twice");
        let path = self.directory.join(format!("{name}.hex"));
        if !path.exists() {
            fs::write(&path, to_hex(now)).unwrap();
            self.written.push(name.to_owned());
        }
        from_hex(&fs::read_to_string(&path).unwrap())
    }

    fn finish(self) {
        let files = fs::read_dir(&self.directory).unwrap();
        let files: BTreeSet<_> =
            files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(files, self.seen, "a file without its value, or the other way round");
        assert!(self.written.is_empty(), "these were missing and are written now: {:?}", self.written);
    }
}

fn to_hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| chunk.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

#[test]
fn version_1_is_read_as_it_was_written() {
    let mut golden = Golden::new("v1");
    v1::frames(&mut golden);
    v1::greeting_and_waking(&mut golden);
    v1::files(&mut golden);
    v1::live(&mut golden);
    v1::commands(&mut golden);
    v1::copies(&mut golden);
    golden.finish();
}
