//! Every metric of the gateway: all families, labels and buckets stand in `Families::registered`, in one table.
//!
//! A worker counts in its own [`WorkerMetrics`], in plain memory without a lock or an atomic, and adds that to the shared
//! numbers about once a second, so a scrape is at most that much behind. Labels are closed lists: environment, code and the
//! certificates of the configuration. Deliberately absent: labels that a client can make more of, such as keys and addresses.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::local::LocalHistogram;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use super::{Outcome, Spent};
use crate::access::key::Environment;
use crate::access::time::Timestamp;
use crate::clock::Clock;

/// The `content-type` of what [`Metrics::encode`] writes.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

const PREFIX: &str = "martis_gateway";
/// The values of the label `environment`, in the order of [`environment_index`].
const ENVIRONMENTS: [&str; 3] = ["production", "sandbox", "none"];
const SERIES: usize = ENVIRONMENTS.len() * Outcome::COUNT;

/// Seconds, from half a millisecond, which a request over loopback takes, to a minute.
const REQUEST_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Seconds, from 100 nanoseconds to a millisecond: fine around the half microsecond that a decision takes.
const DECISION_BUCKETS: &[f64] = &[1e-7, 2e-7, 3e-7, 4e-7, 6e-7, 8e-7, 1e-6, 2e-6, 4e-6, 1e-5, 2.5e-5, 1e-4, 1e-3];
/// Seconds: 50 milliseconds and 250 milliseconds are promises, 2 seconds is where waiting for confirmation ends.
const REVOCATION_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 10.0, 60.0];

/// The shared numbers, and the page that shows them. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

struct Shared {
    registry: Registry,
    families: Families,
    clock: Clock,
    /// When the index was last known to be current, in milliseconds; `i64::MIN` before there was one.
    current_at: AtomicI64,
    /// The certificates in service and when each expires.
    certificates: Mutex<Vec<(String, Timestamp)>>,
}

struct Families {
    /// One counter for each environment and outcome, in the order of [`series`].
    requests: Vec<IntCounter>,
    request_seconds: Histogram,
    upstream_seconds: Histogram,
    decision_seconds: Histogram,
    index_keys: IntGauge,
    index_revision: IntGauge,
    index_age_seconds: Gauge,
    feed_lag_seconds: Gauge,
    revocation_seconds: Histogram,
    connections: IntGauge,
    streams: IntGauge,
    certificate_expiry_seconds: GaugeVec,
    log_dropped: IntCounter,
}

impl Families {
    /// The table: name, what it says, labels or buckets.
    #[rustfmt::skip]
    fn registered(to: &Registry) -> Self {
        Self {
            requests: requests(to, "requests_total", "Requests by the environment of their host and what became of them.", ["environment", "code"]),
            request_seconds: histogram(to, "request_seconds", "From the parsed head of a request to the end of its reply.", REQUEST_BUCKETS),
            upstream_seconds: histogram(to, "upstream_seconds", "From the permit to the head of the upstream's reply.", REQUEST_BUCKETS),
            decision_seconds: histogram(to, "decision_seconds", "From the parsed head of a request to the decision.", DECISION_BUCKETS),
            index_keys: int_gauge(to, "index_keys", "Keys in the index, revoked ones included."),
            index_revision: int_gauge(to, "index_revision", "The newest revision that decisions are made by."),
            index_age_seconds: gauge(to, "index_age_seconds", "Since the store last said what its newest revision is; +Inf without an index."),
            feed_lag_seconds: gauge(to, "feed_lag_seconds", "From the commit of the newest change to its being in force here."),
            revocation_seconds: histogram(to, "revocation_seconds", "From the commit of a revocation to its being in force here.", REVOCATION_BUCKETS),
            connections: int_gauge(to, "connections", "Client connections that are open."),
            streams: int_gauge(to, "streams", "Long streams that are open: decided again when their key changes."),
            certificate_expiry_seconds: gauge_by(to, "certificate_expiry_seconds", "Until a certificate in service expires.", "certificate"),
            log_dropped: counter(to, "log_dropped_total", "Lines of the access log that were dropped because it could not be written in time."),
        }
    }
}

impl Metrics {
    /// All families, at zero, and those of the process. The clock is asked at each scrape for what has an age.
    pub fn new(clock: Clock) -> Self {
        let registry = Registry::new();
        let families = Families::registered(&registry);
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("the families of the process have another prefix than ours");
        Self(Arc::new(Shared { registry, families, clock, current_at: AtomicI64::new(i64::MIN), certificates: Mutex::new(Vec::new()) }))
    }

