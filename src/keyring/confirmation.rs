//! Waiting until the running nodes enforce a change.
//!
//! A node is waited for while it is live, that is for six seconds after its last mark. One that fell silent without a clean
//! stop is not waited for; but since it may still let requests pass until its lease has ended, it is counted and named. Marks are
//! made by the wall clock, and compared with it: the time of decisions may be ahead of it in one process and not in another.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use super::view::{Confirmation, SilentNode};
use crate::clock::Clock;
use crate::store::NodeEntry;

/// How long a change waits for nodes before it is answered without them.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long one look may take.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Waits until each live node enforces `revision`. `nodes` are those on the list at the commit; `look` waits a moment and says
/// who is on it then, or None if that cannot be known.
pub(super) async fn wait<Look, Answer>(revision: u64, mut nodes: Vec<NodeEntry>, clock: &Clock, mut look: Look) -> Confirmation
where
    Look: FnMut() -> Answer,
    Answer: Future<Output = Option<Vec<NodeEntry>>>,
{
    let committed = clock.monotonic();
    // When each node was first seen to enforce it.
    let mut confirmed: HashMap<String, Duration> = HashMap::new();
    loop {
        let (now, passed) = (clock.wall(), clock.monotonic().duration_since(committed));
        for node in nodes.iter().filter(|node| node.revision >= revision) {
            confirmed.entry(node.id.clone()).or_insert(passed);
        }
        let waiting = nodes.iter().any(|node| node.is_live(now) && node.revision < revision);
        if !waiting || passed >= PATIENCE {
            return summary(nodes, &confirmed, clock);
        }
        if let Some(listed) = look().await {
            nodes = listed;
        }
    }
}

fn summary(nodes: Vec<NodeEntry>, confirmed: &HashMap<String, Duration>, clock: &Clock) -> Confirmation {
    let now = clock.wall();
    let counted: Vec<NodeEntry> = nodes.into_iter().filter(|node| node.is_live(now) || node.may_serve(now)).collect();
    let mut confirmation = Confirmation { nodes: counted.len(), ..Confirmation::default() };
    for node in counted {
        // One that confirmed and fell silent since then does enforce it.
        match confirmed.get(&node.id) {
            Some(after) => {
                confirmation.confirmed += 1;
                let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                confirmation.slowest_ms = confirmation.slowest_ms.max(Some(millis));
            }
            None => confirmation.silent.push(SilentNode::of(node)),
        }
    }
    confirmation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::time::Timestamp;
    use crate::clock::TestClock;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn node(id: &str, revision: u64, seen_ago: u64, lease_left: Option<u64>) -> NodeEntry {
        NodeEntry {
            id: id.to_owned(),
            name: format!("{id}.example"),
            version: "1".to_owned(),
            started_at: START.minus(Duration::from_secs(1_000)),
            last_seen: START.minus(Duration::from_secs(seen_ago)),
            revision,
            lease_ends: lease_left.map(|left| START.plus(Duration::from_secs(left))),
        }
    }

    /// Waits for revision 10; `list` says who is on the list so many milliseconds after the commit.
    async fn waited(list: impl Fn(u64) -> Option<Vec<NodeEntry>>) -> (Confirmation, u64) {
        let test = TestClock::at(START);
        let clock = test.clock();
        let passed = || clock.now().since(START).as_millis().try_into().unwrap();
        let look = || {
            test.pass(LOOK_EVERY);
            let listed = list(passed());
            async { listed }
        };
        let confirmation = wait(10, list(0).unwrap(), &clock, look).await;
        (confirmation, passed())
    }

    #[tokio::test]
    async fn with_no_node_running_there_is_nothing_to_wait_for() {
        let (confirmation, passed) = waited(|_| Some(vec![])).await;
        assert_eq!(serde_json::to_string(&confirmation).unwrap(), r#"{"nodes":0,"confirmed":0,"slowest_ms":null,"silent":[]}"#);
        assert_eq!(passed, 0);
    }

    #[tokio::test]
    async fn the_slowest_live_node_is_waited_for() {
        let (confirmation, passed) = waited(|passed| {
            let at = |when| if passed >= when { 10 } else { 9 };
            Some(vec![node("a", at(15), 1, Some(60)), node("b", at(40), 1, Some(60))])
        })
        .await;
        assert_eq!(confirmation, Confirmation { nodes: 2, confirmed: 2, slowest_ms: Some(40), silent: vec![] });
        assert_eq!(passed, 40);
    }

    #[tokio::test]
    async fn a_live_node_that_does_not_confirm_is_named_after_two_seconds() {
        let (confirmation, passed) = waited(|_| Some(vec![node("a", 10, 1, Some(60)), node("b", 9, 1, Some(60))])).await;
        assert_eq!((confirmation.nodes, confirmation.confirmed, confirmation.slowest_ms), (2, 1, Some(0)));
        assert_eq!(confirmation.silent[0].node, "b");
        assert_eq!(passed, 2_000);
    }

    #[tokio::test]
    async fn a_node_that_fell_silent_is_counted_and_named_but_not_waited_for_until_its_lease_has_ended() {
        let listed = || Some(vec![node("lost", 9, 30, Some(60)), node("forever", 9, 30, None), node("over", 9, 30, Some(0))]);
        let (confirmation, passed) = waited(|_| listed()).await;
        assert_eq!((confirmation.nodes, confirmation.confirmed, confirmation.slowest_ms), (2, 0, None));
        assert_eq!(confirmation.silent.iter().map(|node| node.node.as_str()).collect::<Vec<_>>(), ["lost", "forever"]);
        assert_eq!(passed, 0);
    }

    #[tokio::test]
    async fn a_node_that_stops_meanwhile_is_no_longer_waited_for() {
        let (confirmation, passed) = waited(|passed| Some(if passed < 20 { vec![node("a", 9, 1, Some(60))] } else { vec![] })).await;
        assert_eq!((confirmation.nodes, passed), (0, 20));
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_confirms_nothing() {
        let (confirmation, passed) = waited(|passed| (passed == 0).then(|| vec![node("a", 9, 1, Some(60))])).await;
        assert_eq!((confirmation.nodes, confirmation.confirmed, confirmation.silent.len(), passed), (1, 0, 1, 2_000));
    }
}
