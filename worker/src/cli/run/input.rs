//! From the command line to the bytes of a job request.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use bytes::Bytes;
use hearth_schemas::{job::JobRequest, limits::REQUEST_MAX_BYTES};

use crate::cli::exit::{Exit, Failure};

/// What a file's extension says: the runtime, and the language where that is not the runtime's first.
const EXTENSIONS: [(&str, &str, Option<&str>); 9] = [
    ("py", "python", None),
    ("c", "gcc", None),
    ("cpp", "gcc", Some("cpp")),
    ("cc", "gcc", Some("cpp")),
    ("cxx", "gcc", Some("cpp")),
    ("js", "node", None),
    ("cjs", "node", None),
    ("sh", "bash", None),
    ("bash", "bash", None),
];

/// What a job is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A job as JSON, sent as it is.
    Job,
    /// Source text, to be run by this runtime's own entry command.
    Source {
        /// The runtime.
        runtime: &'a str,
        /// The language, where it is not the runtime's first.
        language: Option<&'static str>,
        /// Wall time in milliseconds, where it is not the default.
        timeout_ms: Option<u64>,
    },
}

/// What `path` (`-` is standard input) is, given the flags.
pub fn classify<'a>(
    path: &Path,
    runtime: Option<&'a str>,
    timeout_ms: Option<u64>,
) -> Result<Input<'a>, Failure> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let is_job = extension == Some("json") || path == Path::new("-");
    let guessed = EXTENSIONS.into_iter().find(|(known, ..)| extension == Some(*known));
    let guessed = guessed.map(|(_, runtime, language)| (runtime, language));
    // Another runtime need not know the language by the same name.
    let named = |runtime: &'a str| {
        (runtime, guessed.filter(|(known, _)| *known == runtime).and_then(|(_, language)| language))
    };
    if let Some((runtime, language)) = runtime.map(named).or(guessed) {
        return match extension {
            Some("json") => Err(usage("--runtime is for source files; a job names its runtime itself")),
            _ => Ok(Input::Source { runtime, language, timeout_ms }),
        };
    }
    if !is_job {
        let known: Vec<String> = EXTENSIONS.iter().map(|(extension, ..)| format!(".{extension}")).collect();
        let path = path.display();
        return Err(usage(format!(
            "{path}: neither a job (.json) nor source of a known kind ({})",
            known.join(", ")
        ))
        .remedy("name the runtime of a source file with --runtime"));
    }
    if timeout_ms.is_some() {
        return Err(usage("--timeout-ms is for source files; a job has limits.wall_ms"));
    }
    Ok(Input::Job)
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, message)
}

/// Reads the file, or standard input for `-`. Blocks.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let no_input = |error: io::Error| Failure::new(Exit::NoInput, format!("{}: {error}", path.display()));
    match path == Path::new("-") {
        true => bounded(io::stdin().lock()).map_err(no_input),
        false => File::open(path).and_then(bounded).map_err(no_input),
    }
}

/// One byte beyond what is allowed is enough to be refused by name.
fn bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(REQUEST_MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The request as it goes into the queue.
pub fn request(input: Input<'_>, bytes: Vec<u8>) -> Result<Bytes, Failure> {
    let Input::Source { runtime, language, timeout_ms } = input else { return Ok(bytes.into()) };
    let code = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::new(Exit::Data, format!("code: not UTF-8 from byte {at} on"))
            .remedy("send it as a file of a job: {\"path\":\"…\",\"base64\":\"…\"}")
    })?;
    let mut request = JobRequest::new(runtime);
    request.code = Some(code);
    request.language = language.map(str::to_owned);
    request.limits.wall_ms = timeout_ms;
    let json = serde_json::to_vec(&request);
    json.map(Bytes::from).map_err(|error| Failure::from_error(Exit::Internal, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_of(path: &str, runtime: Option<&str>, timeout_ms: Option<u64>) -> Exit {
        classify(Path::new(path), runtime, timeout_ms).unwrap_err().exit
    }

    #[test]
    fn the_extension_says_what_a_file_is_and_the_flag_overrides() {
        let source = |runtime, timeout_ms| Input::Source { runtime, language: None, timeout_ms };
        let cpp = |timeout_ms| Input::Source { runtime: "gcc", language: Some("cpp"), timeout_ms };
        for path in ["a.cpp", "d/a.cc", "a.cxx"] {
            assert_eq!(classify(Path::new(path), None, None).unwrap(), cpp(None));
        }
        assert_eq!(classify(Path::new("a.cpp"), Some("gcc"), Some(1)).unwrap(), cpp(Some(1)));
        assert_eq!(classify(Path::new("a.cpp"), Some("clang"), None).unwrap(), source("clang", None));
        for (path, runtime) in [("a.py", "python"), ("d/a.c", "gcc"), ("a.js", "node"), ("a.sh", "bash")] {
            assert_eq!(classify(Path::new(path), None, Some(5)).unwrap(), source(runtime, Some(5)));
        }
        assert_eq!(classify(Path::new("a.c"), Some("clang"), None).unwrap(), source("clang", None));
        assert_eq!(classify(Path::new("-"), Some("python"), None).unwrap(), source("python", None));
        assert_eq!(classify(Path::new("job.json"), None, None).unwrap(), Input::Job);
        assert_eq!(classify(Path::new("-"), None, None).unwrap(), Input::Job);
    }

    #[test]
    fn flags_that_cannot_apply_are_usage_errors() {
        assert_eq!(exit_of("job.json", Some("python"), None), Exit::Usage);
        assert_eq!(exit_of("job.json", None, Some(1)), Exit::Usage);
        assert_eq!(exit_of("-", None, Some(1)), Exit::Usage);
        assert_eq!(exit_of("README", None, None), Exit::Usage);
    }

    #[test]
    fn a_job_is_sent_as_it_is_and_source_becomes_the_shorthand() {
        assert_eq!(request(Input::Job, b" {x".to_vec()).unwrap(), Bytes::from(" {x"));
        let source = Input::Source { runtime: "python", language: None, timeout_ms: Some(7) };
        let bytes = request(source, b"print(1)".to_vec()).unwrap();
        let parsed = hearth_schemas::job::parse(&bytes).unwrap();
        assert_eq!((parsed.runtime.as_str(), parsed.code.as_deref()), ("python", Some("print(1)")));
        assert_eq!(parsed.limits.wall_ms, Some(7));
        let cpp = Input::Source { runtime: "gcc", language: Some("cpp"), timeout_ms: None };
        let parsed = hearth_schemas::job::parse(&request(cpp, b"x".to_vec()).unwrap()).unwrap();
        assert_eq!((parsed.runtime.as_str(), parsed.language.as_deref()), ("gcc", Some("cpp")));
        assert_eq!(request(source, vec![0xff]).unwrap_err().exit, Exit::Data);
    }
}