    /// The counters of one worker thread.
    pub fn worker(&self) -> WorkerMetrics {
        let families = &self.0.families;
        WorkerMetrics {
            shared: self.clone(),
            requests: std::array::from_fn(|_| Cell::new(0)),
            request_seconds: families.request_seconds.local(),
            upstream_seconds: families.upstream_seconds.local(),
            decision_seconds: families.decision_seconds.local(),
        }
    }

    /// Counts a client connection until what is returned is dropped.
    #[must_use]
    pub fn connection(&self) -> ConnectionGauge {
        ConnectionGauge(Open::count(&self.0.families.connections))
    }

    /// Counts a long stream until what is returned is dropped.
    #[must_use]
    pub fn stream(&self) -> StreamGauge {
        StreamGauge(Open::count(&self.0.families.streams))
    }

    /// What the index holds now.
    pub fn set_index(&self, keys: u64, revision: u64) {
        self.0.families.index_keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.0.families.index_revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
    }

    /// The moment at which the store last said what its newest revision is; the age is counted from it at each scrape.
    pub fn set_index_current_at(&self, moment: Timestamp) {
        self.0.current_at.store(moment.millis(), Relaxed);
    }

    /// How long the newest change took from its commit to its being in force here.
    pub fn set_feed_lag(&self, lag: Duration) {
        self.0.families.feed_lag_seconds.set(lag.as_secs_f64());
    }

    /// How long a revocation took from its commit to its being in force here.
    pub fn revocation(&self, took: Duration) {
        self.0.families.revocation_seconds.observe(took.as_secs_f64());
    }

    /// The certificates in service, each by its first DNS name or else its subject, in place of those of before. Of several
    /// with the same name the one that expires first counts.
    pub fn set_certificates(&self, mut certificates: Vec<(String, Timestamp)>) {
        // The latest first: of those with one name, which share a series, the earliest is then the one that stays.
        certificates.sort_unstable_by_key(|(_, expires)| std::cmp::Reverse(*expires));
        *self.0.certificates.lock().unwrap_or_else(PoisonError::into_inner) = certificates;
    }

    /// The counter of lines that the access log lost.
    pub fn log_dropped(&self) -> IntCounter {
        self.0.families.log_dropped.clone()
    }

    /// Everything, in the text format of Prometheus.
    pub fn encode(&self) -> String {
        // Held until all is gathered: of two scrapes at once neither sees the certificates half set by the other.
        let certificates = self.0.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        self.measure(&certificates);
        TextEncoder::new().encode_to_string(&self.0.registry.gather()).unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics could not be written");
            String::new()
        })
    }

    /// Brings up to date what changes with time alone.
    fn measure(&self, certificates: &[(String, Timestamp)]) {
        let Shared { families, clock, current_at, .. } = &*self.0;
        let now = clock.now();
        families.index_age_seconds.set(match current_at.load(Relaxed) {
            i64::MIN => f64::INFINITY,
            moment => now.since(Timestamp::from_millis(moment)).as_secs_f64(),
        });
        families.certificate_expiry_seconds.reset();
        for (name, expires) in certificates {
            let left = (expires.millis() - now.millis()) as f64 / 1_000.0;
            families.certificate_expiry_seconds.with_label_values(&[name]).set(left);
        }
    }
}

/// The counters of one worker thread: plain memory, which [`WorkerMetrics::flush`] adds to the shared numbers.
pub struct WorkerMetrics {
    shared: Metrics,
    requests: [Cell<u64>; SERIES],
    request_seconds: LocalHistogram,
    upstream_seconds: LocalHistogram,
    decision_seconds: LocalHistogram,
}

impl WorkerMetrics {
    /// Counts a request that is over. The environment is that of its host; none if the host is unknown.
    pub fn request(&self, environment: Option<Environment>, outcome: Outcome, spent: &Spent) {
        if let Some(count) = self.requests.get(series(environment, outcome)) {
            count.set(count.get() + 1);
        }
        self.request_seconds.observe(spent.total.as_secs_f64());
        if let Some(decision) = spent.decision {
            self.decision_seconds.observe(decision.as_secs_f64());
        }
        if let Some(upstream) = spent.upstream {
            self.upstream_seconds.observe(upstream.as_secs_f64());
        }
    }

    /// Adds what was counted to the shared numbers. To be called about once a second; dropping does it, too.
    pub fn flush(&self) {
        for (local, shared) in self.requests.iter().zip(&self.shared.0.families.requests) {
            match local.replace(0) {
                0 => {}
                count => shared.inc_by(count),
            }
        }
        self.request_seconds.flush();
        self.upstream_seconds.flush();
        self.decision_seconds.flush();
    }
}

