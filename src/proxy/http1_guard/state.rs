//! What a guard and the service behind it tell each other.
//!
//! Requests are known by their number: the guard counts the heads that it delivers, the service those that it is handed.
//! hyper hands them over in order, so both counts mean the same request, also when the client sends several at once.
//!
//! A connection lives on one thread, and nothing here is ever waited for. It is atomics and uncontended locks all the same,
//! because hyper asks of upgraded streams and of interim callbacks that they could be sent to another thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use hyper::Method;

use super::Violation;

/// The state that a [`Guarded`](super::Guarded) stream shares with the service of its connection.
#[derive(Default)]
pub struct GuardState {
    phase: AtomicU8,
    /// Heads delivered, the canned one among them.
    delivered: AtomicU64,
    /// Heads handed to the service.
    handled: AtomicU64,
    /// The number of the refused head: a connection has one at most, its last. 0: none.
    refused_number: AtomicU64,
    refused: Mutex<Option<Refused>>,
    /// The number of the request that waits for the answer to its wish for an upgrade. 0: none.
    asked: AtomicU64,
    answer: AtomicU8,
    waker: Mutex<Option<Waker>>,
    interim_waits: AtomicBool,
    interim: Mutex<Interim>,
    /// Bytes that hyper offered and the socket has not taken yet.
    owed: AtomicUsize,
}

/// Where in the client's bytes a guard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Between two messages: no byte of the next head has come, or hyper has other requests to see to first.
    Idle,
    /// In a head: its first byte has come, its last has not, and the client is waited for.
    Head,
    /// In a body or its trailers.
    Body,
    /// Behind a head that asks for an upgrade. Bytes are kept and neither read as a message nor passed on.
    Parked,
    /// Everything passes.
    Tunnel,
    /// Nothing is read as a message any more: behind a head that was refused, from [`GuardState::take_verdict`] on; behind a
    /// malformed body, once its reading has failed; and once the stream is shut down in the middle of a message.
    Refused,
}

/// A head that was refused. hyper was given a canned one in its place.
#[derive(Clone, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong with it.
    pub what: Violation,
    /// The method, if it could be read and is not longer than 32 bytes.
    pub method: Option<Method>,
    /// The target without its query, as far as it could be read: visible ASCII, at most 1024 bytes.
    pub target: Option<Box<str>>,
}

/// What the service said of an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Answer {
    Granted = 1,
    Declined = 2,
}

/// The interim replies that wait to be written.
#[derive(Default)]
pub(super) struct Interim {
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
    /// So many bytes of hyper's belong to the reply before and go first.
    pub(super) behind: usize,
}

impl GuardState {
    /// To be called exactly once for each request that hyper hands to the service, before anything else is done with it.
    /// `Some`: the request is the canned one; the client's own head was refused for the reason given.
    pub fn take_verdict(&self) -> Option<Refused> {
        let number = next(&self.handled);
        if self.refused_number.load(Relaxed) == number { lock(&self.refused).take() } else { None }
    }

    /// Whether the request at hand asks for an upgrade that [`tunnel`](Self::tunnel) could still grant. A request with an
    /// Upgrade field may not be: HTTP/1.0, and requests with a body, are served as if they had none.
    pub fn parked(&self) -> bool {
        let asked = self.asked.load(Relaxed);
        asked != 0 && asked == self.handled.load(Relaxed) && self.answer.load(Relaxed) == 0
    }

    /// The upstream said 101, and so will the reply to the request at hand: from here on every byte passes.
    /// `false`: the request is not [`parked`](Self::parked), and the reply must not be a 101.
    #[must_use]
    pub fn tunnel(&self) -> bool {
        self.answer_upgrade(Answer::Granted)
    }

    /// The request at hand will not be upgraded: what follows it is the next request. Nothing happens if it is not
    /// [`parked`](Self::parked). Until one of the two is called no byte behind a parked request reaches hyper.
    pub fn no_tunnel(&self) {
        self.answer_upgrade(Answer::Declined);
    }

