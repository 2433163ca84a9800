//! Shutting down: tell everybody, wait for them up to a deadline, then stop those who are left.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Phase {
    Running,
    /// Begin nothing new, finish what was begun.
    Draining,
    /// Leave everything as it is.
    Stopped,
}

/// The two ends: one for who decides to stop, one for whoever has to finish something first.
pub fn channel() -> (DrainTrigger, Drain) {
    let (tell, told) = watch::channel(Phase::Running);
    let (alive, ended) = mpsc::channel(1);
    (DrainTrigger { tell, ended }, Drain { told, _alive: alive })
}

/// Tells everybody to stop, and learns when they have.
#[derive(Debug)]
pub struct DrainTrigger {
    tell: watch::Sender<Phase>,
    ended: mpsc::Receiver<()>,
}

/// Held by everybody who has to finish something; a clone counts for itself until it is dropped.
#[derive(Clone, Debug)]
pub struct Drain {
    told: watch::Receiver<Phase>,
    _alive: mpsc::Sender<()>,
}

impl DrainTrigger {
    /// Tells everybody to finish, and waits until all have; after `patience` (None: never) tells them to stop as they are. True
    /// if all finished by themselves.
    pub async fn drain(mut self, patience: Option<Duration>) -> bool {
        self.tell.send_replace(Phase::Draining);
        // Nobody ever sends: this ends when the last clone of `Drain` is dropped.
        let all_ended = self.ended.recv();
        let finished = match patience {
            Some(patience) => tokio::time::timeout(patience, all_ended).await.is_ok(),
            None => all_ended.await.is_none(),
        };
        self.tell.send_replace(Phase::Stopped);
        finished
    }
}

impl Drain {
    /// Returns when it is time to finish; also if the trigger is gone.
    pub async fn told(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Returns when it is time to stop, finished or not.
    pub async fn stopped(&self) {
        self.reached(Phase::Stopped).await;
    }

    /// Whether it is time to finish.
    pub fn is_told(&self) -> bool {
        *self.told.borrow() >= Phase::Draining
    }

    async fn reached(&self, phase: Phase) {
        let mut told = self.told.clone();
        // An error means that the trigger was dropped: whoever would have told us is gone, so stop.
        let _ = told.wait_for(|told| *told >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn draining_waits_for_the_last_holder() {
        let (trigger, drain) = channel();
        assert!(!drain.is_told());
        let worker = tokio::spawn(async move {
            drain.told().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        assert!(trigger.drain(Some(Duration::from_secs(5))).await);
        worker.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_finish_in_time_is_told_to_stop() {
        let (trigger, stuck) = channel();
        assert!(!trigger.drain(Some(Duration::from_secs(5))).await);
        assert!(stuck.is_told());
        stuck.stopped().await;
    }
}
