//! A result that is smaller than what there was to say: which parts go, and where all of it is. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Captured, JobResult, Omitted, OutputContent, RunReport};

/// What was done to a result that was larger than a message should be. Streams are cut to their starts and ends, and
/// contents of outputs are left out; verdicts, sizes and digests stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Reduced {
    /// The whole result is kept in the operator's store: this very contract, as JSON.
    ByReference {
        /// Where, such as `s3://bucket/key`.
        object: String,
        /// SHA-256 of its bytes in hex.
        #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
        sha256: String,
        /// Its size in bytes.
        size_bytes: u64,
    },
    /// What is not here is gone.
    Cut {
        /// Size of the whole result as JSON, in bytes.
        size_bytes: u64,
    },
}

/// How much is kept of each start and each end of a stream, from the mildest on. An output stays while it is not larger
/// than both.
const KEPT_BYTES: [usize; 8] = [32 << 10, 16 << 10, 8 << 10, 4 << 10, 1 << 10, 256, 64, 0];
/// What is kept of a message for people, in characters.
const MESSAGE_CHARS: usize = 256;

impl JobResult {
    /// The same with less of its streams and outputs, in JSON of `max_bytes` where that can be reached: what a job has
    /// many of (cases, names of outputs) is never left out. `reduced` says what was done.
    #[must_use]
    pub fn reduced(&self, max_bytes: usize, reduced: Reduced) -> JobResult {
        let omitted = match reduced {
            Reduced::ByReference { .. } => Omitted::ByReference,
            Reduced::Cut { .. } => Omitted::NoRoom,
        };
        let mut smaller = self.clone();
        smaller.reduced = Some(reduced);
        for kept in KEPT_BYTES {
            for stage in &mut smaller.stages {
                cut(&mut stage.run, kept);
                stage.cases.iter_mut().for_each(|case| cut(&mut case.run, kept));
            }
            for output in &mut smaller.outputs {
                let inline = matches!(output.content, OutputContent::Text(_) | OutputContent::Base64(_));
                if inline && output.size_bytes > 2 * kept as u64 {
                    output.content = OutputContent::Omitted(omitted);
                }
            }
            if serde_json::to_vec(&smaller).is_ok_and(|json| json.len() <= max_bytes) {
                break;
            }
        }
        smaller
    }
}

fn cut(run: &mut RunReport, kept: usize) {
    for stream in [&mut run.stdout, &mut run.stderr] {
        if let Some(shorter) = Captured::cut(stream, kept, kept) {
            *stream = shorter;
        }
    }
    if let Some(message) = &mut run.message
        && let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS)
    {
        message.truncate(end);
        message.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limits::{CASES_MAX, NAME_MAX_BYTES, OUTPUT_FILES_MAX, PATH_MAX_BYTES, RESULT_LEAST_BYTES},
        result::{Capture, CaseReport, OutputFile, Payload, StageReport, Status, UsageReport, Verdict},
    };

    fn whole() -> Reduced {
        Reduced::Cut { size_bytes: 1 }
    }

    fn stream(bytes: &[u8]) -> Captured {
        let mut capture = Capture::default();
        capture.push(bytes);
        capture.finish()
    }

    fn output(path: &str, content: Vec<u8>) -> OutputFile {
        OutputFile {
            path: path.to_owned(),
            mode: "0644".to_owned(),
            size_bytes: content.len() as u64,
            sha256: "0".repeat(64),
            content: Payload::from(content).into(),
        }
    }

    fn result(runs: usize, bytes: &[u8]) -> JobResult {
        let mut result = JobResult::new("id", "tenant", "python", Status::Finished);
        let run = RunReport {
            stdout: stream(bytes),
            stderr: stream(bytes),
            ..RunReport::not_run(Verdict::Accepted, None)
        };
        let stage = |n| StageReport { name: format!("s{n}"), run: run.clone(), cases: Vec::new() };
        result.stages = (0..runs).map(stage).collect();
        result
    }

    fn size(result: &JobResult) -> usize {
        serde_json::to_vec(result).unwrap().len()
    }

    #[test]
    fn streams_keep_their_ends_and_say_what_is_missing() {
        let text: String = (0..20_000).map(|n| format!("{n}\n")).collect();
        let smaller = result(2, text.as_bytes()).reduced(64 << 10, whole());
        assert!(size(&smaller) <= 64 << 10, "{}", size(&smaller));
        for stage in &smaller.stages {
            let stdout = &stage.run.stdout;
            assert_eq!(stdout.bytes, text.len() as u64);
            let (Payload::Text(head), Some(Payload::Text(tail))) = (&stdout.content, &stdout.tail) else {
                panic!("{stdout:?}")
            };
            assert!(text.starts_with(head.as_str()) && text.ends_with(tail.as_str()) && head.len() >= 4096);
            assert_eq!(stdout.truncated_bytes, (text.len() - head.len() - tail.len()) as u64);
        }
    }

    #[test]
    fn outputs_go_before_small_ones_do_and_keep_size_and_digest() {
        let mut all = result(1, b"short");
        all.outputs = vec![output("large", vec![255; 100_000]), output("small", b"s".to_vec())];
        let smaller = all.reduced(20_000, whole());
        let [large, small] = &smaller.outputs[..] else { panic!("{smaller:?}") };
        assert_eq!(large.content, OutputContent::Omitted(Omitted::NoRoom));
        assert_eq!((large.size_bytes, &large.sha256), (100_000, &all.outputs[0].sha256));
        assert_eq!(small, &all.outputs[1]);
        assert_eq!(smaller.stages, all.stages, "what is short stays as it is");
        let json = serde_json::to_value(large).unwrap();
        assert_eq!(json["omitted"], "no_room");
        assert_eq!(serde_json::from_value::<OutputFile>(json).unwrap(), *large);
    }

    #[test]
    fn the_largest_result_there_can_be_fits_the_smallest_bound() {
        // Control characters take six bytes in JSON.
        let mut all = result(16, &[1; 300_000]);
        let run = RunReport {
            message: Some("\u{1}".repeat(10_000)),
            stdout: stream(&[1; 16 << 10]),
            stderr: stream(&[1; 16 << 10]),
            usage: Some(UsageReport::default()),
            ..RunReport::not_run(Verdict::Accepted, None)
        };
        let case = |n: usize| CaseReport { name: format!("{n:0NAME_MAX_BYTES$}"), run: run.clone() };
        all.stages[0].cases = (0..CASES_MAX).map(case).collect();
        let path = "\u{1}".repeat(PATH_MAX_BYTES);
        all.outputs = (0..OUTPUT_FILES_MAX).map(|_| output(&path, vec![1; 65_536])).collect();
        all.missing_outputs = vec![path; 64];
        let smaller = all.reduced(RESULT_LEAST_BYTES, whole());
        assert!(size(&smaller) <= RESULT_LEAST_BYTES, "{}", size(&smaller));
    }
}
