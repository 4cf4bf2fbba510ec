//! The files that a job brings along or names, decoded and in places of their own.

use std::{io::Cursor, sync::Arc};

use base64::{DecodeError, Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hearth_schemas::{
    job::InputFile,
    limits::{FILES_MAX, INLINE_FILE_MAX_BYTES},
    paths::check_path,
    result::Refusal,
};

use super::{
    Stage, invalid,
    objects::{ObjectInput, ObjectTerms, object},
    too_large,
};
use crate::tar::{TarEntry, list};

/// Permission bits of a file that does not say.
const MODE_DEFAULT: u32 = 0o644;

/// What a file may have.
const CONTENTS: &str = "allowed is one of `text`, `base64`, `tar_base64`, `object` and `tar_object`";

/// One file, or one directory with what is in it, for the working tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFile {
    /// Relative to the working tree.
    pub path: String,
    /// Permission bits, 0 to 0o777. Of no meaning for a directory.
    pub mode: u32,
    /// Its bytes, or where they are.
    pub content: Content,
}

/// What is in a file, or where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Inline(Bytes),
    /// A directory, from an archive.
    Tree {
        /// The archive.
        archive: Bytes,
        /// What is in it.
        entries: Arc<[TarEntry]>,
    },
    /// An object's bytes.
    Object(ObjectInput),
    /// A directory, from an object that is an archive.
    TreeObject(ObjectInput),
}

impl Content {
    /// How many bytes it puts on the disk; of an archive by reference, how many at most.
    pub fn size(&self) -> u64 {
        match self {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Tree { entries, .. } => entries.iter().map(|entry| entry.kind.size()).sum(),
            Content::Object(object) | Content::TreeObject(object) => object.size,
        }
    }

    /// The object that it names.
    pub fn object(&self) -> Option<&ObjectInput> {
        match self {
            Content::Object(object) | Content::TreeObject(object) => Some(object),
            Content::Inline(_) | Content::Tree { .. } => None,
        }
    }
}

/// Checks and decodes the files. With `code`, the last one is what the shorthand made of it.
pub(super) fn files(
    requests: Vec<InputFile>,
    code: bool,
    objects: (&ObjectTerms, &str),
) -> Result<Vec<JobFile>, Refusal> {
    let from_code = code.then(|| requests.len().saturating_sub(1));
    let own = requests.len() - usize::from(code);
    if own > FILES_MAX {
        return Err(invalid("files", format!("{own} files; allowed are 0 to {FILES_MAX}")));
    }
    let name = |index: usize| match from_code {
        Some(of_code) if of_code == index => "code".to_owned(),
        _ => format!("files[{index}]"),
    };
    let mut files = Vec::with_capacity(requests.len());
    for (index, request) in requests.into_iter().enumerate() {
        let field = name(index);
        let within = |member: &str| match from_code {
            Some(of_code) if of_code == index => field.clone(),
            _ => format!("{field}.{member}"),
        };
        check_path(&request.path).map_err(|error| invalid(within("path"), error.to_string()))?;
        let mode = mode(request.mode.as_deref()).map_err(|message| invalid(within("mode"), message))?;
        let path = request.path.clone();
        files.push(JobFile { path, mode, content: content(request, &field, within, objects)? });
    }
    in_each_others_way(&files, name)?;
    Ok(files)
}

fn mode(mode: Option<&str>) -> Result<u32, String> {
    let Some(text) = mode else { return Ok(MODE_DEFAULT) };
    let octal = |digits: &str| digits.len() == 3 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    let digits = if text.len() == 4 { text.strip_prefix('0') } else { Some(text) };
    digits.filter(|digits| octal(digits)).and_then(|digits| u32::from_str_radix(digits, 8).ok()).ok_or_else(
        || {
            let shown: String = text.chars().take(16).collect();
            format!("{shown:?} is not a mode; allowed are 0000 to 0777 in octal, such as \"0755\"")
        },
    )
}