impl Drop for WorkerMetrics {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A client connection, counted until this is dropped.
#[derive(Debug)]
pub struct ConnectionGauge(#[allow(dead_code, reason = "held for its end")] Open);

/// A long stream, counted until this is dropped.
#[derive(Debug)]
pub struct StreamGauge(#[allow(dead_code, reason = "held for its end")] Open);

#[derive(Debug)]
struct Open(IntGauge);

impl Open {
    fn count(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl fmt::Debug for WorkerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerMetrics").finish_non_exhaustive()
    }
}

fn series(environment: Option<Environment>, outcome: Outcome) -> usize {
    environment_index(environment) * Outcome::COUNT + outcome.index()
}

const fn environment_index(environment: Option<Environment>) -> usize {
    match environment {
        Some(Environment::Production) => 0,
        Some(Environment::Sandbox) => 1,
        None => 2,
    }
}

/// Makes all series of the requests at once: a rate over a counter that begins at its first request misses that request.
fn requests(to: &Registry, name: &str, help: &str, labels: [&str; 2]) -> Vec<IntCounter> {
    let family = registered(to, IntCounterVec::new(named(name, help), &labels));
    let of_environment = |environment| Outcome::all().map(move |outcome| [environment, outcome.code()]);
    ENVIRONMENTS.into_iter().flat_map(of_environment).map(|labels| family.with_label_values(&labels)).collect()
}

fn histogram(to: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts { common_opts: named(name, help), buckets: buckets.to_vec() };
    registered(to, Histogram::with_opts(options))
}

fn counter(to: &Registry, name: &str, help: &str) -> IntCounter {
    registered(to, IntCounter::with_opts(named(name, help)))
}

fn gauge(to: &Registry, name: &str, help: &str) -> Gauge {
    registered(to, Gauge::with_opts(named(name, help)))
}

fn int_gauge(to: &Registry, name: &str, help: &str) -> IntGauge {
    registered(to, IntGauge::with_opts(named(name, help)))
}

fn gauge_by(to: &Registry, name: &str, help: &str, label: &str) -> GaugeVec {
    registered(to, GaugeVec::new(named(name, help), &[label]))
}

fn named(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(PREFIX)
}

fn registered<C: Collector + Clone + 'static>(to: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("the names and buckets of the table are valid");
    to.register(Box::new(collector.clone())).expect("no name stands twice in the table");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::denial::Denial;
    use crate::clock::TestClock;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    /// Section 10 of the contract.
    const PROMISED: [&str; 13] = [
        "requests_total",
        "request_seconds",
        "upstream_seconds",
        "decision_seconds",
        "index_keys",
        "index_revision",
        "index_age_seconds",
        "feed_lag_seconds",
        "revocation_seconds",
        "connections",
        "streams",
        "certificate_expiry_seconds",
        "log_dropped_total",
    ];

    fn metrics() -> (TestClock, Metrics) {
        let clock = TestClock::at(NOW);
        let metrics = Metrics::new(clock.clock());
        (clock, metrics)
    }

    /// The value of one series, named without the prefix; none if it is not on the page.
    fn value(metrics: &Metrics, series: &str) -> Option<f64> {
        let page = metrics.encode();
        let line = page.lines().find_map(|line| line.strip_prefix("martis_gateway_")?.strip_prefix(series)?.strip_prefix(' '))?;
        Some(line.parse().unwrap())
    }

    fn spent(decision_nanos: u64) -> Spent {
        Spent { decision: Some(Duration::from_nanos(decision_nanos)), upstream: None, total: Duration::from_millis(3) }
    }

    #[test]
    fn the_page_shows_what_the_contract_names_and_the_process_and_nothing_else() {
        let (_clock, metrics) = metrics();
        metrics.set_certificates(vec![("api.example".to_owned(), NOW)]);
        let page = metrics.encode();
        let mut shown: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        shown.retain(|name| !name.starts_with("process_"));
        let mut promised = PROMISED.map(|name| format!("{PREFIX}_{name}"));
        promised.sort();
        shown.sort();
        assert_eq!(shown, promised);
        assert!(page.contains("process_resident_memory_bytes "));
    }

    #[test]
    fn every_series_of_the_requests_is_there_before_the_first_request() {
        let (_clock, metrics) = metrics();
        for environment in ENVIRONMENTS {
            for outcome in Outcome::all() {
                let labels = format!("requests_total{{code=\"{}\",environment=\"{environment}\"}}", outcome.code());
                assert_eq!(value(&metrics, &labels), Some(0.0), "{labels}");
            }
        }
    }

    #[test]
    fn a_request_is_counted_under_its_environment_and_code_once_the_worker_flushes() {
        let (_clock, metrics) = metrics();
        let worker = metrics.worker();
        for outcome in Outcome::all() {
            for environment in [Some(Environment::Production), Some(Environment::Sandbox), None] {
                worker.request(environment, outcome, &spent(250));
            }
        }
        worker.request(Some(Environment::Sandbox), Outcome::Refused(Denial::InvalidApiKey), &spent(250));
        let of_sandbox = r#"requests_total{code="invalid_api_key",environment="sandbox"}"#;
        assert_eq!(value(&metrics, of_sandbox), Some(0.0));
        worker.flush();
        worker.flush();
        assert_eq!(value(&metrics, of_sandbox), Some(2.0));
        assert_eq!(value(&metrics, r#"requests_total{code="forwarded",environment="none"}"#), Some(1.0));
    }

    #[test]
    fn durations_fall_into_their_buckets_and_unknown_ones_into_none() {
        let (_clock, metrics) = metrics();
        let worker = metrics.worker();
        worker.request(None, Outcome::Forwarded, &spent(250));
        drop(worker);
        assert_eq!(value(&metrics, r#"decision_seconds_bucket{le="0.0000002"}"#), Some(0.0));
        assert_eq!(value(&metrics, r#"decision_seconds_bucket{le="0.0000003"}"#), Some(1.0));
        assert_eq!(value(&metrics, r#"request_seconds_bucket{le="0.0025"}"#), Some(0.0));
        assert_eq!(value(&metrics, r#"request_seconds_bucket{le="0.005"}"#), Some(1.0));
        assert_eq!(value(&metrics, "upstream_seconds_count"), Some(0.0));
    }

    #[test]
    fn two_workers_add_up() {
        let (_clock, metrics) = metrics();
        let workers = [metrics.worker(), metrics.worker()];
        workers.iter().for_each(|worker| worker.request(None, Outcome::Refused(Denial::UnknownHost), &Spent::default()));
        drop(workers);
        assert_eq!(value(&metrics, r#"requests_total{code="unknown_host",environment="none"}"#), Some(2.0));
        assert_eq!(value(&metrics, "request_seconds_count"), Some(2.0));
    }

    #[test]
    fn connections_and_streams_are_counted_while_they_are_held() {
        let (_clock, metrics) = metrics();
        let held = (metrics.connection(), metrics.connection(), metrics.stream());
        assert_eq!(value(&metrics, "connections"), Some(2.0));
        assert_eq!(value(&metrics, "streams"), Some(1.0));
        drop(held);
        assert_eq!(value(&metrics, "connections"), Some(0.0));
        assert_eq!(value(&metrics, "streams"), Some(0.0));
    }

    #[test]
    fn the_age_of_the_index_grows_until_the_store_speaks_again() {
        let (clock, metrics) = metrics();
        assert_eq!(value(&metrics, "index_age_seconds"), Some(f64::INFINITY));
        metrics.set_index(7, 42);
        metrics.set_index_current_at(NOW);
        clock.pass(Duration::from_millis(1_500));
        assert_eq!(value(&metrics, "index_age_seconds"), Some(1.5));
        assert_eq!(value(&metrics, "index_keys"), Some(7.0));
        assert_eq!(value(&metrics, "index_revision"), Some(42.0));
    }

    #[test]
    fn of_certificates_with_one_name_the_first_to_expire_counts_and_replaced_ones_vanish() {
        let (clock, metrics) = metrics();
        let at = |seconds| NOW.plus(Duration::from_secs(seconds));
        let named = |name: &str, seconds| (name.to_owned(), at(seconds));
        metrics.set_certificates(vec![named("a.example", 50), named("a.example", 20), named("b.example", 30), named("a.example", 40)]);
        clock.pass(Duration::from_secs(25));
        assert_eq!(value(&metrics, r#"certificate_expiry_seconds{certificate="a.example"}"#), Some(-5.0));
        assert_eq!(value(&metrics, r#"certificate_expiry_seconds{certificate="b.example"}"#), Some(5.0));
        metrics.set_certificates(vec![named("a.example", 1_025)]);
        assert_eq!(value(&metrics, r#"certificate_expiry_seconds{certificate="a.example"}"#), Some(1_000.0));
        assert_eq!(value(&metrics, r#"certificate_expiry_seconds{certificate="b.example"}"#), None);
    }
}
