//! The table `[redis]`.

use super::{
    read::{Mistakes, Section},
    tls::certificates,
};
use crate::tls::Certificates;

/// See [`Settings::redis`].
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// Where it is, with its password.
    pub url: String,
    /// What stands before every key.
    pub prefix: String,
    /// Whether a server that may lose data is good enough.
    pub accept_loss: bool,
    /// For `rediss://`.
    pub certificates: Certificates,
}

impl std::fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSettings").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

pub(super) fn redis(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<RedisSettings> {
    let url = section.text("url", mistakes);
    let certificates = certificates(&mut section, mistakes);
    let accept_loss = section.flag("accept_loss", false, mistakes);
    let prefix = section.text("prefix", mistakes).unwrap_or_else(|| "hearth:".to_owned());
    section.end(mistakes);
    let url = url?;
    if !certificates.is_empty() && !url.starts_with("rediss://") {
        mistakes.note("redis.url", "certificates are for rediss://, which this is not");
    }
    Some(RedisSettings { url, prefix, accept_loss, certificates })
}
