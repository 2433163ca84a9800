//! The only reader of clocks. Everybody else is handed a [`Clock`], or better, the moment itself.
//!
//! The time that decisions are made by never runs backwards: a key that was seen expired stays expired, whatever happens to
//! the machine's clock. While that clock is behind the latest time seen, [`Clock::now`] stands still; timers and deadlines
//! are therefore measured by [`Clock::monotonic`]. Deliberately absent: timers (they are the runtime's) and calendars.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use crate::access::time::Timestamp;

/// A jump back by more than this is an alarm; less is what keeping a clock in step looks like.
const TOLERATED_STEP: Duration = Duration::from_secs(60);

/// The machine's clocks, or a test's. Cheap to clone; all clones share the latest time seen.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: Source,
    /// The latest time seen, in milliseconds since the Unix epoch.
    latest: AtomicI64,
    /// Whether the jump that the machine's clock is behind by has been reported.
    reported: AtomicBool,
}

#[derive(Debug)]
enum Source {
    Machine,
    Test(Arc<TestTime>),
}

impl Clock {
    /// The clocks of the machine.
    pub fn of_the_machine() -> Self {
        Self::reading(Source::Machine)
    }

    /// The time that decisions are made by: the wall clock's, but never earlier than it was before.
    ///
    /// Costs a reading of the clock and a relaxed load; the shared word is written at most once a millisecond.
    #[inline]
    pub fn now(&self) -> Timestamp {
        let wall = self.0.source.wall();
        let latest = Timestamp::from_millis(self.0.latest.load(Relaxed));
        if wall > latest {
            return self.advance_to(wall);
        }
        if wall < latest {
            self.look_behind(latest);
        }
        latest
    }

    /// What the wall clock shows, be it behind what it was: for the time of log lines and for nothing that decides.
    pub fn wall(&self) -> Timestamp {
        self.0.source.wall()
    }

    /// For durations and deadlines: never jumps, and means nothing outside this process.
    #[inline]
    pub fn monotonic(&self) -> Instant {
        match &self.0.source {
            Source::Machine => Instant::now(),
            Source::Test(time) => time.started + Duration::from_millis(time.elapsed.load(Relaxed)),
        }
    }

    fn reading(source: Source) -> Self {
        Self(Arc::new(Shared { source, latest: AtomicI64::new(i64::MIN), reported: AtomicBool::new(false) }))
    }

    fn advance_to(&self, wall: Timestamp) -> Timestamp {
        let before = self.0.latest.fetch_max(wall.millis(), Relaxed);
        if self.0.reported.load(Relaxed) {
            self.0.reported.store(false, Relaxed);
        }
        Timestamp::from_millis(before.max(wall.millis()))
    }

    /// The wall clock is behind: by so much that it must have jumped?
    #[cold]
    fn look_behind(&self, latest: Timestamp) {
        // Read again: a thread that was held up between its reading and its look at the latest time has seen no jump.
        let wall = self.0.source.wall();
        let behind = latest.since(wall);
        if behind > TOLERATED_STEP && !self.0.reported.load(Relaxed) && !self.0.reported.swap(true, Relaxed) {
            tracing::warn!(
                wall_clock = %wall,
                decisions_at = %latest,
                behind_ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX),
                "the machine's clock jumped back: until it catches up, keys are judged by the latest time seen; \
                 if that time was wrong, set the clock right and restart"
            );
        }
    }
}

impl Source {
    fn wall(&self) -> Timestamp {
        match self {
            Self::Machine => wall_of_the_machine(),
            Self::Test(time) => Timestamp::from_millis(time.wall.load(Relaxed)),
        }
    }
}

fn wall_of_the_machine() -> Timestamp {
    // A clock before 1970 is no clock: it counts as the epoch, behind everything that was ever seen.
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // By parts, because `as_millis` divides 128 bits.
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_millis(seconds.saturating_mul(1_000).saturating_add(i64::from(since_epoch.subsec_millis())))
}

/// A clock that stands still until a test moves it. Not hidden behind `cfg(test)`: end-to-end tests start the whole program.
#[derive(Debug)]
pub struct TestClock {
    clock: Clock,
    time: Arc<TestTime>,
}

#[derive(Debug)]
struct TestTime {
    wall: AtomicI64,
    started: Instant,
    /// Milliseconds of monotonic time since `started`.
    elapsed: AtomicU64,
}

impl TestClock {
    pub fn at(now: Timestamp) -> Self {
        let time = Arc::new(TestTime { wall: AtomicI64::new(now.millis()), started: Instant::now(), elapsed: AtomicU64::new(0) });
        Self { clock: Clock::reading(Source::Test(Arc::clone(&time))), time }
    }

    /// The clock to hand to what is tested.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Sets the wall clock alone, forwards or backwards, as somebody with `date` would.
    pub fn set(&self, now: Timestamp) {
        self.time.wall.store(now.millis(), Relaxed);
    }

    /// Lets time pass, to the millisecond, on both clocks.
    pub fn pass(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.time.elapsed.fetch_add(millis, Relaxed);
        self.set(Timestamp::from_millis(self.time.wall.load(Relaxed)).plus(duration));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// How many warnings `doing` logs on this thread.
    fn alarms(doing: impl FnOnce()) -> usize {
        let log = crate::telemetry::log::captured(doing);
        log.lines().filter(|line| line.contains("jumped back")).count()
    }

    #[test]
    fn the_time_of_decisions_never_runs_backwards() {
        let test = TestClock::at(START);
        let clock = test.clock();
        assert_eq!(clock.now(), START);
        test.set(START.minus(seconds(3_600)));
        assert_eq!(clock.now(), START);
        assert_eq!(clock.wall(), START.minus(seconds(3_600)));
        test.set(START.plus(seconds(1)));
        assert_eq!(clock.now(), START.plus(seconds(1)));
    }

    #[test]
    fn clones_share_the_latest_time_seen() {
        let test = TestClock::at(START);
        let (one, other) = (test.clock(), test.clock());
        assert_eq!(one.now(), START);
        test.set(START.minus(seconds(10)));
        assert_eq!(other.now(), START);
    }

    #[test]
    fn a_jump_back_alarms_once_and_the_next_one_again() {
        let test = TestClock::at(START);
        let clock = test.clock();
        clock.now();
        let jump = || {
            test.set(START.minus(seconds(61)));
            (0..100).for_each(|_| assert_eq!(clock.now(), clock.now()));
        };
        assert_eq!(alarms(jump), 1);
        test.set(START.plus(seconds(1)));
        clock.now();
        assert_eq!(alarms(jump), 1);
    }

    #[test]
    fn a_step_back_of_a_minute_is_no_alarm() {
        let test = TestClock::at(START);
        let clock = test.clock();
        clock.now();
        test.set(START.minus(seconds(60)));
        assert_eq!(alarms(|| assert_eq!(clock.now(), START)), 0);
    }

    #[test]
    fn setting_the_wall_clock_does_not_move_the_monotonic_one() {
        let test = TestClock::at(START);
        let clock = test.clock();
        let before = clock.monotonic();
        test.set(START.minus(seconds(100)));
        assert_eq!(clock.monotonic(), before);
        test.pass(seconds(5));
        assert_eq!(clock.monotonic() - before, seconds(5));
        assert_eq!(clock.wall(), START.minus(seconds(95)));
    }

    #[test]
    fn the_machines_clock_goes_on() {
        let clock = Clock::of_the_machine();
        let (first, second) = (clock.now(), clock.now());
        assert!(first <= second);
        assert!(first > START);
    }
}
