//! What a result means to whoever ran the command.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use hearth_schemas::result::{JobResult, Millis, Status};

use crate::cli::{
    exit::{Exit, Failure},
    output::{self, Style},
};

/// Prints the result, and for a person what it comes to; the exit code says the same.
pub fn report(result: &JobResult, style: Style, summary: bool) -> Result<Exit, Failure> {
    output::json(result, style)?;
    let exit = exit_of(result);
    match (&result.refusal, &result.infra_error) {
        (Some(refusal), _) => Err(Failure::new(exit, refusal.to_string())),
        (None, Some(error)) => Err(Failure::new(exit, error.message.clone())),
        (None, None) => {
            if summary && io::stderr().is_terminal() {
                eprintln!("{}", sentence(result));
            }
            Ok(exit)
        }
    }
}

/// The exit code of a result.
pub fn exit_of(result: &JobResult) -> Exit {
    match result.status {
        Status::Finished if result.is_accepted() => Exit::Accepted,
        Status::Finished => Exit::NotAccepted,
        Status::Refused => Exit::Data,
        Status::Cancelled | Status::Expired => Exit::Temporary,
        Status::InfraError => Exit::Internal,
    }
}

/// What it comes to, in one line.
fn sentence(result: &JobResult) -> String {
    let verdict = result.verdict.map_or_else(|| result.status.to_string(), |verdict| verdict.to_string());
    let step = |name: &str, took: Option<Millis>| Some(format!("{name} {:.2?}", Duration::from(took?)));
    let timings = &result.timings;
    let steps = [step("a VM after", timings.claim_ms), step("ran", timings.run_ms)];
    let steps: Vec<String> = steps.into_iter().flatten().collect();
    if steps.is_empty() { verdict } else { format!("{verdict}: {}", steps.join(", ")) }
}

#[cfg(test)]
mod tests {
    use hearth_schemas::result::Verdict;

    use super::*;

    fn result(status: Status, verdict: Option<Verdict>) -> JobResult {
        let mut result = JobResult::new("id", "tenant", "python", status);
        result.verdict = verdict;
        result
    }

    #[test]
    fn every_result_has_its_exit_code() {
        let code = |status, verdict| exit_of(&result(status, verdict)).code();
        assert_eq!(code(Status::Finished, Some(Verdict::Accepted)), 0);
        for verdict in Verdict::ALL.into_iter().filter(|verdict| *verdict != Verdict::Accepted) {
            assert_eq!(code(Status::Finished, Some(verdict)), 1);
        }
        let others = [Status::Refused, Status::Cancelled, Status::Expired, Status::InfraError];
        assert_eq!(others.map(|status| code(status, None)), [65, 75, 75, 70]);
    }

    #[test]
    fn the_sentence_names_verdict_and_times() {
        let mut done = result(Status::Finished, Some(Verdict::Accepted));
        done.timings.run_ms = Some(Duration::from_millis(12).into());
        assert!(sentence(&done).starts_with("accepted: ran 12.00ms"), "{}", sentence(&done));
        assert_eq!(sentence(&result(Status::Expired, None)), "expired");
    }
}
