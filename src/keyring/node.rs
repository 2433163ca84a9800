//! The fleet, as far as the operator has to do with it: who runs, forgetting one that died, accepting a store.

use super::Keyring;
use super::actor::Actor;
use super::attempt::Attempt;
use super::error::KeyringError;
use super::view::NodeView;
use crate::store::Epoch;

/// What accepting a store made of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcceptedStore {
    /// The new epoch.
    pub epoch: Epoch,
    /// The newest revision when it began.
    pub revision: u64,
}

impl Keyring {
    /// All nodes that registered and did not stop cleanly since, in the order in which they started.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, KeyringError> {
        // Marks are made by the wall clock, and compared with it.
        let now = self.clock.wall();
        Ok(self.store.nodes().await?.into_iter().map(|node| NodeView::of(node, now)).collect())
    }

    /// Takes a node off the list that will not come back, so that changes no longer name it as silent.
    ///
    /// # Errors
    /// No such node, or one that is live: it would put itself back on the list.
    pub async fn forget_node(&self, actor: &Actor, id: &str) -> Result<NodeView, KeyringError> {
        let shown = crate::access::secret::hide_secrets(id).escape_debug().to_string();
        let mut attempt = self.attempt(actor, "node.forget", Some(shown)).await?;
        let outcome = attempt.forget_node(id).await;
        Ok(attempt.conclude(outcome).await?.0)
    }

    /// Begins a new epoch: nodes take this store for the truth from now on, though it is behind what they knew. So do those that
    /// run without being on its list, if the epochs that their snapshots are of are `known`.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn accept_store(&self, actor: &Actor, known: &[Epoch]) -> Result<AcceptedStore, KeyringError> {
        let mut attempt = self.attempt(actor, "store.accept", None).await?;
        let outcome = attempt.accept_store(known).await;
        let (epoch, committed) = attempt.conclude(outcome).await?;
        Ok(AcceptedStore { epoch, revision: committed.revision })
    }
}

impl Attempt<'_> {
    async fn forget_node(&mut self, id: &str) -> Result<NodeView, KeyringError> {
        let found = self.write.nodes().await?.into_iter().find(|node| node.id == id);
        let name = crate::access::secret::hide_secrets(id).escape_debug().to_string();
        let node = NodeView::of(found.ok_or(KeyringError::NotFound { what: "node", name })?, self.keyring().clock.wall());
        if node.live {
            return Err(KeyringError::WrongStatus(format!("node {id} is running: stop it, which takes it off the list")));
        }
        self.write.remove_node(id).await?;
        self.note(Some(&node), None::<&NodeView>).await?;
        Ok(node)
    }

    async fn accept_store(&mut self, known: &[Epoch]) -> Result<Epoch, KeyringError> {
        let epoch = Epoch::from_bytes(self.keyring().random.bytes()?);
        self.write.begin_epoch(epoch, known).await?;
        let accepted = serde_json::json!({ "epoch": epoch.to_string(), "revision": self.write.revision() });
        self.note(None::<&serde_json::Value>, Some(&accepted)).await?;
        Ok(epoch)
    }
}
