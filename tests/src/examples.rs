//! The example jobs, and what each must come to in a real VM.

#![allow(clippy::panic, reason = "the harness of tests")]

use std::{collections::BTreeMap, fs};

use hearth_schemas::result::{
    Captured, Cause, JobResult, OutputContent, OutputFile, Payload, StageReport, Status, Verdict,
};
use serde::Deserialize;

use crate::workspace;

/// One example.
#[derive(Debug)]
pub struct Example {
    /// The file's name without its extension.
    pub name: String,
    /// The request.
    pub request: Vec<u8>,
    /// What it must come to.
    pub expected: Expected,
}

/// What an example must come to: one table of `EXPECTED.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    verdict: Verdict,
    cause: Option<Cause>,
    stages: Vec<ExpectedStage>,
    #[serde(default)]
    outputs: BTreeMap<String, ExpectedOutput>,
    #[serde(default)]
    missing_outputs: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedStage {
    name: String,
    verdict: Verdict,
    cause: Option<Cause>,
    exit_code: Option<i32>,
    stdout: String,
    stderr_contains: Option<String>,
    #[serde(default)]
    cases: Vec<Verdict>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ExpectedOutput {
    Text(String),
    Base64 { base64: String },
}

/// Every example, by name.
pub fn examples() -> Vec<Example> {
    let folder = workspace().join("schemas/examples");
    let read = |name: &str| {
        fs::read(folder.join(name)).unwrap_or_else(|error| panic!("schemas/examples/{name}: {error}"))
    };
    let expected = String::from_utf8(read("EXPECTED.toml")).unwrap_or_default();
    let expected: BTreeMap<String, Expected> =
        toml::from_str(&expected).unwrap_or_else(|error| panic!("EXPECTED.toml: {error}"));
    expected
        .into_iter()
        .map(|(name, expected)| Example { request: read(&format!("{name}.json")), name, expected })
        .collect()
}

impl Expected {
    /// What differs in a result, one line each; empty when it is as expected.
    pub fn differences(&self, result: &JobResult) -> Vec<String> {
        let mut differences = Vec::new();
        differ(&mut differences, "status", &Status::Finished, &result.status);
        differ(&mut differences, "verdict", &Some(self.verdict), &result.verdict);
        differ(&mut differences, "cause", &self.cause, &result.cause);
        differ(&mut differences, "stages", &self.stages.len(), &result.stages.len());
        for (expected, stage) in self.stages.iter().zip(&result.stages) {
            expected.differences(stage, &mut differences);
        }
        let outputs: BTreeMap<&String, OutputContent> =
            self.outputs.iter().map(|(path, expected)| (path, expected.content())).collect();
        let content = |output: &OutputFile| output.content.clone();
        let got = result.outputs.iter().map(|output| (&output.path, content(output))).collect();
        differ(&mut differences, "outputs", &outputs, &got);
        differ(&mut differences, "missing_outputs", &self.missing_outputs, &result.missing_outputs);
        differences
    }
}

impl ExpectedStage {
    fn differences(&self, stage: &StageReport, differences: &mut Vec<String>) {
        let at = |what: &str| format!("stage {}: {what}", self.name);
        let run = &stage.run;
        differ(differences, &at("name"), &self.name, &stage.name);
        differ(differences, &at("verdict"), &self.verdict, &run.verdict);
        differ(differences, &at("cause"), &self.cause, &run.cause);
        differ(differences, &at("exit_code"), &self.exit_code, &run.exit_code);
        let verdicts = stage.cases.iter().map(|case| case.run.verdict).collect();
        differ(differences, &at("cases"), &self.cases, &verdicts);
        let bytes = self.stdout.len() as u64;
        let content = Payload::Text(self.stdout.clone());
        let stdout = Captured { content, tail: None, bytes, truncated_bytes: 0 };
        differ(differences, &at("stdout"), &stdout, &run.stdout);
        if let Some(part) = &self.stderr_contains
            && !matches!(&run.stderr.content, Payload::Text(text) if text.contains(part))
        {
            differences.push(format!("{} lacks {part:?}: {:?}", at("stderr"), run.stderr));
        }
    }
}

impl ExpectedOutput {
    fn content(&self) -> OutputContent {
        match self {
            Self::Text(text) => OutputContent::Text(text.clone()),
            Self::Base64 { base64 } => OutputContent::Base64(base64.clone()),
        }
    }
}

fn differ<T: PartialEq + std::fmt::Debug>(differences: &mut Vec<String>, what: &str, expected: &T, got: &T) {
    if expected != got {
        differences.push(format!("{what}: expected {expected:?}, got {got:?}"));
    }
}
