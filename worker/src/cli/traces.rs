//! Spans of jobs to a collector of traces, by OTLP over HTTP.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_http::{HttpClient, HttpError, Request, Response, hyper::HyperClient};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use tokio::runtime::Handle;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Registry;

use super::exit::{Exit, Failure};

/// How long a collector may take to take a batch, and at the end the last one.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);

/// The way to the collector. What it does not take in time is lost, and never holds a job up.
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Prepares it; nobody is asked yet. Needs a tokio runtime.
    pub fn open(endpoint: &str, worker: &str) -> Result<Self, Failure> {
        let client = OnRuntime {
            client: HyperClient::with_default_connector(EXPORT_LIMIT, None),
            runtime: Handle::current(),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_LIMIT)
            .build()
            .map_err(|error| Failure::new(Exit::Config, format!("telemetry.otlp_endpoint: {error}")))?;
        let named = KeyValue::new("service.instance.id", worker.to_owned());
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource =
            Resource::builder_empty().with_service_name("hearth").with_attributes([named, version]).build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        Ok(Self { provider })
    }

    /// What hears of spans.
    pub fn layer(&self) -> OpenTelemetryLayer<Registry, SdkTracer> {
        tracing_opentelemetry::layer().with_tracer(self.provider.tracer("hearth")).with_location(false)
    }

    /// Sends what is left, within a bound.
    pub async fn close(self) {
        let provider = self.provider;
        let closed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(EXPORT_LIMIT)).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!(%error, "the last spans were not taken");
        }
    }
}

/// The exporter has a thread of its own; connections need the runtime.
#[derive(Clone, Debug)]
struct OnRuntime {
    client: HyperClient,
    runtime: Handle,
}

impl HttpClient for OnRuntime {
    fn send_bytes<'life, 'wait>(
        &'life self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'wait>>
    where
        'life: 'wait,
        Self: 'wait,
    {
        let client = self.client.clone();
        Box::pin(async move { self.runtime.spawn(async move { client.send_bytes(request).await }).await? })
    }
}
