//! The files that a job brings along, decoded and in places of their own.

use base64::{DecodeError, Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hearth_schemas::{
    job::InputFile,
    limits::{FILES_MAX, INLINE_FILE_MAX_BYTES},
    paths::check_path,
    result::Refusal,
};

use super::{invalid, not_supported, too_large};

/// Permission bits of a file that does not say.
const MODE_DEFAULT: u32 = 0o644;

/// One file for the working tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFile {
    /// Relative to the working tree.
    pub path: String,
    /// Permission bits, 0 to 0o777.
    pub mode: u32,
    /// Its bytes.
    pub content: Bytes,
}

/// Checks and decodes the files. With `code`, the last one is what the shorthand made of it.
pub(super) fn files(requests: Vec<InputFile>, code: bool) -> Result<Vec<JobFile>, Refusal> {
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
        files.push(JobFile { path, mode, content: content(request, &field, within)? });
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

fn content(file: InputFile, field: &str, within: impl Fn(&str) -> String) -> Result<Bytes, Refusal> {
    let given = [
        ("text", file.text.is_some()),
        ("base64", file.base64.is_some()),
        ("tar_base64", file.tar_base64.is_some()),
        ("object", file.object.is_some()),
    ];
    let given: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
    let only = match given.as_slice() {
        [only] => *only,
        [] => return Err(invalid(field, "has no content; allowed is one of `text` and `base64`")),
        several => {
            let several = several.join(" and ");
            return Err(invalid(field, format!("has {several}; allowed is one of `text` and `base64`")));
        }
    };
    if matches!(only, "tar_base64" | "object") {
        return Err(not_supported(within(only), "allowed is one of `text` and `base64`"));
    }
    for (member, given) in [("sha256", file.sha256.is_some()), ("size", file.size.is_some())] {
        if given {
            return Err(invalid(within(member), "allowed only with `object`"));
        }
    }
    let content = match (file.text, file.base64) {
        (Some(text), _) => text.into_bytes(),
        (None, base64) => decode(&base64.unwrap_or_default(), &within("base64"))?,
    };
    if content.len() > INLINE_FILE_MAX_BYTES {
        let bytes = content.len();
        let message = format!("a file of {bytes} bytes; allowed are 0 to {INLINE_FILE_MAX_BYTES}");
        return Err(too_large(within(only), message));
    }
    Ok(Bytes::from(content))
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
