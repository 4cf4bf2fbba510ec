//! Names of objects outside of a message: `scheme://store/key`, and prefixes of them.
//!
//! A name is taken as it is written. Nothing in it is decoded, so that what was compared is what is asked for.

use std::fmt;

use crate::{
    limits::{REFERENCE_MAX_BYTES, REFERENCE_STORE_MAX_BYTES},
    paths::{PathError, check_path},
};

/// Stands for the tenant's name in a prefix.
const TENANT: &str = "{tenant}";

/// What kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// A folder on the worker's host: `file://`.
    File,
    /// S3, or what speaks its protocol: `s3://`.
    S3,
    /// Google Cloud Storage: `gs://`.
    Gs,
    /// Azure Blob Storage: `az://`.
    Az,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 4] = [Scheme::File, Scheme::S3, Scheme::Gs, Scheme::Az];

    /// What stands before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::File => "file",
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Az => "az",
        }
    }
}

/// A store: a bucket, a container, or a folder that the operator has given a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreName {
    /// Its kind.
    pub scheme: Scheme,
    /// Its name.
    pub name: String,
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.name)
    }
}

impl StoreName {
    /// Parses `scheme://name`.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        match split(text)? {
            (store, None) => Ok(store),
            (_, Some(_)) => Err(ReferenceError::Store),
        }
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Where it is.
    pub store: StoreName,
    /// Its name there: plain segments with `/` between them.
    pub key: String,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store, self.key)
    }
}

impl Reference {
    /// Parses `scheme://store/key`.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (store, key) = split(text)?;
        let key = key.unwrap_or_default();
        check_key(key)?;
        Ok(Reference { store, key: key.to_owned() })
    }
}

/// All objects of a store below some segments, or all of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// Where.
    pub store: StoreName,
    segments: Vec<String>,
}

impl Prefix {
    /// Parses `scheme://store` or `scheme://store/segments`, with or without a slash at the end. A segment that is
    /// `{tenant}` stands for the name of whoever asks.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (store, rest) = split(text.strip_suffix('/').unwrap_or(text))?;
        let Some(rest) = rest else { return Ok(Prefix { store, segments: Vec::new() }) };
        check_key(rest)?;
        Ok(Prefix { store, segments: rest.split('/').map(str::to_owned).collect() })
    }

    /// Whether an object is below it, compared by whole segments. The prefix itself is not below itself.
    pub fn covers(&self, reference: &Reference, tenant: &str) -> bool {
        let mut key = reference.key.split('/');
        self.store == reference.store
            && self.segments.iter().all(|segment| key.next() == Some(of(segment, tenant)))
            && key.next().is_some()
    }

    /// As a text, for this tenant.
    pub fn shown(&self, tenant: &str) -> String {
        let segments = self.segments.iter().map(|segment| of(segment, tenant));
        segments.fold(self.store.to_string(), |shown, segment| shown + "/" + segment)
    }

    /// The object below it whose name goes on like this.
    ///
    /// # Errors
    /// Together they are no name of an object.
    pub fn object(&self, tenant: &str, rest: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(&format!("{}/{rest}", self.shown(tenant)))
    }
}

fn of<'a>(segment: &'a str, tenant: &'a str) -> &'a str {
    if segment == TENANT { tenant } else { segment }
}

/// Why a text names no object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Another scheme, or none.
    #[error("has no known scheme; allowed are file://, s3://, gs:// and az://, such as `s3://bucket/key`")]
    Scheme,
    /// The store's name is not one.
    #[error(
        "has no name of a store after its scheme; allowed are 1 to {REFERENCE_STORE_MAX_BYTES} of A-Z, a-z, 0-9, `.`, `_` and `-`, \
         such as `s3://bucket`"
    )]
    Store,
    /// The key is not a plain path.
    #[error("its key {0}")]
    Key(PathError),
    /// The key has a character that means something to a URL, or that nobody can read.
    #[error(
        "its key contains {0:?}; a key is taken as it is written, without `%`, `?`, `#`, `\\` and control characters"
    )]
    Character(char),
    /// It is longer than [`REFERENCE_MAX_BYTES`].
    #[error("has {0} bytes; allowed are 1 to {REFERENCE_MAX_BYTES}")]
    TooLong(usize),
}

