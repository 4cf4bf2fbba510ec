//! What a worker tells about itself, and to whom.

use super::read::{Mistakes, Section};

/// See [`super::Settings::telemetry`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// Which log records are written, as tracing-subscriber's `EnvFilter` reads it.
    pub log: Option<String>,
    /// Where spans of jobs go, by OTLP over HTTP, with its path.
    pub otlp_endpoint: Option<String>,
}

pub(super) fn telemetry(mut section: Section<'_>, mistakes: &mut Mistakes) -> TelemetrySettings {
    let log = section.field("log", mistakes, |value| {
        let filter = value.as_str().ok_or_else(|| format!("{value} given; allowed is a text"))?;
        let parsed = tracing_subscriber::EnvFilter::try_new(filter);
        parsed.map(|_| filter.to_owned()).map_err(|error| format!("{value} given: {error}; such as \"info\""))
    });
    let otlp_endpoint = section.field("otlp_endpoint", mistakes, |value| {
        value.as_str().and_then(endpoint).ok_or_else(|| {
            format!(
                "{value} given; allowed is http://host:4318 (only http: put a collector beside the worker)"
            )
        })
    });
    section.end(mistakes);
    TelemetrySettings { log, otlp_endpoint }
}

/// The address with a path: that of traces where none is given.
fn endpoint(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'@';
    if authority.is_empty() || !authority.bytes().all(plain) {
        return None;
    }
    Some(format!("http://{authority}/{}", if path.is_empty() { "v1/traces" } else { path }))
}

#[cfg(test)]
mod tests {
    use super::endpoint;

    #[test]
    fn an_endpoint_gets_its_path() {
        assert_eq!(endpoint("http://c:4318").as_deref(), Some("http://c:4318/v1/traces"));
        assert_eq!(endpoint("http://c:4318/").as_deref(), Some("http://c:4318/v1/traces"));
        assert_eq!(endpoint("http://c/x/y").as_deref(), Some("http://c/x/y"));
        for wrong in ["https://c", "c:4318", "http://", "http://a b"] {
            assert_eq!(endpoint(wrong), None, "{wrong}");
        }
    }
}
