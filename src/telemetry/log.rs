//! The gateway's own log, on standard error: JSON lines for programs, with the field names of the access log, and a readable
//! form for a terminal. For the few lines of starting, reloading, following the store and failing: a line is written at once,
//! so nothing that happens for each request may log here at a level that is on.
//!
//! Secrets that found their way into a message or a field, ours or a dependency's, are written as their hints. Deliberately
//! absent: spans, and files (standard error is whoever started us to keep).

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Debug};
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::hiding::hide;
use super::json::Object;
use crate::access::secret::hide_secrets;
use crate::clock::Clock;

/// Bytes of one field that are shown.
const LONGEST_FIELD: usize = 8 * 1024;
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Json,
    Readable,
}

impl Format {
    /// Readable if a person is looking, else JSON.
    pub fn for_standard_error() -> Self {
        if io::stderr().is_terminal() { Self::Readable } else { Self::Json }
    }
}

/// A level that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{level}` is no log level: use one of {}, or levels by target such as `warn,martis_gateway=debug`", LEVELS.join(", "))]
pub struct BadLevel {
    level: String,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum CannotLog {
    #[error(transparent)]
    Level(#[from] BadLevel),
    #[error("set up logging")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the whole process, to be called once. `node` is the name of this node, as each line shows it.
///
/// From then on a panic is a line of the log, without what it was about unless that is a fixed text: formatted texts may hold
/// anything that a request brought.
///
/// # Errors
/// The level is none, or logging was set up before.
pub fn init(level: &str, format: Format, node: &str, clock: Clock) -> Result<(), CannotLog> {
    let filter = parse_level(level)?;
    let lines = layer(format, node, clock, || Hiding(io::stderr()));
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Checks a level as the configuration may give it: a name, which holds for this program while its dependencies only warn, or
/// levels by target.
///
/// # Errors
/// A sentence that lists what is valid.
pub fn parse_level(level: &str) -> Result<EnvFilter, BadLevel> {
    let refusal = || BadLevel { level: hide_secrets(level).into_owned() };
    let is_name = |text: &str| LEVELS.contains(&text);
    let directives = match level.trim() {
        name @ ("info" | "debug" | "trace") => Cow::Owned(format!("warn,martis_gateway={name}")),
        // A bare word would be taken for a target whose every line is wanted: a mistyped level must not do that.
        directives if directives.split(',').all(|part| part.contains('=') || is_name(part.trim())) => Cow::Borrowed(directives),
        _ => return Err(refusal()),
    };
    EnvFilter::builder().with_default_directive(LevelFilter::OFF.into()).parse(&directives).map_err(|_| refusal())
}

/// What `doing` logs on this thread at `debug` and above, as JSON lines: for tests of who logs what.
#[cfg(test)]
pub(crate) fn captured(doing: impl FnOnce()) -> String {
    tests::captured_as(Format::Json, "debug", doing)
}

fn layer<S, W>(format: Format, node: &str, clock: Clock, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    // A line that cannot be written is lost: complaining about it, on the same standard error, would be a panic.
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    match format {
        Format::Json => Box::new(lines.event_format(JsonLines { node: node.to_owned(), clock })),
        Format::Readable => Box::new(lines.compact().with_ansi(wants_colour()).with_timer(WallTime(clock))),
    }
}

/// By the convention of <https://no-color.org>.
fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let about = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("a text that is not shown");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(about, location, thread = std::thread::current().name(), "a panic ended what was being done");
}

struct WallTime(Clock);

impl FormatTime for WallTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", self.0.wall())
    }
}

/// Lines such as `{"time":…,"level":"warn","node":…,"message":…,"key_id":…,"target":…}`.
struct JsonLines {
    node: String,
    clock: Clock,
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Vec::with_capacity(512);
        let mut object = Object::begin(&mut line);
        object.plain("time", self.clock.wall());
        object.text("level", Some(level_name(*event.metadata().level())));
        object.text("node", Some(&self.node));
        event.record(&mut Fields(&mut object));
        object.text("target", Some(event.metadata().target()));
        object.end();
        // All that was written is escaped text, so UTF-8.
        writer.write_str(&String::from_utf8_lossy(&line))
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

struct Fields<'a, 'line>(&'a mut Object<'line>);

impl Visit for Fields<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    /// With all its causes.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let causes = std::iter::successors(value.source(), |&cause| cause.source());
        let text = causes.fold(value.to_string(), |text, cause| format!("{text}: {cause}"));
        self.record_str(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.outside_text(field.name(), Some(value.as_bytes()), LONGEST_FIELD);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(field.name(), Some(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.literal(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.literal(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for what is not finite.
        if value.is_finite() {
            self.0.literal(field.name(), value);
        } else {
            self.0.null(field.name());
        }
    }
}

/// Hides the secrets in what is written through it; the readable form comes in one piece a line.
struct Hiding<W>(W);

impl<W: Write> Write for Hiding<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(&hide(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::access::time::Timestamp;
    use crate::clock::TestClock;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(super) fn captured_as(format: Format, level: &str, doing: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let clock = TestClock::at(Timestamp::parse_rfc3339("2026-11-22T03:13:00.5Z").unwrap());
        let lines = layer(format, "node-1", clock.clock(), move || Hiding(writer.clone()));
        let subscriber = tracing_subscriber::registry().with(parse_level(level).unwrap()).with(lines);
        tracing::subscriber::with_default(subscriber, doing);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn secret() -> String {
        format!("sk_live_{}wxyz", "x".repeat(34))
    }

    #[test]
    fn a_line_is_one_object_with_the_names_of_the_access_log() {
        let log = captured_as(
            Format::Json,
            "info",
            || tracing::warn!(key_id = %"key_1", wait_us = 5, late = true, share = -0.5, "not \"heard\"\nof"),
        );
        let expected = concat!(
            r#"{"time":"2026-11-22T03:13:00.5Z","level":"warn","node":"node-1","message":"not \"heard\"\u000aof","#,
            r#""key_id":"key_1","wait_us":5,"late":true,"share":-0.5,"target":"martis_gateway::telemetry::log::tests"}"#,
            "\n"
        );
        assert_eq!(log, expected);
    }

    #[test]
    fn numbers_that_json_cannot_write_are_null() {
        let log = captured(|| tracing::info!(age = f64::INFINITY, "it"));
        let line: serde_json::Value = serde_json::from_str(&log).unwrap();
        assert!(line["age"].is_null());
    }

    #[test]
    fn an_error_is_written_with_its_causes() {
        let cause = io::Error::other("disk full");
        let error = CannotWrite(cause);
        let log = captured(|| tracing::info!(error = &error as &(dyn Error + 'static), "it"));
        assert!(log.contains(r#""error":"write the snapshot: disk full""#), "{log}");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("write the snapshot")]
    struct CannotWrite(#[source] io::Error);

    #[test]
    fn a_standard_error_that_is_gone_is_no_trouble() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let clock = TestClock::at(Timestamp::from_millis(0)).clock();
        let subscriber = tracing_subscriber::registry().with(layer(Format::Json, "node-1", clock, || Hiding(Gone)));
        tracing::subscriber::with_default(subscriber, || tracing::error!("it"));
    }

    #[test]
    fn secrets_in_messages_and_fields_are_hidden_in_both_forms() {
        for format in [Format::Json, Format::Readable] {
            let log = captured_as(format, "info", || {
                let secret = secret();
                tracing::info!(header = secret, hint = "sk_test_…wxyz", error = ?Some(&secret), "got {secret}");
            });
            assert!(!log.contains("xxx"), "{log}");
            assert!(log.contains("got sk_live_…wxyz") && log.contains("\"sk_test_…wxyz\""), "{log}");
        }
    }

    #[test]
    fn a_name_is_the_level_of_this_program_and_dependencies_only_warn() {
        let log = captured_as(Format::Json, "debug", || {
            tracing::debug!("ours");
            tracing::trace!("too fine");
            tracing::info!(target: "hyper::proto", "theirs");
            tracing::warn!(target: "hyper::proto", "their warning");
        });
        let messages: Vec<_> =
            log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["message"].clone()).collect();
        assert_eq!(messages, ["ours", "their warning"]);
    }

    #[test]
    fn levels_by_target_are_taken_as_they_are() {
        let log = captured_as(Format::Json, "error,hyper=info", || {
            tracing::info!(target: "hyper::proto", "theirs");
            tracing::warn!("ours");
        });
        assert_eq!(log.lines().count(), 1);
        assert!(log.contains("theirs"));
    }

    #[test]
    fn a_level_that_is_none_is_refused_with_all_that_are() {
        for level in ["", "infoo", "INFO", "martis_gateway", "warn,verbose", "hyper=loud"] {
            assert!(parse_level(level).is_err(), "{level}");
        }
        assert_eq!(
            parse_level("infoo").unwrap_err().to_string(),
            "`infoo` is no log level: use one of off, error, warn, info, debug, trace, or levels by target such as `warn,martis_gateway=debug`"
        );
        for level in LEVELS {
            assert!(parse_level(level).is_ok(), "{level}");
        }
    }
}
