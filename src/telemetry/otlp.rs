//! Spans to an OpenTelemetry collector, over HTTP, in batches: HTTP requests, passes of loops, acts with the ids that they are about.
//!
//! What cannot be sent is dropped; the service waits for no collector. That nothing arrives is logged once, and once more when it does again.

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::registry::LookupSpan;

/// For one batch.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// For the last spans, at the stop.
const LAST_WITHIN: Duration = Duration::from_secs(2);

/// The way to the collector; the last spans are sent when it is dropped.
#[derive(Debug)]
pub(super) struct Spans(SdkTracerProvider);

impl Spans {
    /// Opens it; nothing is sent yet.
    ///
    /// # Errors
    /// The endpoint is no address.
    pub(super) fn open(endpoint: &str) -> anyhow::Result<Self> {
        // The client of the exporter takes the process's own; a second one is refused, and the first stays.
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        // The specification's path, as the library adds it only to what it reads from the environment itself.
        let endpoint = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let exporter = SpanExporter::builder().with_http().with_endpoint(&endpoint).with_timeout(SEND_WITHIN).build();
        let exporter = exporter.with_context(|| format!("spans to {endpoint}"))?;
        let exporter = Told { inner: exporter, endpoint, away: AtomicBool::new(false) };
        let resource = Resource::builder().with_service_name("vm-service").build();
        Ok(Self(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()))
    }

    /// What takes the spans.
    pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> OpenTelemetryLayer<S, SdkTracer> {
        tracing_opentelemetry::layer().with_tracer(self.0.tracer("vm-service"))
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_WITHIN) {
            tracing::debug!(%error, "the last spans were not sent");
        }
    }
}

/// Tells when spans cannot be sent, and when they can again.
#[derive(Debug)]
struct Told {
    inner: SpanExporter,
    endpoint: String,
    away: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.inner.export(batch).await;
        match (&sent, self.away.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(endpoint = self.endpoint, %error, "spans are not sent until the collector takes them")
            }
            (Ok(()), true) => tracing::info!(endpoint = self.endpoint, "spans are sent again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