fn content(
    mut file: InputFile,
    field: &str,
    within: impl Fn(&str) -> String,
    objects: (&ObjectTerms, &str),
) -> Result<Content, Refusal> {
    let given = [
        ("text", file.text.take()),
        ("base64", file.base64.take()),
        ("tar_base64", file.tar_base64.take()),
        ("object", file.object.take()),
        ("tar_object", file.tar_object.take()),
    ];
    let mut given: Vec<(&str, String)> =
        given.into_iter().filter_map(|(name, given)| Some((name, given?))).collect();
    let (member, text) = match (given.pop(), given.as_slice()) {
        (Some(only), []) => only,
        (None, _) => return Err(invalid(field, format!("has no content; {CONTENTS}"))),
        (Some((last, _)), rest) => {
            let several: Vec<_> = rest.iter().map(|(name, _)| *name).chain([last]).collect();
            return Err(invalid(field, format!("has {}; {CONTENTS}", several.join(" and "))));
        }
    };
    if member.starts_with("tar_") && file.mode.is_some() {
        return Err(invalid(within("mode"), "allowed only with a file; an archive's entries have their own"));
    }
    if member.ends_with("object") {
        let object = object(&file, &text, member, within, objects)?;
        return Ok(if member == "object" { Content::Object(object) } else { Content::TreeObject(object) });
    }
    for (name, given) in [("sha256", file.sha256.is_some()), ("size", file.size.is_some())] {
        if given {
            return Err(invalid(within(name), "allowed only with `object` and `tar_object`"));
        }
    }
    let bytes = match member {
        "text" => text.into_bytes(),
        _ => decode(&text, &within(member))?,
    };
    if bytes.len() > INLINE_FILE_MAX_BYTES {
        let message = format!("{} bytes; allowed are 0 to {INLINE_FILE_MAX_BYTES}", bytes.len());
        return Err(too_large(within(member), message));
    }
    let bytes = Bytes::from(bytes);
    if member != "tar_base64" {
        return Ok(Content::Inline(bytes));
    }
    let entries = list(Cursor::new(&bytes), bytes.len() as u64);
    let entries = entries.map_err(|error| invalid(within(member), error.to_string()))?;
    Ok(Content::Tree { archive: bytes, entries: entries.into() })
}

/// Whether there is a stage that could hold all of it on its disk. Looked at before a byte is fetched.
pub(super) fn room(files: &[JobFile], stages: &[Stage], objects: &ObjectTerms) -> Result<(), Refusal> {
    let disk = stages.iter().map(|stage| stage.limits.disk_bytes).max().unwrap_or(0);
    let (mut all, mut fetched) = (0_u64, 0_u64);
    for (index, file) in files.iter().enumerate() {
        let Some(object) = file.content.object() else {
            all = all.saturating_add(file.content.size());
            continue;
        };
        all = all.saturating_add(object.size);
        fetched = fetched.saturating_add(object.size);
        let field = format!("files[{index}].size");
        if all > disk {
            let message = format!(
                "with {} bytes the files up to this one have {all}; allowed are 0 to {disk}, the `disk_mib` of the stages",
                object.size
            );
            return Err(too_large(field, message));
        }
        if fetched > objects.total_max_bytes {
            let message = format!(
                "the objects up to this one have {fetched} bytes; allowed are 0 to {} for a job",
                objects.total_max_bytes
            );
            return Err(too_large(field, message));
        }
    }
    Ok(())
}

fn decode(base64: &str, field: &str) -> Result<Vec<u8>, Refusal> {
    STANDARD.decode(base64).map_err(|error| {
        let wrong = match error {
            DecodeError::InvalidByte(at, byte) => format!("{:?} at offset {at}", char::from(byte)),
            other => other.to_string(),
        };
        let allowed = "allowed is RFC 4648's standard alphabet, padded with `=`, without line breaks";
        invalid(field, format!("invalid base64 ({wrong}); {allowed}"))
    })
}

/// Two files of one path, or a file where another needs a directory.
fn in_each_others_way(files: &[JobFile], name: impl Fn(usize) -> String) -> Result<(), Refusal> {
    let mut sorted: Vec<(usize, &str)> =
        files.iter().enumerate().map(|(index, file)| (index, file.path.as_str())).collect();
    // By components, a directory's files come right after a file of its name.
    sorted.sort_by(|(i, a), (j, b)| a.split('/').cmp(b.split('/')).then(i.cmp(j)));
    for pair in sorted.windows(2) {
        let [(i, upper), (j, lower)] = pair else { continue };
        let below = lower.strip_prefix(upper);
        let problem = match below {
            Some("") => format!("`{lower}` is also the path of"),
            Some(rest) if rest.starts_with('/') => format!("`{lower}` needs a directory where there is"),
            _ => continue,
        };
        // The later one is to blame, but never the file of `code`, which comes last and whose path nobody chose.
        let (first, last) = (*i.min(j), *i.max(j));
        let (at, other) = if name(last) == "code" { (first, last) } else { (last, first) };
        let message = format!("{problem} {}; allowed is a path of its own for every file", name(other));
        return Err(invalid(format!("{}.path", name(at)), message));
    }
    Ok(())
}