fn split(text: &str) -> Result<(StoreName, Option<&str>), ReferenceError> {
    if text.len() > REFERENCE_MAX_BYTES {
        return Err(ReferenceError::TooLong(text.len()));
    }
    let (scheme, rest) = text.split_once("://").ok_or(ReferenceError::Scheme)?;
    let scheme = Scheme::ALL.into_iter().find(|known| known.as_str() == scheme);
    let scheme = scheme.ok_or(ReferenceError::Scheme)?;
    let (name, key) = rest.split_once('/').map_or((rest, None), |(name, key)| (name, Some(key)));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let dots = name.bytes().all(|byte| byte == b'.');
    if name.len() > REFERENCE_STORE_MAX_BYTES || dots || !name.bytes().all(plain) {
        return Err(ReferenceError::Store);
    }
    Ok((StoreName { scheme, name: name.to_owned() }, key))
}

fn check_key(key: &str) -> Result<(), ReferenceError> {
    check_path(key).map_err(ReferenceError::Key)?;
    let odd = |c: &char| c.is_control() || matches!(c, '%' | '?' | '#' | '\\');
    key.chars().find(odd).map_or(Ok(()), |odd| Err(ReferenceError::Character(odd)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    #[test]
    fn a_name_is_what_is_written() {
        for text in ["s3://bucket/key", "file://shared/a/b c.txt", "gs://b.c_d-e/ä", "az://box/..a/b.."] {
            assert_eq!(reference(text).to_string(), text);
        }
    }

    #[test]
    fn everything_that_could_mean_two_things_is_refused() {
        use ReferenceError as E;
        for (text, why) in [
            ("bucket/key", E::Scheme),
            ("http://host/key", E::Scheme),
            ("S3://bucket/key", E::Scheme),
            ("s3:///key", E::Store),
            ("s3://../key", E::Store),
            ("s3://user@host/key", E::Store),
            ("s3://host:80/key", E::Store),
            ("s3://bucket", E::Key(PathError::Empty)),
            ("s3://bucket/", E::Key(PathError::Empty)),
            ("s3://bucket//key", E::Key(PathError::Absolute)),
            ("s3://bucket/a//b", E::Key(PathError::EmptyComponent)),
            ("s3://bucket/a/", E::Key(PathError::EmptyComponent)),
            ("s3://bucket/a/../b", E::Key(PathError::Parent)),
            ("s3://bucket/./b", E::Key(PathError::Current)),
            ("s3://bucket/a/%2e%2e/b", E::Character('%')),
            ("s3://bucket/a?versionId=1", E::Character('?')),
            ("s3://bucket/a#b", E::Character('#')),
            ("s3://bucket/a\\..\\b", E::Character('\\')),
            ("s3://bucket/a\nb", E::Character('\n')),
            ("s3://bucket/a\0b", E::Key(PathError::Nul)),
        ] {
            assert_eq!(Reference::parse(text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn prefixes_are_whole_segments_of_one_store() {
        let prefix = Prefix::parse("s3://bucket/team/a/").unwrap();
        assert!(prefix.covers(&reference("s3://bucket/team/a/x"), "t"));
        assert!(prefix.covers(&reference("s3://bucket/team/a/x/y"), "t"));
        for outside in [
            "s3://bucket/team/ab/x",
            "s3://bucket/team/a",
            "s3://bucket/team",
            "s3://bucket/Team/a/x",
            "s3://bucket2/team/a/x",
            "gs://bucket/team/a/x",
        ] {
            assert!(!prefix.covers(&reference(outside), "t"), "{outside}");
        }
        let whole = Prefix::parse("file://shared").unwrap();
        assert!(whole.covers(&reference("file://shared/x"), "t"));
        assert!(!whole.covers(&reference("file://shared2/x"), "t"));
        assert!(Prefix::parse("file://shared/../x").is_err());
    }

    #[test]
    fn a_tenant_stands_in_its_own_segment() {
        let prefix = Prefix::parse("s3://bucket/of/{tenant}").unwrap();
        assert!(prefix.covers(&reference("s3://bucket/of/alice/x"), "alice"));
        assert!(!prefix.covers(&reference("s3://bucket/of/alice/x"), "bob"));
        assert!(!prefix.covers(&reference("s3://bucket/of/{tenant}/x"), "bob"));
        assert_eq!(prefix.shown("alice"), "s3://bucket/of/alice");
        assert_eq!(prefix.object("alice", "j/1").unwrap(), reference("s3://bucket/of/alice/j/1"));
    }
}
