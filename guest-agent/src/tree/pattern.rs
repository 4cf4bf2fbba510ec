//! Patterns for files: `*`, `?` and `[…]` within a component, `**` across components. Pure.
//!
//! A walk carries a [`State`] from directory to directory, so that it only enters what can still match.

use hearth_schemas::limits::PATH_MAX_BYTES;

/// What is wrong with a pattern.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternError {
    #[error("is empty, absolute, or longer than {PATH_MAX_BYTES} bytes")]
    Shape,
    #[error("has an empty component, or one that is '.' or '..'")]
    Component,
    #[error("has a '[' without its ']'")]
    Class,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Many,
    /// `[…]`: ranges, and whether they are meant the other way round.
    Class(Vec<(char, char)>, bool),
}

#[derive(Debug, PartialEq, Eq)]
enum Component {
    /// `**`
    Any,
    Name(Vec<Token>),
}

/// Patterns, numbered as given.
#[derive(Debug)]
pub(super) struct Patterns(Vec<Vec<Component>>);

/// How far each pattern has come in some directory: pairs of a pattern and the component that it expects next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State(Vec<(usize, usize)>);

/// What one more component means.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Patterns that match a file of this name, in order.
    pub(super) matched: Vec<usize>,
    /// For a directory of this name: `None` when nothing in it can match.
    pub(super) within: Option<State>,
}

