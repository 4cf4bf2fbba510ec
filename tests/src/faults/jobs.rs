//! Jobs whose results are known before they run. Job `n` of a seed is always the same.

use std::time::Duration;

use hearth_schemas::result::{Attempt, JobResult, OutputFile, Status, Verdict};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Shortest and longest time that a job takes by itself, in milliseconds.
const TAKES_MS: (f64, f64) = (50.0, 2000.0);
/// Where a job leaves its file.
const FILE: &str = "out.bin";
/// Attempts that an `infra_error` must have made.
pub const ATTEMPTS: usize = 3;

/// A job and what must come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownJob {
    /// Its id.
    pub id: String,
    /// The request.
    pub request: Vec<u8>,
    verdict: Verdict,
    exit_code: Option<i32>,
    stdout_sha256: String,
    file_sha256: Option<String>,
}

/// What is wrong with a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Nothing.
    Right,
    /// An `infra_error` after these attempts, which are as many as there may be.
    GaveUp(Vec<Attempt>),
    /// This.
    Wrong(String),
}

impl KnownJob {
    /// Job `n` of a seed, for a runtime that runs bash. `slack` is what a command needs beyond the time that it sleeps, at
    /// most: what is given to one that is to hit its time limit.
    pub fn new(seed: u64, n: u64, runtime: &str, slack: Duration) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n);
        let word = format!("{seed}.{n}.{:08x}", rng.random::<u32>());
        // As many short ones as long ones, by magnitude.
        let (shortest, longest) = TAKES_MS;
        let takes_ms = (shortest.ln() + rng.random::<f64>() * (longest / shortest).ln()).exp();
        let wait = format!("sleep {:.3}", takes_ms / 1000.0);
        let mut wall_ms = 30_000;
        let size: usize = rng.random_range(1..100_000);
        let (code, verdict, exit_code, stdout, file) = match rng.random_range(0..10) {
            0 => (
                format!("{wait}; echo {word}; exit 7"),
                Verdict::NonzeroExit,
                Some(7),
                format!("{word}\n"),
                None,
            ),
            1 => {
                wall_ms = takes_ms as u64 + slack.as_millis() as u64;
                (format!("echo {word}; sleep 600"), Verdict::TimeLimit, None, format!("{word}\n"), None)
            }
            2 => {
                let file = format!("{word}\n").repeat(size / word.len() + 1);
                let code = format!("{wait}; yes {word} | head -c {size} > {FILE}; echo -n {word}");
                (code, Verdict::Accepted, Some(0), word, file.get(..size).map(str::to_owned))
            }
            _ => {
                let code = format!("{wait}; echo {word}; echo {word} | tr 0-9 a-j > {FILE}");
                let digit = |c: char| c.to_digit(10).and_then(|digit| char::from_digit(digit + 10, 36));
                let letters: String = word.chars().map(|c| digit(c).unwrap_or(c)).collect();
                (code, Verdict::Accepted, Some(0), format!("{word}\n"), Some(format!("{letters}\n")))
            }
        };
        let id = format!("job-{seed}-{n}");
        let request = json!({"id": id, "runtime": runtime, "code": code, "outputs": [FILE],
            "limits": {"wall_ms": wall_ms, "cpu_ms": 30_000}, "deadline_ms": 3_600_000});
        Self {
            id,
            request: request.to_string().into_bytes(),
            verdict,
            exit_code,
            stdout_sha256: sha256(stdout.as_bytes()),
            file_sha256: file.map(|file| sha256(file.as_bytes())),
        }
    }

    /// What is to be said of a result for it.
    pub fn judge(&self, body: &[u8]) -> Judged {
        match serde_json::from_slice::<JobResult>(body) {
            Ok(result) => self.judge_result(&result),
            Err(error) => Judged::Wrong(format!("no result: {error}")),
        }
    }

    fn judge_result(&self, result: &JobResult) -> Judged {
        let wrong = |what: &str| Judged::Wrong(format!("{what}: {result:?}"));
        if result.id != self.id {
            return wrong("another id");
        }
        if result.status == Status::InfraError {
            let attempts = result.infra_error.as_ref().map_or_else(Vec::new, |error| error.attempts.clone());
            return match attempts.len() {
                ATTEMPTS => Judged::GaveUp(attempts),
                _ => wrong("infra_error without its attempts"),
            };
        }
        let [stage] = result.stages.as_slice() else { return wrong("not one stage") };
        if result.status != Status::Finished || result.verdict != Some(self.verdict) {
            return wrong("another verdict");
        }
        if self.exit_code.is_some() && stage.run.exit_code != self.exit_code {
            return wrong("another exit code");
        }
        let stdout = stage.run.stdout.content.decode().unwrap_or_default();
        if sha256(&stdout) != self.stdout_sha256 {
            return wrong("another output");
        }
        let files: Vec<&OutputFile> = result.outputs.iter().collect();
        match (&self.file_sha256, files.as_slice()) {
            (None, []) => Judged::Right,
            (Some(expected), [file]) if file.path == FILE && file.sha256 == *expected => Judged::Right,
            _ => wrong("other files"),
        }
    }
}

/// In hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: Duration = Duration::from_millis(100);

    #[test]
    fn a_number_of_a_seed_is_a_job_and_all_kinds_come() {
        let jobs: Vec<_> = (0..200).map(|n| KnownJob::new(5, n, "bash", SLACK)).collect();
        assert_eq!(jobs[7], KnownJob::new(5, 7, "bash", SLACK));
        assert_ne!(jobs[7].request, KnownJob::new(6, 7, "bash", SLACK).request);
        for verdict in [Verdict::Accepted, Verdict::NonzeroExit, Verdict::TimeLimit] {
            assert!(jobs.iter().any(|job| job.verdict == verdict), "{verdict:?}");
        }
    }

    #[test]
    fn what_the_jobs_print_is_what_bash_prints() {
        for n in 0..200 {
            let job = KnownJob::new(9, n, "bash", SLACK);
            let request: serde_json::Value = serde_json::from_slice(&job.request).unwrap();
            let code = request["code"].as_str().unwrap();
            let (_, code) = code.split_once("; ").unwrap();
            if job.verdict == Verdict::TimeLimit {
                continue;
            }
            let directory = tempfile::tempdir().unwrap();
            let output = std::process::Command::new("bash")
                .args(["-c", code])
                .current_dir(directory.path())
                .output()
                .unwrap();
            assert_eq!(output.status.code(), job.exit_code);
            assert_eq!(sha256(&output.stdout), job.stdout_sha256, "{code}");
            let file = std::fs::read(directory.path().join(FILE)).ok().map(|bytes| sha256(&bytes));
            assert_eq!(file, job.file_sha256, "{code}");
        }
    }
}
