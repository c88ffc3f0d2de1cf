//! The log: one line an event on standard error, as text or as JSON, and spans to a collector where one is configured.
//!
//! The fields `task`, `vm`, `volume` and `launch` name what a line is about, in the line itself or in the span around it. Whatever a
//! field holds, it ends no line and moves no cursor: a line of text cannot be made up by who is quoted in it. The filter is about lines:
//! however few there are, each has the service's own spans around it, and a collector gets them.

use std::fmt::Write as _;
use std::io;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{FormatFields, debug_fn};
use tracing_subscriber::layer::{Filter, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// What is logged, how, and where spans go.
#[derive(Clone, Debug, Default)]
pub struct LogConfig {
    /// In the words of `RUST_LOG`.
    pub filter: String,
    /// How lines look.
    pub format: Format,
    /// The collector's address, such as `http://127.0.0.1:4318`; none: spans go nowhere.
    pub otlp: Option<String>,
}

/// Sends the last spans when it is dropped.
#[must_use = "the last spans are sent when it is dropped"]
#[derive(Debug, Default)]
pub struct Logging {
    #[cfg(feature = "otlp")]
    _spans: Option<super::otlp::Spans>,
}

/// Logs to standard error from now on.
pub fn start(config: &LogConfig) -> Logging {
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    let registry = tracing_subscriber::registry();
    let lines = lines(config.format, colours, io::stderr).with_filter(filter(&config.filter));
    #[cfg(feature = "otlp")]
    {
        let opened = config.otlp.as_deref().map(super::otlp::Spans::open);
        let (spans, trouble) = match opened {
            Some(Ok(spans)) => (Some(spans), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        registry.with(lines).with(spans.as_ref().map(|spans| spans.layer().with_filter(filter(&config.filter)))).init();
        if let Some(error) = trouble {
            tracing::error!(error = format!("{error:#}"), "spans cannot be sent: correct OTEL_EXPORTER_OTLP_ENDPOINT");
        }
        Logging { _spans: spans }
    }
    #[cfg(not(feature = "otlp"))]
    {
        registry.with(lines).init();
        if config.otlp.is_some() {
            tracing::warn!("OTEL_EXPORTER_OTLP_ENDPOINT is set, and this build sends no spans: use one with the feature otlp");
        }
        Logging::default()
    }
}

/// What the words of `RUST_LOG` say, and our spans.
fn filter<S: Subscriber + for<'a> LookupSpan<'a>>(words: &str) -> impl Filter<S> + use<S> {
    EnvFilter::new(words).or(filter_fn(is_our_span).with_max_level_hint(LevelFilter::INFO))
}

fn is_our_span(metadata: &Metadata<'_>) -> bool {
    let crate_name = metadata.target().split("::").next();
    metadata.is_span() && *metadata.level() <= Level::INFO && crate_name == Some("vm_service")
}

/// The lines of the log, to any writer.
pub fn lines<S, W>(format: Format, colours: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    match format {
        Format::Text => layer.with_ansi(colours).fmt_fields(one_line()).boxed(),
        Format::Json => layer.json().flatten_event(true).with_span_list(true).with_current_span(false).boxed(),
    }
}

/// A subscriber that writes such lines of every level: for whoever reads them in a test.
pub fn everything<W>(format: Format, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    Registry::default().with(lines(format, false, writer))
}

/// `name=value`, without a character that ends a line or that a terminal acts on.
fn one_line() -> impl for<'a> FormatFields<'a> + Send + Sync + 'static {
    debug_fn(|writer, field, value| {
        let mut text = String::new();
        for c in format!("{value:?}").chars() {
            match c.is_control() {
                true => write!(text, "{}", c.escape_default())?,
                false => text.push(c),
            }
        }
        match field.name() {
            "message" => write!(writer, "{text}"),
            name => write!(writer, "{name}={text}"),
        }
    })
    .delimited(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format) -> String {
        let kept = Kept::default();
        let to = kept.clone();
        tracing::subscriber::with_default(everything(format, move || to.clone()), || {
            let _within = tracing::info_span!("act", vm = "vm-1").entered();
            tracing::warn!(console = "one\ntwo\u{1b}[2J", error = %"a\nb", "a VM\ndid not start");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }

    #[test]
    fn fewer_lines_keep_what_they_are_about() {
        let kept = Kept::default();
        let to = kept.clone();
        let lines = lines(Format::Text, false, move || to.clone()).with_filter(filter("warn"));
        tracing::subscriber::with_default(Registry::default().with(lines), || {
            let _within = tracing::info_span!("act", vm = "vm-1").entered();
            let inner = tracing::debug_span!("inner");
            let _inside = inner.enter();
            tracing::info!("not told");
            tracing::info!(target: "hyper::client", "not told");
            tracing::warn!("told");
            let others = tracing::info_span!(target: "hyper::client", "query");
            assert!(inner.is_disabled() && others.is_disabled(), "spans of others, and our finer ones, cost nothing");
            assert!(!tracing::enabled!(target: "hyper::client", Level::INFO));
            assert!(!tracing::enabled!(target: "vm_service_of_others", Level::INFO));
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert!(text.lines().count() == 1 && text.trim_end().ends_with(r#"WARN act{vm="vm-1"}: told"#), "{text}");
    }

    #[test]
    fn an_event_is_one_line_of_text() {
        let text = logged(Format::Text);
        assert!(
            text.trim_end().ends_with(r#"act{vm="vm-1"}: a VM\ndid not start console="one\ntwo\u{1b}[2J" error=a\nb"#),
            "{text}"
        );
    }

    #[test]
    fn or_one_object() {
        let line: serde_json::Value = serde_json::from_str(&logged(Format::Json)).unwrap();
        assert_eq!((&line["level"], &line["message"]), (&"WARN".into(), &"a VM\ndid not start".into()), "{line}");
        assert_eq!((&line["console"], &line["spans"][0]["vm"]), (&"one\ntwo\u{1b}[2J".into(), &"vm-1".into()), "{line}");
    }
}
