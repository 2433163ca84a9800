//! How long things may take. One timer for each connection, armed anew only when it must ring earlier than it would: a request
//! costs a look at the clock, not a timer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use crate::clock::Clock;

/// What a connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// Nothing: it waits for a request.
    Idle,
    /// A head has begun and not ended.
    Head,
    /// A request is under way, and has times of its own.
    Busy,
    /// The last reply goes out, and what the client still sends is read for nothing.
    Ending,
}

/// Long enough for a client to read its last reply.
const ENDING: Duration = Duration::from_secs(2);

/// The patience with one connection.
#[derive(Debug)]
pub struct Pace {
    idle: Option<Duration>,
    head: Option<Duration>,
    clock: Clock,
    doing: Activity,
    /// Which of them it is: what begins and ends between two looks is seen by it alone.
    turn: u64,
    since: Instant,
    alarm: Alarm,
}

impl Pace {
    pub fn new(idle: Option<Duration>, head: Option<Duration>, clock: Clock) -> Self {
        let since = clock.monotonic();
        Self { idle, head, clock, doing: Activity::Idle, turn: 0, since, alarm: Alarm::default() }
    }

    /// Ready when the connection has been doing one thing for longer than it may, with what it is. `turn` is another number for
    /// another request.
    pub fn poll(&mut self, doing: Activity, turn: u64, context: &mut Context<'_>) -> Poll<Activity> {
        if (doing, turn) != (self.doing, self.turn) {
            (self.doing, self.turn) = (doing, turn);
            self.since = self.clock.monotonic();
        }
        loop {
            let limit = match self.doing {
                Activity::Idle => self.idle,
                Activity::Head => self.head,
                Activity::Busy => None,
                Activity::Ending => Some(ENDING),
            };
            let Some(due) = limit.map(|limit| self.since + limit) else { return Poll::Pending };
            if self.alarm.poll(due, context).is_pending() {
                return Poll::Pending;
            }
            // It may have been armed for something that is over.
            if self.clock.monotonic() >= due {
                return Poll::Ready(self.doing);
            }
        }
    }
}

/// A timer that is used again and again, for moments that are mostly later than the one that it was armed for.
#[derive(Debug, Default)]
pub struct Alarm(Option<(Instant, Pin<Box<Sleep>>)>);

impl Alarm {
    /// Ready at `due` or earlier: who is woken has to look at the clock.
    pub fn poll(&mut self, due: Instant, context: &mut Context<'_>) -> Poll<()> {
        if self.0.as_ref().is_none_or(|(armed, _)| *armed > due) {
            self.0 = Some((due, Box::pin(sleep_until(due.into()))));
        }
        let Some((_, timer)) = &mut self.0 else { return Poll::Pending };
        let rung = timer.as_mut().poll(context);
        if rung.is_ready() {
            self.0 = None;
        }
        rung
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const IDLE: Option<Duration> = Some(Duration::from_secs(60));
    const HEAD: Option<Duration> = Some(Duration::from_secs(10));
    const LONG: Duration = Duration::from_secs(20);

    /// After how long one thing is ended; none if it was not within `patience`. Real clocks, short times.
    async fn ends_after(idle: u64, head: u64, doing: Activity, patience: Duration) -> Option<Duration> {
        let (idle, head) = (Some(Duration::from_millis(idle)), Some(Duration::from_millis(head)));
        let mut pace = Pace::new(idle, head, Clock::of_the_machine());
        let start = Instant::now();
        let end = poll_fn(|context| pace.poll(doing, 0, context));
        tokio::time::timeout(patience, end).await.ok().map(|_| start.elapsed())
    }

    #[tokio::test]
    async fn each_activity_has_its_own_patience_and_a_request_none() {
        assert!(ends_after(20, 60_000, Activity::Idle, LONG).await.is_some_and(|after| after >= Duration::from_millis(20)));
        assert!(ends_after(60_000, 20, Activity::Head, LONG).await.is_some_and(|after| after >= Duration::from_millis(20)));
        assert!(ends_after(10, 10, Activity::Busy, Duration::from_millis(100)).await.is_none());
    }

    #[tokio::test]
    async fn a_slow_head_is_ended_by_the_timer_for_heads_though_the_one_for_idleness_was_armed() {
        let mut pace = Pace::new(IDLE, Some(Duration::from_millis(20)), Clock::of_the_machine());
        let idle = poll_fn(|context| Poll::Ready(pace.poll(Activity::Idle, 0, context))).await;
        assert!(idle.is_pending());
        assert_eq!(poll_fn(|context| pace.poll(Activity::Head, 0, context)).await, Activity::Head);
    }

    #[tokio::test]
    async fn the_timer_of_what_is_over_ends_nothing() {
        let mut pace = Pace::new(Some(Duration::from_millis(20)), HEAD, Clock::of_the_machine());
        assert!(poll_fn(|context| Poll::Ready(pace.poll(Activity::Idle, 0, context))).await.is_pending());
        let busy = poll_fn(|context| pace.poll(Activity::Busy, 0, context));
        assert!(tokio::time::timeout(Duration::from_millis(60), busy).await.is_err());
    }

    #[tokio::test]
    async fn a_request_that_came_and_went_between_two_looks_begins_the_patience_anew() {
        // Two seconds in all, and never near them at once, however busy the machine is.
        let mut pace = Pace::new(Some(Duration::from_secs(2)), HEAD, Clock::of_the_machine());
        for turn in 0..12 {
            let idle = poll_fn(|context| pace.poll(Activity::Idle, turn, context));
            assert!(tokio::time::timeout(Duration::from_millis(200), idle).await.is_err());
        }
    }
}
