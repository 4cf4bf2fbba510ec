//! How a difference is shown.

/// Bytes of each side that are shown.
pub(super) const SHOWN_BYTES: usize = 60;

/// Bytes in quotes, escaped, cut where it gets long.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let cut = bytes.get(..SHOWN_BYTES).unwrap_or(bytes);
    let more = if bytes.len() > cut.len() { "…" } else { "" };
    let text = String::from_utf8_lossy(cut);
    format!("\"{}{more}\"", text.escape_debug())
}