    /// Queues the whole head of an interim reply (1xx but 101, with its empty line). It goes out behind the reply before
    /// and before the next byte of the reply to come. The caller leaves out what HTTP/1.0 clients must not get.
    pub fn interim(&self, head: &[u8]) {
        let mut interim = lock(&self.interim);
        if interim.bytes.is_empty() {
            interim.behind = self.owed.load(Relaxed);
        }
        interim.bytes.extend_from_slice(head);
        self.interim_waits.store(true, Relaxed);
        self.wake();
    }

    /// Where in the client's bytes the guard is.
    pub fn phase(&self) -> Phase {
        const PHASES: [Phase; 6] = [Phase::Idle, Phase::Head, Phase::Body, Phase::Parked, Phase::Tunnel, Phase::Refused];
        match PHASES.get(usize::from(self.phase.load(Relaxed))) {
            // The requests before the refused one have their own time.
            Some(Phase::Refused) if self.refused_number.load(Relaxed) > self.handled.load(Relaxed) => Phase::Idle,
            phase => phase.copied().unwrap_or(Phase::Refused),
        }
    }

    /// Whether a head has begun and not ended: the time that `limits.head_timeout` bounds.
    pub fn head_started(&self) -> bool {
        self.phase() == Phase::Head
    }

    /// Whether the client is between two messages. The reply to the last one may still be on its way.
    pub fn idle(&self) -> bool {
        self.phase() == Phase::Idle
    }

    /// How many heads were complete, a refused one included. Grows when [`head_started`](Self::head_started) ends, so two
    /// heads with no pause between them can be told apart.
    pub fn heads(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    pub(super) fn head_delivered(&self, asks_for_upgrade: bool) {
        let number = next(&self.delivered);
        if asks_for_upgrade {
            self.asked.store(number, Relaxed);
        }
    }

    pub(super) fn head_refused(&self, refused: Refused) {
        *lock(&self.refused) = Some(refused);
        self.refused_number.store(next(&self.delivered), Relaxed);
    }

    /// The answer to the request that waits for one, once.
    pub(super) fn take_answer(&self) -> Option<Answer> {
        let answer = match self.answer.load(Relaxed) {
            0 => return None,
            granted if granted == Answer::Granted as u8 => Answer::Granted,
            _ => Answer::Declined,
        };
        self.answer.store(0, Relaxed);
        self.asked.store(0, Relaxed);
        Some(answer)
    }

    pub(super) fn set_waker(&self, waker: &Waker) {
        *lock(&self.waker) = Some(waker.clone());
    }

    pub(super) fn interim_waits(&self) -> bool {
        self.interim_waits.load(Relaxed)
    }

    pub(super) fn interim_queue(&self) -> MutexGuard<'_, Interim> {
        lock(&self.interim)
    }

    pub(super) fn interim_sent(&self, mut interim: MutexGuard<'_, Interim>) {
        *interim = Interim::default();
        self.interim_waits.store(false, Relaxed);
    }

    pub(super) fn set_owed(&self, bytes: usize) {
        self.owed.store(bytes, Relaxed);
    }

    fn answer_upgrade(&self, answer: Answer) -> bool {
        let parked = self.parked();
        if parked {
            self.answer.store(answer as u8, Relaxed);
            self.wake();
        }
        parked
    }

    fn wake(&self) {
        if let Some(waker) = &*lock(&self.waker) {
            waker.wake_by_ref();
        }
    }
}

impl fmt::Debug for GuardState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardState").field("phase", &self.phase()).field("heads", &self.heads()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Refused {
    /// Without the target: a client may have put its secret there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("what", &self.what).field("method", &self.method).finish_non_exhaustive()
    }
}

/// Counts one further. One thread counts, so a plain load and store do.
fn next(count: &AtomicU64) -> u64 {
    let number = count.load(Relaxed) + 1;
    count.store(number, Relaxed);
    number
}

/// Nothing that could panic is done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
