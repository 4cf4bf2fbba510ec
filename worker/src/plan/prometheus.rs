//! A trace out of a Prometheus server: arrival rates by runtime, over time, and jobs made up to them.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout};
use url::Url;

use super::trace::Trace;
use hearth_pool::{pool::Lane, scale::sim::Job};

/// Jobs that arrived, per second, as Hearth measures them.
pub const QUERY: &str = "sum by (runtime) (rate(hearth_pool_claims_total[1m]))";
/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much it may answer.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Jobs beyond this are not made up.
const JOBS_MAX: f64 = 50e6;

/// What to ask.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    /// Where the server is, as `http://host:port`.
    pub url: String,
    /// A query whose series have a label `runtime` and whose values are jobs per second.
    pub query: String,
    /// The first second since 1970.
    pub from: i64,
    /// The last.
    pub to: i64,
    /// Between two values.
    pub step: Duration,
}

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum PrometheusError {
    /// The address is none.
    #[error("{url:?} is no address of a Prometheus server; allowed is http://HOST:PORT: {what}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// It cannot be reached.
    #[error("{url} cannot be reached")]
    Connect {
        /// The server.
        url: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It takes too long.
    #[error("{0} did not answer within {PATIENCE:?}")]
    Late(String),
    /// The conversation failed.
    #[error("asking {url}: {what}")]
    Http {
        /// The server.
        url: String,
        /// Why.
        what: String,
    },
    /// It says no.
    #[error("{url} says {status}: {what}")]
    Refused {
        /// The server.
        url: String,
        /// HTTP's number.
        status: u16,
        /// Its reason.
        what: String,
    },
    /// The answer is of no use.
    #[error("the answer to {query}: {what}")]
    Answer {
        /// What was asked.
        query: String,
        /// Why.
        what: String,
    },
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    kind: String,
    result: Vec<Series>,
}

#[derive(Debug, Deserialize)]
struct Series {
    metric: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

/// Asks for rates and makes up jobs to them: Poisson arrivals, exponential durations of that mean.
///
/// # Errors
/// The server cannot be asked, or what it answers are no rates by runtime.
pub async fn trace(range: &Range, duration: Duration, seed: u64) -> Result<Trace, PrometheusError> {
    let answer = timeout(PATIENCE, ask(range)).await;
    let answer = answer.map_err(|_| PrometheusError::Late(range.url.clone()))??;
    jobs(range, answer, duration, seed)
        .map_err(|what| PrometheusError::Answer { query: range.query.clone(), what })
}

async fn ask(range: &Range) -> Result<Answer, PrometheusError> {
    let (url, host, port) = address(range)?;
    let to = format!("{host}:{port}");
    let stream = TcpStream::connect(&to).await;
    let stream = stream.map_err(|source| PrometheusError::Connect { url: range.url.clone(), source })?;
    let failed = |error: &dyn std::fmt::Display| PrometheusError::Http {
        url: range.url.clone(),
        what: error.to_string(),
    };
    let (mut send, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let target = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    let request = Request::get(target).header(header::HOST, to).body(Empty::<Bytes>::new());
    let answer = send.send_request(request.map_err(|error| failed(&error))?).await;
    let answer = answer.map_err(|error| failed(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| failed(&error))?.to_bytes();
    let answer: Result<Answer, _> = serde_json::from_slice(&body);
    if status != StatusCode::OK {
        let what = answer.ok().and_then(|answer| answer.error).unwrap_or_default();
        return Err(PrometheusError::Refused { url: range.url.clone(), status: status.as_u16(), what });
    }
    answer.map_err(|error| failed(&error))
}

fn address(range: &Range) -> Result<(Url, String, u16), PrometheusError> {
    let wrong = |what: String| PrometheusError::Url { url: range.url.clone(), what };
    let mut url = Url::parse(&range.url).map_err(|error| wrong(error.to_string()))?;
    if url.scheme() != "http" {
        return Err(wrong(format!("{}:// is not spoken here", url.scheme())));
    }
    let host = url.host_str().ok_or_else(|| wrong("there is no host".to_owned()))?.to_owned();
    let port = url.port().unwrap_or(80);
    let path = format!("{}/api/v1/query_range", url.path().trim_end_matches('/'));
    url.set_path(&path);
    url.query_pairs_mut().clear().extend_pairs([
        ("query", range.query.clone()),
        ("start", range.from.to_string()),
        ("end", range.to.to_string()),
        ("step", range.step.as_secs_f64().to_string()),
    ]);
    Ok((url, host, port))
}

fn jobs(range: &Range, answer: Answer, duration: Duration, seed: u64) -> Result<Trace, String> {
    let data = answer.data.ok_or("it has no data")?;
    if data.kind != "matrix" {
        return Err(format!("it is a {}; a range of rates is needed", data.kind));
    }
    let (step, mut rng) = (range.step.as_secs_f64(), SmallRng::seed_from_u64(seed));
    let mut exponential = |mean: f64| -mean * f64::ln(1.0 - rng.random::<f64>());
    let (mut runtimes, mut jobs) = (Vec::new(), Vec::new());
    let mut expected = 0.0;
    for series in data.result {
        let runtime = series.metric.get("runtime").cloned();
        runtimes
            .push(runtime.ok_or("a series has no label runtime; write the query as sum by (runtime) (…)")?);
        for (at, rate) in series.values {
            let rate: f64 = rate.parse().map_err(|_| format!("{rate:?} is no number"))?;
            // What is not known counts as no load.
            let rate = if rate.is_finite() { rate.max(0.0) } else { 0.0 };
            expected += rate * step;
            if expected > JOBS_MAX {
                return Err(format!("these are more than {JOBS_MAX} jobs; ask for a shorter time"));
            }
            let mut after = if rate > 0.0 { exponential(1.0 / rate) } else { step };
            while after < step {
                let at = Duration::from_secs_f64((at - range.from as f64 + after).max(0.0));
                let takes = Duration::from_secs_f64(exponential(duration.as_secs_f64()));
                jobs.push(Job { at, runtime: runtimes.len() - 1, takes, lane: Lane::Normal });
                after += exponential(1.0 / rate);
            }
        }
    }
    if jobs.is_empty() {
        return Err("there were no jobs in that time".into());
    }
    jobs.sort_by_key(|job| job.at);
    Ok(Trace { runtimes, jobs, begins: Some(range.from) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(url: &str) -> Range {
        Range { url: url.into(), query: QUERY.into(), from: 1000, to: 1600, step: Duration::from_secs(60) }
    }

    fn answer(text: &str) -> Result<Trace, String> {
        let answer = serde_json::from_str(text).map_err(|error| error.to_string())?;
        jobs(&range("http://x"), answer, Duration::from_secs(2), 1)
    }

    #[test]
    fn jobs_follow_the_rates() {
        let trace = answer(
            r#"{"status":"success","data":{"resultType":"matrix","result":[
                {"metric":{"runtime":"python"},"values":[[1000,"10"],[1060,"0"],[1120,"NaN"],[1180,"20"]]},
                {"metric":{"runtime":"gcc"},"values":[[1060,"5"]]}]}}"#,
        );
        let trace = trace.unwrap();
        assert_eq!(trace.runtimes, ["python", "gcc"]);
        let count = |runtime: usize, from: u64, to: u64| {
            let within = Duration::from_secs(from)..Duration::from_secs(to);
            trace.jobs.iter().filter(|job| job.runtime == runtime && within.contains(&job.at)).count()
        };
        assert!((520..680).contains(&count(0, 0, 60)), "{}", count(0, 0, 60));
        assert_eq!(count(0, 60, 180), 0);
        assert!((1080..1320).contains(&count(0, 180, 240)));
        assert!((240..360).contains(&count(1, 60, 120)));
        assert!(trace.jobs.is_sorted_by_key(|job| job.at));
    }

    #[test]
    fn what_is_of_no_use_is_said() {
        for (text, what) in [
            (r#"{"status":"success"}"#, "no data"),
            (r#"{"data":{"resultType":"vector","result":[]}}"#, "it is a vector"),
            (r#"{"data":{"resultType":"matrix","result":[]}}"#, "no jobs"),
            (r#"{"data":{"resultType":"matrix","result":[{"metric":{},"values":[]}]}}"#, "no label runtime"),
        ] {
            let said = answer(text).unwrap_err();
            assert!(said.contains(what), "{said}");
        }
        for url in ["https://host", "host:9090", "http://"] {
            assert!(address(&range(url)).is_err(), "{url}");
        }
        let (url, host, port) = address(&range("http://host:9090/prefix/")).unwrap();
        assert_eq!((url.path(), host.as_str(), port), ("/prefix/api/v1/query_range", "host", 9090));
    }
}
