//! One stage's command: what it runs, with what environment, where and on what input.

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_schemas::{
    job::StageRequest,
    limits::{COMMAND_MAX_BYTES, INLINE_FILE_MAX_BYTES},
    paths::check_path,
    result::Refusal,
};

use super::{Limits, Stage, cases, invalid, name, too_large};

/// What an argument takes beside its own bytes, at most, in the request to the agent.
const ARGUMENT_COST_BYTES: usize = 4;
/// What a variable takes beside its name and value, at most, in the request to the agent.
const VARIABLE_COST_BYTES: usize = 12;

/// The environment of every command, the same everywhere, so that a job does not depend on where it runs. A stage's
/// own variables go before these.
pub fn base_env() -> BTreeMap<String, String> {
    [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/work"),
        ("USER", "job"),
        ("LOGNAME", "job"),
        ("SHELL", "/bin/sh"),
        ("LANG", "C.UTF-8"),
        ("TZ", "UTC"),
        ("TMPDIR", "/tmp"),
        ("PYTHONHASHSEED", "0"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// Checks one stage and gives it its limits.
pub(super) fn stage(index: usize, request: StageRequest, limits: Limits) -> Result<Stage, Refusal> {
    let field = |member: &str| format!("stages[{index}].{member}");
    name(field("name"), &request.name)?;
    argv(&request.argv, &field("argv"))?;
    let mut env = base_env();
    for (name, value) in request.env {
        variable(&name, &value, &field("env"))?;
        env.insert(name, value);
    }
    size(&request.argv, &env, &field("argv"))?;
    let cwd = match request.cwd {
        None => String::new(),
        Some(tree) if tree == "." => String::new(),
        Some(cwd) => {
            check_path(&cwd).map_err(|error| invalid(field("cwd"), error.to_string()))?;
            cwd
        }
    };
    let stdin = input(request.stdin.unwrap_or_default(), &field("stdin"))?;
    if request.stop_on_failure && request.cases.is_empty() {
        return Err(invalid(field("stop_on_failure"), "there are no cases to stop; allowed is false"));
    }
    if request.stream_cases && request.cases.is_empty() {
        return Err(invalid(field("stream_cases"), "there are no cases to be live; allowed is false"));
    }
    let cases = cases::cases(request.cases, index, &request.argv, &env, &stdin)?;
    Ok(Stage {
        ip: false,
        name: request.name,
        argv: request.argv,
        env,
        cwd,
        stdin,
        limits,
        continue_on_failure: request.continue_on_failure,
        cases,
        stop_on_failure: request.stop_on_failure,
        stream_cases: request.stream_cases,
    })
}

/// What a command reads on standard input.
pub(super) fn input(stdin: String, field: &str) -> Result<Bytes, Refusal> {
    if stdin.len() > INLINE_FILE_MAX_BYTES {
        let message = format!("{} bytes; allowed are 0 to {INLINE_FILE_MAX_BYTES}", stdin.len());
        return Err(too_large(field, message));
    }
    Ok(Bytes::from(stdin))
}

pub(super) fn argv(argv: &[String], field: &str) -> Result<(), Refusal> {
    if argv.first().is_none_or(String::is_empty) {
        return Err(invalid(field, "has no command; allowed is a command and its arguments"));
    }
    arguments(argv, field)
}

/// Checks words of a command; there may be none.
pub(super) fn arguments(argv: &[String], field: &str) -> Result<(), Refusal> {
    match argv.iter().position(|argument| argument.contains('\0')) {
        Some(index) => {
            let message = "contains a NUL character; allowed is every other character";
            Err(invalid(format!("{field}[{index}]"), message))
        }
        None => Ok(()),
    }
}

fn variable(name: &str, value: &str, field: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.contains(['=', '\0']) {
        let shown: String = name.chars().take(80).collect();
        let allowed = "allowed is at least one character, none of them `=` or NUL";
        return Err(invalid(field, format!("{shown:?} is not the name of a variable; {allowed}")));
    }
    if value.contains('\0') {
        let message = "contains a NUL character; allowed is every other character";
        return Err(invalid(format!("{field}.{name}"), message));
    }
    Ok(())
}

/// Counts what the request to the agent takes, so that it fits one frame.
pub(super) fn size<'a>(
    argv: impl IntoIterator<Item = &'a String>,
    env: &BTreeMap<String, String>,
    field: &str,
) -> Result<(), Refusal> {
    let arguments = argv.into_iter().map(|argument| argument.len() + ARGUMENT_COST_BYTES);
    let variables = env.iter().map(|(name, value)| name.len() + value.len() + VARIABLE_COST_BYTES);
    let bytes = arguments.chain(variables).fold(0_usize, usize::saturating_add);
    if bytes > COMMAND_MAX_BYTES {
        let message = format!(
            "argv and env together take {bytes} bytes; allowed are {COMMAND_MAX_BYTES} ({ARGUMENT_COST_BYTES} \
             for each argument and {VARIABLE_COST_BYTES} for each variable included); put more into a file"
        );
        return Err(too_large(field, message));
    }
    Ok(())
}
