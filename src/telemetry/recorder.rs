//! The one recorder behind the `metrics` macros: what is recorded goes to both exporters, or nowhere before [`install`].
//!
//! Prometheus gets the catalogue; DogStatsD gets the same, and the names of the guide (`statsd`), which are no names to Prometheus.

use super::names::{CATALOGUE, Kind};
use super::statsd::{self, Relay};
use metrics::{SharedString, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_dogstatsd::DogStatsDBuilder;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::layers::{FanoutBuilder, FilterLayer, Layer as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::OnceLock;
use std::time::Duration;

/// What a gauge is set to that is there no more: a recorder forgets none, and [`render`] leaves this one out.
pub const MISSING: f64 = f64::NAN;

/// The values for Prometheus; there is one recorder in a process.
static VALUES: OnceLock<PrometheusHandle> = OnceLock::new();

/// Why nothing is recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// No socket for the relay.
    #[error("no socket can be opened on the loopback interface")]
    Socket(#[from] std::io::Error),
    /// The exporter for Prometheus.
    #[error("the exporter for Prometheus cannot be made")]
    Prometheus(#[from] metrics_exporter_prometheus::BuildError),
    /// The exporter for DogStatsD.
    #[error("the exporter for StatsD cannot be made")]
    StatsD(#[from] metrics_exporter_dogstatsd::BuildError),
    /// It is there already.
    #[error("metrics are recorded in this process already")]
    Twice,
}

/// Records from now on, and sends to StatsD each `flush`. Returns what carries that to its host.
///
/// # Errors
/// See [`RecorderError`]; nothing is recorded then.
pub fn install(flush: Duration) -> Result<Relay, RecorderError> {
    let mut prometheus = PrometheusBuilder::new();
    for metric in CATALOGUE {
        if let Kind::Histogram(buckets) = metric.kind {
            prometheus = prometheus.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    let prometheus = prometheus.build_recorder();
    let values = prometheus.handle();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let dogstatsd = DogStatsDBuilder::default()
        .with_remote_address(socket.local_addr()?.to_string())?
        .with_flush_interval(flush)
        .with_telemetry(false)
        // What every StatsD server understands; distributions are Datadog's own.
        .send_histograms_as_distributions(false)
        .build()?;
    let prometheus = FilterLayer::from_patterns(statsd::PREFIXES).layer(prometheus);
    let both = FanoutBuilder::default().add_recorder(prometheus).add_recorder(dogstatsd).build();
    metrics::set_global_recorder(both).map_err(|_| RecorderError::Twice)?;
    VALUES.set(values).map_err(|_| RecorderError::Twice)?;
    describe();
    super::tell::zeroes();
    Ok(Relay::new(socket)?)
}

fn describe() {
    for metric in CATALOGUE {
        let help = SharedString::const_str(metric.help);
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.unit, help),
            Kind::Gauge => describe_gauge!(metric.name, metric.unit, help),
            Kind::Histogram(_) => describe_histogram!(metric.name, metric.unit, help),
        }
    }
}

/// Everything recorded so far, as text for Prometheus; empty before [`install`].
pub fn render() -> String {
    let text = VALUES.get().map(PrometheusHandle::render).unwrap_or_default();
    text.split_inclusive('\n').filter(|line| !line.trim_end().ends_with(" NaN")).collect()
}

/// Folds what histograms have collected, so that it does not grow when nobody reads it.
pub(super) fn tidy() {
    if let Some(values) = VALUES.get() {
        values.run_upkeep();
    }
}
