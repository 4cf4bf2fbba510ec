//! Where a result may go: the producer says, within what the operator allows.

use super::names::Names;

/// Which `reply_to` is honoured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyRule {
    names: Names,
    patterns: Vec<String>,
}

/// A `reply_to` that is not honoured, and what is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{shown:?} may not get results; allowed are queues that match {allowed}, and none of Hearth's own")]
pub struct BadReply {
    shown: String,
    allowed: String,
}

impl ReplyRule {
    /// Queues that match one of these patterns, in which `*` stands for any characters; never Hearth's own.
    pub fn new(names: Names, patterns: Vec<String>) -> Self {
        Self { names, patterns }
    }

    /// Checks a `reply_to`.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn check(&self, reply_to: &str) -> Result<(), BadReply> {
        let allowed =
            !self.names.owns(reply_to) && self.patterns.iter().any(|pattern| matches(pattern, reply_to));
        if allowed && !reply_to.is_empty() {
            return Ok(());
        }
        let shown = reply_to.chars().take(80).collect();
        Err(BadReply { shown, allowed: self.patterns.join(", ") })
    }
}

/// Whether a text matches a pattern with `*` for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "anything", true),
            ("replies.*", "replies.1", true),
            ("replies.*", "other.1", false),
            ("*.replies", "a.replies", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("aa*aa", "aaa", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn never_into_our_own_queues() {
        let rule = ReplyRule::new(Names::default(), vec!["*".into()]);
        assert_eq!(rule.check("mine"), Ok(()));
        assert_eq!(rule.check("amq.rabbitmq.reply-to.g1h2"), Ok(()));
        for bad in ["hearth.dead", "hearth", "", "hearth.run.python.normal.0"] {
            assert!(rule.check(bad).is_err(), "{bad}");
        }
        assert!(ReplyRule::new(Names::default(), Vec::new()).check("mine").is_err());
    }
}
