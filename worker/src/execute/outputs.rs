//! What an agent is asked for, for the outputs that a job names. Pure.
//!
//! An output may name a directory: all files in it are meant. Agents know patterns of files only, so each output is asked
//! for as one or two of those.

use hearth_schemas::limits::{OUTPUT_GLOBS_MAX, PATH_MAX_BYTES};

/// What comes after a directory for all files in it.
const ALL_WITHIN: &str = "/**";

/// The patterns for all outputs of a job, at most [`OUTPUT_GLOBS_MAX`] where there are no more outputs.
pub(super) fn asked(outputs: &[String]) -> Vec<String> {
    let all: Vec<String> = outputs.iter().flat_map(|output| of(output, true)).collect();
    match all.len() > OUTPUT_GLOBS_MAX {
        true => outputs.iter().flat_map(|output| of(output, false)).collect(),
        false => all,
    }
}

/// The outputs of which nothing was there, when nothing matched these patterns.
pub(super) fn missing(outputs: &[String], unmatched: &[String]) -> Vec<String> {
    let asked = asked(outputs);
    let none = |output: &&String| {
        of(output, true).iter().filter(|pattern| asked.contains(pattern)).all(|one| unmatched.contains(one))
    };
    outputs.iter().filter(none).cloned().collect()
}

/// The patterns for one output. `or_directory`: what it names may be a directory although it does not say so.
fn of(output: &str, or_directory: bool) -> Vec<String> {
    if let Some(directory) = output.strip_suffix('/') {
        return vec![format!("{directory}{ALL_WITHIN}")];
    }
    let last = output.rsplit('/').next().unwrap_or(output);
    let plain = !last.contains(['*', '?', '[']);
    let mut patterns = vec![output.to_owned()];
    if or_directory && plain && output.len() + ALL_WITHIN.len() <= PATH_MAX_BYTES {
        patterns.push(format!("{output}{ALL_WITHIN}"));
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(|one| (*one).to_owned()).collect()
    }

    #[test]
    fn what_may_be_a_directory_is_asked_for_as_one_too() {
        let outputs = strings(&["a", "b/c/", "*.png", "d*/e", "f/**"]);
        assert_eq!(asked(&outputs), ["a", "a/**", "b/c/**", "*.png", "d*/e", "d*/e/**", "f/**"]);
        let long = "x/".repeat(PATH_MAX_BYTES / 2 - 1) + "x";
        assert_eq!(asked(std::slice::from_ref(&long)), [long]);
    }

    #[test]
    fn an_output_is_missing_when_nothing_matched_any_of_its_patterns() {
        let outputs = strings(&["a", "b", "c/", "*.d"]);
        let unmatched = strings(&["a", "b", "b/**", "c/**", "*.d"]);
        assert_eq!(missing(&outputs, &unmatched), ["b", "c/", "*.d"]);
        assert_eq!(missing(&outputs, &[]), Vec::<String>::new());
    }

    #[test]
    fn no_more_patterns_are_asked_for_than_an_agent_takes() {
        let many: Vec<String> = (0..OUTPUT_GLOBS_MAX).map(|n| format!("f{n}")).collect();
        assert_eq!(asked(&many), many);
        assert_eq!(missing(&many, &many[3..]), many[3..], "as it was asked for");
        let half = &many[..OUTPUT_GLOBS_MAX / 2];
        assert_eq!(asked(half).len(), OUTPUT_GLOBS_MAX);
    }
}
