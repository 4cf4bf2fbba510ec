//! How an error of ours becomes an answer.

use std::error::Error;

use hearth_schemas::guest::messages::{Fault, FaultKind, Reply, reply};
use rustix::io::Errno;

use crate::console::Chain;

/// Longest message of a fault, in bytes.
const MESSAGE_MAX_BYTES: usize = 1024;

/// An error that is answered with a [`Fault`].
pub(crate) trait Refusal: Error {
    /// What kind of fault it is.
    fn kind(&self) -> FaultKind;
}

/// The answer to a request that failed.
pub(crate) fn reply(error: &impl Refusal) -> Reply {
    let fault = Fault { kind: error.kind() as i32, message: cut(Chain(error).to_string()) };
    Reply { body: Some(reply::Body::Fault(fault)) }
}

fn cut(mut message: String) -> String {
    if message.len() <= MESSAGE_MAX_BYTES {
        return message;
    }
    let cut_at = (0..=MESSAGE_MAX_BYTES).rev().find(|at| message.is_char_boundary(*at));
    message.truncate(cut_at.unwrap_or(message.len()));
    message
}

/// What a full disk says, whoever asks.
pub(crate) fn is_no_space(errno: Errno) -> bool {
    errno == Errno::NOSPC || errno == Errno::DQUOT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Long(String);

    impl Refusal for Long {
        fn kind(&self) -> FaultKind {
            FaultKind::Path
        }
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let answer = reply(&Long("é".repeat(1000)));
        let Some(reply::Body::Fault(fault)) = answer.body else { panic!("a fault") };
        assert_eq!(fault.kind, FaultKind::Path as i32);
        assert_eq!(fault.message.len(), MESSAGE_MAX_BYTES);
    }
}
