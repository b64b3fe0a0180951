//! The operator's log: what the gateway says about itself, to standard error.
//!
//! It is not the recording: it has no statement texts and no reply content, and secrets cannot get into it since their type does
//! not print. A line that repeats is cut to a burst and counted, so that no client can fill the disk by failing often.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry};

/// The environment variable that sets what is logged, in the syntax of `EnvFilter`: `debug`, `weir::identity=trace`.
pub const FILTER_VARIABLE: &str = "WEIR_LOG";

/// Lines that one place in the code may write in one period; the rest is counted.
const BURST: u32 = 20;
const PERIOD: Duration = Duration::from_secs(10);
/// Places in the code that are watched; there are fewer, and what is beyond is not limited.
const MAX_CALLSITES: usize = 4096;

/// The environment variable that sets how lines look: `json`, or anything else for people. Both halves of the daemon see it.
pub const FORMAT_VARIABLE: &str = "WEIR_LOG_FORMAT";

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people and the journal.
    Human,
    /// One object a line, for log shippers.
    Json,
}

impl Format {
    /// As the environment says.
    pub fn configured() -> Self {
        if std::env::var_os(FORMAT_VARIABLE).is_some_and(|value| value == "json") { Self::Json } else { Self::Human }
    }
}

/// Sets up logging for this process. Call it once.
pub fn init(format: Format) -> Result<(), TryInitError> {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var(FILTER_VARIABLE)
        .from_env_lossy();
    Registry::default().with(Limited { limit: RateLimit::new(format), inner: layer(format) }).with(filter).try_init()
}

fn layer<S>(format: Format) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let layer = fmt::layer().with_writer(std::io::stderr);
    // The journal has times of its own, and escape sequences are for terminals.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match format {
        Format::Json => layer.json().flatten_event(true).boxed(),
        Format::Human if journal => layer.without_time().with_ansi(false).with_target(false).boxed(),
        Format::Human => layer.with_ansi(colours).with_target(false).boxed(),
    }
}

/// Lets each place in the code write [`BURST`] lines a [`PERIOD`].
struct RateLimit {
    format: Format,
    buckets: Mutex<HashMap<Identifier, Bucket>>,
}

struct Bucket {
    since: Instant,
    written: u32,
    suppressed: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Ruling {
    Write,
    /// Write, and say how many were left out before.
    WriteAfter(u64),
    Suppress,
}

impl Bucket {
    fn rule(&mut self, now: Instant) -> Ruling {
        if now.duration_since(self.since) >= PERIOD {
            let suppressed = std::mem::take(&mut self.suppressed);
            *self = Self { since: now, written: 1, suppressed: 0 };
            return if suppressed == 0 { Ruling::Write } else { Ruling::WriteAfter(suppressed) };
        }
        if self.written < BURST {
            self.written += 1;
            return Ruling::Write;
        }
        self.suppressed += 1;
        Ruling::Suppress
    }
}

impl RateLimit {
    fn new(format: Format) -> Self {
        Self { format, buckets: Mutex::default() }
    }

    fn rule(&self, metadata: &Metadata<'_>, now: Instant) -> Ruling {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let callsite = metadata.callsite();
        if buckets.len() >= MAX_CALLSITES && !buckets.contains_key(&callsite) {
            return Ruling::Write;
        }
        buckets.entry(callsite).or_insert(Bucket { since: now, written: 0, suppressed: 0 }).rule(now)
    }
}

/// A layer that gets only what the rate limit lets through. The gateway makes events and no spans, so that events are all
/// it passes on. Not a per-layer filter: what one of these refuses by `event_enabled` stays marked as refused, and a later
/// event trips over it.
struct Limited<L> {
    limit: RateLimit,
    inner: L,
}

impl<S: Subscriber, L: Layer<S>> Layer<S> for Limited<L> {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.limit.passes(event.metadata()) {
            self.inner.on_event(event, context);
        }
    }
}

impl RateLimit {
    fn passes(&self, metadata: &Metadata<'_>) -> bool {
        // Who asks for details gets all of them.
        if *metadata.level() > Level::INFO {
            return true;
        }
        match self.rule(metadata, Instant::now()) {
            Ruling::Write => true,
            Ruling::Suppress => false,
            Ruling::WriteAfter(suppressed) => {
                // Not by tracing: that would come back to here.
                let place = (metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0));
                let line = match self.format {
                    Format::Human => {
                        format!("{suppressed} lines like the next were left out ({}:{})", place.0, place.1)
                    }
                    Format::Json => serde_json::json!({ "left_out": suppressed, "place": place }).to_string(),
                };
                eprintln!("{line}");
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_line_is_cut_to_a_burst_and_counted() {
        let start = Instant::now();
        let mut bucket = Bucket { since: start, written: 0, suppressed: 0 };
        for _ in 0..BURST {
            assert_eq!(bucket.rule(start), Ruling::Write);
        }
        for _ in 0..3 {
            assert_eq!(bucket.rule(start), Ruling::Suppress);
        }
        assert_eq!(bucket.rule(start + PERIOD), Ruling::WriteAfter(3));
        assert_eq!(bucket.rule(start + PERIOD), Ruling::Write);
        assert_eq!(bucket.rule(start + PERIOD * 2), Ruling::Write, "nothing was left out in between");
    }

    /// Counts what comes through.
    struct Counter(std::sync::Arc<std::sync::atomic::AtomicU32>);

    impl<S: Subscriber> Layer<S> for Counter {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn a_flood_from_one_place_leaves_other_lines_alone() {
        let seen = std::sync::Arc::default();
        let layer = Limited { limit: RateLimit::new(Format::Human), inner: Counter(std::sync::Arc::clone(&seen)) };
        let subscriber = Registry::default().with(layer).with(EnvFilter::new("info"));
        tracing::subscriber::with_default(subscriber, || {
            for round in 0..1000 {
                tracing::info!(round, "flood");
                tracing::debug!(round, "not asked for");
            }
            tracing::info!("another place");
        });
        assert_eq!(seen.load(std::sync::atomic::Ordering::Relaxed), BURST + 1);
    }
}
