//! Waiting on conditions. Nothing waits for a time to pass: a wait ends as soon as what it waits for is there, and fails, at the
//! line that waited, if that never comes.

use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Far more than anything here takes; met only by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What comes of `future`, which must come soon.
#[track_caller]
pub fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    // On the heap: the futures of whole exchanges are large, and many are nested.
    let future = Box::pin(future);
    async move { timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{caller}: nothing came within {PATIENCE:?}")) }
}

/// What `look` finds as soon as it finds something.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let end = Instant::now() + PATIENCE;
        loop {
            match look() {
                Some(found) => return found,
                None => assert!(Instant::now() < end, "{caller}: {what} did not come about within {PATIENCE:?}"),
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// The same for what has to be asked for.
#[track_caller]
pub fn eventually_asked<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let end = Instant::now() + PATIENCE;
        loop {
            match ask().await {
                Some(answer) => return answer,
                None => assert!(Instant::now() < end, "{caller}: {what} did not come about within {PATIENCE:?}"),
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
