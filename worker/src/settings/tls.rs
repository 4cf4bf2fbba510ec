//! Files of certificates in `[broker]` and `[redis]`.

use std::path::PathBuf;

use super::read::{Mistakes, Section};
use crate::tls::Certificates;

/// Reads what the section's `ca_file`, `certificate_file` and `key_file` name.
pub(super) fn certificates(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Certificates {
    let mut file = |name| section.text(name, mistakes).map(PathBuf::from);
    let (ca, certificate, key) = (file("ca_file"), file("certificate_file"), file("key_file"));
    Certificates::read(ca.as_deref(), certificate.as_deref(), key.as_deref()).unwrap_or_else(|error| {
        mistakes.note(section.path(), error);
        Certificates::default()
    })
}
