//! The shorthand: `code` written out as one file and the stages that its language takes.

use hearth_schemas::{
    job::{InputFile, JobRequest, LimitsRequest, StageRequest},
    limits::STAGES_MAX,
    manifest::{Compile, Entry},
    result::Refusal,
};

use super::{invalid, name, terms::Offer};

/// The stage that runs `code`.
pub const CODE_STAGE: &str = "run";
/// The stage before it, where the language is compiled.
pub const COMPILE_STAGE: &str = "compile";

/// The files and stages of a request, nothing of them short.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) files: Vec<InputFile>,
    pub(super) stages: Vec<StageRequest>,
}

/// Takes files and stages out of a request. What `code` becomes goes last among the files, so that the indices of the
/// others stay those of the request; `code` itself is left empty there.
pub(super) fn written_out(request: &mut JobRequest, offer: &Offer) -> Result<Written, Refusal> {
    let mut files = std::mem::take(&mut request.files);
    let stages = std::mem::take(&mut request.stages);
    if request.code.is_none() && request.language.is_some() {
        return Err(invalid("language", "is for `code`; allowed is no language, as `stages` say what runs"));
    }
    match (&mut request.code, stages.len()) {
        (Some(_), 1..) => Err(invalid("code", "`code` and `stages` together; allowed is one of them")),
        (None, 0) => {
            let message = format!("there are none; allowed are 1 to {STAGES_MAX}, or `code` instead");
            Err(invalid("stages", message))
        }
        (None, 1..=STAGES_MAX) => Ok(Written { files, stages }),
        (None, many) => Err(invalid("stages", format!("{many} stages; allowed are 1 to {STAGES_MAX}"))),
        (Some(code), 0) => {
            let entry = entry(request.language.as_deref(), &request.runtime, offer)?;
            files.push(InputFile::text(entry.file.clone(), std::mem::take(code)));
            let run = stage(CODE_STAGE, &entry.argv, LimitsRequest::default());
            let compile = entry
                .compile
                .as_ref()
                .map(|compile| stage(COMPILE_STAGE, &compile.argv, compile_limits(compile, &request.limits)));
            Ok(Written { files, stages: compile.into_iter().chain([run]).collect() })
        }
    }
}

/// How this runtime runs a language.
fn entry<'a>(language: Option<&str>, runtime: &str, offer: &'a Offer) -> Result<&'a Entry, Refusal> {
    let own = offer.entry.language.as_deref();
    let Some(language) = language.filter(|language| own != Some(language)) else { return Ok(&offer.entry) };
    name("language", language)?;
    offer.languages.get(language).ok_or_else(|| {
        let known: Vec<&str> = own.into_iter().chain(offer.languages.keys().map(String::as_str)).collect();
        let known = if known.is_empty() { "no language".to_owned() } else { known.join(", ") };
        invalid("language", format!("`{runtime}` does not know `{language}`; allowed: {known}"))
    })
}

fn stage(name: &str, argv: &[String], limits: LimitsRequest) -> StageRequest {
    StageRequest { name: name.to_owned(), argv: argv.to_vec(), limits, ..StageRequest::default() }
}

/// The runtime's own: what a job may use is said of its program. The disk they share.
fn compile_limits(compile: &Compile, job: &LimitsRequest) -> LimitsRequest {
    let own = compile.limits;
    LimitsRequest { disk_mib: own.disk_mib.or(job.disk_mib), files: own.files.or(job.files), ..own }
}
