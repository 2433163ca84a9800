//! What is measured of the index, that it grows older whatever the wall clock shows, and the warning when it gets old: apart
//! from the task that follows the store, so that nothing which keeps that one waiting keeps this one silent.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::interval;

use super::{OLD, SyncState};
use crate::access::time::Timestamp;
use crate::clock::Clock;
use crate::index::{Aging, IndexReader};
use crate::telemetry::metrics::Metrics;

const EVERY: Duration = Duration::from_secs(1);
/// The warning is not repeated within this.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Measures until it is aborted.
pub(super) async fn report(index: IndexReader, aging: Aging, clock: Clock, metrics: Metrics, state: watch::Receiver<SyncState>) {
    let mut ticks = interval(EVERY);
    let mut reporter = Reporter { began: clock.now(), warned: None, index, aging, clock, metrics, state };
    loop {
        ticks.tick().await;
        reporter.aging.pass(reporter.clock.now(), reporter.clock.monotonic());
        reporter.measure();
        reporter.warn_if_old();
    }
}

struct Reporter {
    index: IndexReader,
    aging: Aging,
    clock: Clock,
    metrics: Metrics,
    state: watch::Receiver<SyncState>,
    began: Timestamp,
    /// When the last warning was, by the monotonic clock.
    warned: Option<Instant>,
}

impl Reporter {
    fn measure(&self) {
        self.metrics.set_index(self.index.len() as u64, self.index.revision());
        if let Some(heard_at) = self.index.heard_at() {
            self.metrics.set_index_current_at(heard_at);
        }
    }

    fn warn_if_old(&mut self) {
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        let age = now.since(self.index.heard_at().unwrap_or(self.began));
        let told = self.warned.is_some_and(|at| monotonic.saturating_duration_since(at) < WARN_EVERY);
        if age >= OLD && !told {
            warn(&self.index, now, age, self.state.borrow().problem.as_deref());
            self.warned = Some(monotonic);
        }
    }
}

fn warn(index: &IndexReader, now: Timestamp, age: Duration, problem: Option<&str>) {
    let age_s = age.as_secs();
    if index.heard_at().is_none() {
        tracing::error!(waiting_s = age_s, problem, "there is nothing to decide by: neither the store nor a snapshot could be loaded");
    } else if index.may_serve(now) {
        let lease_ends = index.lease_ends().map(tracing::field::display);
        tracing::warn!(age_s, problem, lease_ends, "the store has not been heard from: decisions are made by what was known then");
    } else {
        tracing::error!(age_s, problem, "the lease is over: the store has not been heard from for too long, and no request passes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TestClock;
    use crate::index::{IndexWriter, new_index};
    use crate::store::Epoch;
    use crate::sync::{IndexState, StoreState};

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const LEASE: Duration = Duration::from_secs(300);

    /// The levels and moments, in seconds, of what is logged while nothing is heard from the store.
    fn warnings(with_index: bool, seconds: u64) -> Vec<(String, u64)> {
        let (mut writer, reader) = new_index(Some(LEASE));
        if with_index {
            writer.swap(IndexWriter::load(0), 1, NOW);
        }
        let test = TestClock::at(NOW);
        let index = IndexState { epoch: Epoch::from_bytes([0; 16]), revision: 1, heard_at: NOW };
        let state = SyncState { store: StoreState::Unreachable, store_since: NOW, index: Some(index), problem: Some("gone".to_owned()) };
        let (_state, seen) = watch::channel(state);
        let metrics = Metrics::new(test.clock());
        let mut reporter =
            Reporter { began: NOW, warned: None, index: reader, aging: writer.aging(), clock: test.clock(), metrics, state: seen };
        let log = crate::telemetry::log::captured(|| {
            for _ in 0..seconds {
                test.pass(EVERY);
                reporter.warn_if_old();
            }
        });
        log.lines().map(|line| serde_json::from_str(line).unwrap()).map(level_and_age).collect()
    }

    fn level_and_age(line: serde_json::Value) -> (String, u64) {
        assert_eq!(line["problem"], "gone");
        let age = line.get("age_s").or(line.get("waiting_s")).unwrap().as_u64().unwrap();
        (line["level"].as_str().unwrap().to_lowercase(), age)
    }

    #[test]
    fn from_sixty_seconds_on_an_old_index_is_told_of_once_a_minute_and_when_its_lease_is_over_louder() {
        let told = warnings(true, 400);
        let expected = [("warn", 60), ("warn", 120), ("warn", 180), ("warn", 240), ("warn", 300), ("error", 360)];
        assert_eq!(told, expected.map(|(level, age)| (level.to_owned(), age)));
    }

    #[test]
    fn a_young_index_is_nothing_to_speak_of() {
        assert_eq!(warnings(true, 59), []);
    }

    #[test]
    fn to_have_nothing_to_decide_by_is_told_once_a_minute() {
        let told = warnings(false, 130);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|(level, _)| level == "error"));
    }
}
