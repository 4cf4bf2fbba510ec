//! Against plain comparisons of whole strings, however the output is cut into pieces.

use proptest::prelude::*;

use super::*;

const LOOSE: FloatTolerance = FloatTolerance { abs: 0.01, rel: 0.1 };

fn differs(how: Comparison, expected: &str, got: &str) -> Option<String> {
    let mut comparer = Comparer::new(how, &Bytes::copy_from_slice(expected.as_bytes()));
    comparer.push(got.as_bytes());
    comparer.finish()
}

/// As a program without any concern for memory would do it.
fn plainly(how: Comparison, expected: &str, got: &str) -> bool {
    let space = [' ', '\t', '\n', '\r', '\u{b}', '\u{c}'];
    let trimmed = |text: &str| {
        let lines: Vec<_> = text.split('\n').map(|line| line.trim_end_matches(space)).collect();
        lines.join("\n").trim_end_matches('\n').to_owned()
    };
    let words = |text: &str| {
        text.split(space).filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect::<Vec<String>>()
    };
    match how {
        Comparison::Exact => expected == got,
        Comparison::Trim => trimmed(expected) == trimmed(got),
        Comparison::Tokens => words(expected) == words(got),
        Comparison::Float(tolerance) => {
            let (expected, got) = (words(expected), words(got));
            let close =
                |(expected, got): (&String, &String)| match (expected.parse::<f64>(), got.parse::<f64>()) {
                    (Ok(e), Ok(g)) if e.is_finite() && g.is_finite() => {
                        expected == got || (g - e).abs() <= tolerance.abs.max(tolerance.rel * e.abs())
                    }
                    (Ok(e), Ok(g)) => e == g || (e.is_nan() && g.is_nan()),
                    _ => expected == got,
                };
            expected.len() == got.len() && expected.iter().zip(&got).all(close)
        }
    }
}

fn said(how: Comparison, expected: &str, got: &str) -> String {
    differs(how, expected, got).unwrap()
}

#[test]
fn a_difference_says_where_it_is() {
    assert_eq!(
        said(Comparison::Tokens, "1 2\n3 4 5\n", "1 2\n3 7 5\n"),
        "line 2, token 2: expected \"4\", got \"7\""
    );
    assert_eq!(said(Comparison::Tokens, "a b", "a"), "line 1, token 2: expected \"b\", got the end");
    assert_eq!(said(Comparison::Tokens, "a", "a\n\nb c"), "line 3, token 1: expected the end, got \"b\"");
    assert_eq!(
        said(Comparison::Exact, "one\ntwo\n", "one\ntoo\nthree\n"),
        "line 2, column 2: expected \"two\", got \"too\""
    );
    assert_eq!(said(Comparison::Exact, "a\n", "a"), "line 1, column 2: expected \"a\\n\", got the end");
    assert_eq!(said(Comparison::Exact, "a", "a\n"), "line 1, column 2: expected the end, got \"a\\n\"");
    assert_eq!(
        said(Comparison::Trim, "a  b\nc", "a  b \n\nc"),
        "line 2, column 1: expected \"c\", got \"\\n\""
    );
    let long = said(Comparison::Tokens, &"x".repeat(100_000), &"y".repeat(1 << 20));
    assert!(long.len() < 200 && long.contains('…'), "{long}");
    let control = said(Comparison::Exact, "\u{1b}[1m", &"\0".repeat(10_000));
    assert!(control.len() < 1000 && !control.contains(['\u{1b}', '\0']), "{control}");
}

#[test]
fn white_space_at_ends_does_not_count_where_it_is_trimmed() {
    for got in ["a b\nc", "a b  \nc\n\n \n", "a b\r\nc\r\n", "a b\t\nc \n"] {
        assert_eq!(differs(Comparison::Trim, "a b\nc\n", got), None, "{got:?}");
        assert!(got == "a b\nc\n" || differs(Comparison::Exact, "a b\nc\n", got).is_some());
    }
    for got in ["a  b\nc", " a b\nc", "a b\n\nc", "\na b\nc", "a b c", "a b\n c"] {
        assert!(differs(Comparison::Trim, "a b\nc\n", got).is_some(), "{got:?}");
        assert_eq!(differs(Comparison::Tokens, "a b\nc\n", got), None, "{got:?}");
    }
}

#[test]
fn numbers_may_differ_by_either_tolerance_and_words_not_at_all() {
    let same = |expected, got| differs(Comparison::Float(LOOSE), expected, got).is_none();
    assert!(same("1.0", "1.01") && same("100", "109.9") && same("-0.005", "0.005") && same("1e3", "1001"));
    assert!(!same("1.0", "1.2") && !same("0", "0.02") && !same("100", "111"));
    assert!(same("nan", "NaN") && !same("nan", "1") && !same("1", "nan"));
    assert!(same("inf", "Infinity") && !same("inf", "-inf") && !same("inf", "1e308") && !same("1", "inf"));
    assert!(same("yes 1", "yes 1.001") && !same("yes", "no") && !same("1", "one") && !same("1", "1 2"));
    let none = Comparison::Float(FloatTolerance::default());
    assert_eq!(differs(none, "1", "1.0"), None, "the same number");
    assert!(differs(none, "1", "1.0000001").is_some());
    let digits = "1".repeat(2000);
    assert_eq!(differs(none, &digits, &digits), None, "a word, and the same one");
}

fn how() -> impl Strategy<Value = Comparison> {
    let float =
        (0.0..2.0_f64, 0.0..1.0_f64).prop_map(|(abs, rel)| Comparison::Float(FloatTolerance { abs, rel }));
    prop_oneof![
        Just(Comparison::Exact),
        Just(Comparison::Trim),
        Just(Comparison::Tokens),
        Just(Comparison::Float(LOOSE)),
        float
    ]
}

/// Text in which much is nearly the same.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(" "),
        Just("\n"),
        Just("\n\n"),
        Just(" \n"),
        Just("\r\n"),
        Just("\t"),
        Just("a"),
        Just("b"),
        Just("ab"),
        Just("1"),
        Just("1.05"),
        Just("2"),
        Just("-1e0"),
        Just("nan"),
        Just("inf"),
        Just("é"),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn pieces_are_compared_as_the_whole_is(
        how in how(),
        expected in text(),
        other in text(),
        keeps in 0..30_usize,
        cuts in proptest::collection::vec(1..6_usize, 1..40),
    ) {
        // Mostly the expected text with another end, so that much of it matches.
        let keeps = expected.char_indices().map(|(at, _)| at).nth(keeps).unwrap_or(expected.len());
        for got in [format!("{}{other}", &expected[..keeps]), other.clone(), expected.clone()] {
            let mut comparer = Comparer::new(how, &Bytes::copy_from_slice(expected.as_bytes()));
            let (mut rest, mut cuts) = (got.as_bytes(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                comparer.push(piece);
                rest = after;
            }
            let said = comparer.finish();
            prop_assert_eq!(said.is_none(), plainly(how, &expected, &got), "{:?} {:?} {:?}", said, expected, got);
        }
    }
}