impl Patterns {
    /// Parses them. An error comes with the number of its pattern.
    pub(super) fn parse(globs: &[String]) -> Result<Self, (usize, PatternError)> {
        let parsed =
            globs.iter().enumerate().map(|(number, glob)| parse(glob).map_err(|error| (number, error)));
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// The state at the root.
    pub(super) fn start(&self) -> State {
        State((0..self.0.len()).flat_map(|number| self.closure(number, 0)).collect())
    }

    /// One component further.
    pub(super) fn step(&self, state: &State, name: &str) -> Step {
        let (mut matched, mut within) = (Vec::new(), Vec::new());
        for (number, at) in state.0.iter().copied() {
            let Some((pattern, component)) = self.0.get(number).and_then(|p| Some((p, p.get(at)?))) else {
                continue;
            };
            let last = at + 1 == pattern.len();
            let next = match component {
                Component::Any => at,
                Component::Name(tokens) if matches_name(tokens, name) => at + 1,
                Component::Name(_) => continue,
            };
            if last {
                matched.push(number);
            }
            within.extend(self.closure(number, next));
        }
        matched.dedup();
        within.sort_unstable();
        within.dedup();
        Step { matched, within: (!within.is_empty()).then_some(State(within)) }
    }

    /// `**` may stand for nothing: then what follows it is expected too.
    fn closure(&self, number: usize, at: usize) -> impl Iterator<Item = (usize, usize)> {
        let components = self.0.get(number).map_or(&[][..], Vec::as_slice);
        let rest = components.get(at..).unwrap_or_default();
        let skipped = rest.iter().take_while(|component| **component == Component::Any).count();
        (at..=at + skipped)
            .filter(|at| *at < components.len())
            .map(|at| (number, at))
            .collect::<Vec<_>>()
            .into_iter()
    }
}

fn parse(glob: &str) -> Result<Vec<Component>, PatternError> {
    if glob.is_empty() || glob.starts_with('/') || glob.len() > PATH_MAX_BYTES {
        return Err(PatternError::Shape);
    }
    let component = |text: &str| match text {
        "" | "." | ".." => Err(PatternError::Component),
        "**" => Ok(Component::Any),
        text => tokens(text).map(Component::Name),
    };
    glob.split('/').map(component).collect()
}

fn tokens(text: &str) -> Result<Vec<Token>, PatternError> {
    let mut rest = text.chars();
    let mut tokens = Vec::new();
    while let Some(next) = rest.next() {
        tokens.push(match next {
            '?' => Token::One,
            '*' => Token::Many,
            '[' => {
                let (token, behind) = class(rest.as_str()).ok_or(PatternError::Class)?;
                rest = behind.chars();
                token
            }
            other => Token::Char(other),
        });
    }
    Ok(tokens)
}

/// Reads a class after its `[`. `]` stands for itself in the first place, `-` at either end.
fn class(text: &str) -> Option<(Token, &str)> {
    let negated = text.starts_with(['!', '^']);
    let body = if negated { text.get(1..)? } else { text };
    let first = body.chars().next()?.len_utf8();
    let end = first + body.get(first..)?.find(']')?;
    let characters: Vec<char> = body.get(..end)?.chars().collect();
    let mut ranges = Vec::new();
    let mut rest = characters.as_slice();
    while let [from, tail @ ..] = rest {
        match tail {
            ['-', to, tail @ ..] => {
                ranges.push((*from, *to));
                rest = tail;
            }
            _ => {
                ranges.push((*from, *from));
                rest = tail;
            }
        }
    }
    Some((Token::Class(ranges, negated), body.get(end + 1..)?))
}

/// Whether a name matches. Quadratic at worst: only the last `*` is ever tried again.
fn matches_name(tokens: &[Token], name: &str) -> bool {
    let (mut tokens_left, mut name_left) = (tokens, name.chars());
    let mut retry: Option<(&[Token], std::str::Chars<'_>)> = None;
    loop {
        let stuck = match tokens_left {
            [] if name_left.as_str().is_empty() => return true,
            [] => true,
            [Token::Many, behind @ ..] => {
                retry = Some((behind, name_left.clone()));
                tokens_left = behind;
                false
            }
            [token, behind @ ..] => match name_left.next() {
                None => return false,
                Some(character) if token.takes(character) => {
                    tokens_left = behind;
                    false
                }
                Some(_) => true,
            },
        };
        if stuck {
            let Some((behind, from)) = &mut retry else { return false };
            if from.next().is_none() {
                return false;
            }
            (tokens_left, name_left) = (*behind, from.clone());
        }
    }
}

impl Token {
    fn takes(&self, character: char) -> bool {
        match self {
            Self::Char(own) => *own == character,
            Self::One => true,
            Self::Many => false,
            Self::Class(ranges, negated) => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&character)) != *negated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(glob: &str, path: &str) -> bool {
        let patterns = Patterns::parse(&[glob.to_owned()]).unwrap();
        let mut state = Some(patterns.start());
        let mut matched = vec![];
        for component in path.split('/') {
            let Some(step) = state.map(|state| patterns.step(&state, component)) else { return false };
            (matched, state) = (step.matched, step.within);
        }
        matched == [0]
    }

    #[test]
    fn wildcards_stay_within_a_component_and_double_stars_do_not() {
        for (glob, path) in [
            ("a", "a"),
            ("*.png", "x.png"),
            ("*", ".hidden"),
            ("plots/*.png", "plots/x.png"),
            ("**", "a"),
            ("**", "a/b/c"),
            ("**/x", "x"),
            ("**/x", "a/b/x"),
            ("a/**/b", "a/b"),
            ("a/**/b", "a/x/y/b"),
            ("a/**", "a/x/y"),
            ("a/**/**/b", "a/b"),
            ("?", "ü"),
            ("a?c*d", "abcxxdxd"),
            ("[a-c]x", "bx"),
            ("[!a-c]x", "dx"),
            ("[]x]", "]"),
            ("[a-]", "-"),
            ("a**b", "axxb"),
        ] {
            assert!(matches(glob, path), "{glob} {path}");
        }
        for (glob, path) in [
            ("*.png", "a/x.png"),
            ("a", "a/b"),
            ("a/b", "a"),
            ("a/**", "a"),
            ("**/x", "x/y"),
            ("?", ""),
            ("?", "ab"),
            ("[a-c]", "d"),
            ("[!a]", "a"),
            ("a*b", "abc"),
        ] {
            assert!(!matches(glob, path), "{glob} {path}");
        }
    }

    #[test]
    fn directories_that_cannot_match_are_not_entered() {
        let patterns = Patterns::parse(&["a/*.c".into(), "result".into()]).unwrap();
        let start = patterns.start();
        assert!(patterns.step(&start, "a").within.is_some());
        assert_eq!(patterns.step(&start, "b"), Step { matched: vec![], within: None });
        assert_eq!(patterns.step(&start, "result"), Step { matched: vec![1], within: None });
    }

    #[test]
    fn what_is_no_pattern_is_refused_by_its_number() {
        for (glob, error) in [
            ("", PatternError::Shape),
            ("/etc", PatternError::Shape),
            ("../x", PatternError::Component),
            ("a//b", PatternError::Component),
            ("a/", PatternError::Component),
            ("[a", PatternError::Class),
            ("[]", PatternError::Class),
            ("[", PatternError::Class),
        ] {
            assert_eq!(Patterns::parse(&["ok".into(), glob.into()]).unwrap_err(), (1, error), "{glob}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_meets_any_name(glob in "[a\\[\\]!?*/.-]{0,40}", path in "[a/.]{0,40}") {
            if let Ok(patterns) = Patterns::parse(&[glob]) {
                let mut state = Some(patterns.start());
                for component in path.split('/') {
                    state = state.and_then(|state| patterns.step(&state, component).within);
                }
            }
        }

        #[test]
        fn a_path_without_wildcards_matches_itself(path in "[a-z]{1,5}(/[a-z]{1,5}){0,4}") {
            prop_assert!(matches(&path, &path));
            prop_assert!(matches("**", &path));
        }
    }
}
