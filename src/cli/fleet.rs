//! `nodes` and `store`: the fleet and what it follows.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

use super::args::{NodesCommand, Store};
use super::operator::Operator;
use super::output::{self, Output, cell, status_cell};
use super::times;
use crate::access::time::Timestamp;
use crate::keyring::Keyring;
use crate::keyring::view::{NodeView, Page};
use crate::sync::snapshot::SnapshotFile;

pub async fn nodes(operator: &Operator, asked: Option<NodesCommand>, output: Output) -> Result<()> {
    match asked {
        None => operator.with_keyring(async |keyring| list(keyring, output).await).await,
        Some(NodesCommand::Forget { id }) => operator.with_keyring(async |keyring| forget(operator, keyring, &id, output).await).await,
    }
}

async fn list(keyring: &Keyring, output: Output) -> Result<()> {
    let page = Page { items: keyring.nodes().await?, next_cursor: None };
    output.answer(&page, |page, out| write_list(&page.items, keyring.clock().now(), out))
}

async fn forget(operator: &Operator, keyring: &Keyring, id: &str, output: Output) -> Result<()> {
    let node = keyring.forget_node(&operator.actor, id).await?;
    output.answer(&node, |node, out| writeln!(out, "Forgot the node {} ({}).", output::plain(&node.name), output::plain(&node.id)))
}

fn write_list(nodes: &[NodeView], now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    if nodes.is_empty() {
        return writeln!(out, "No node runs.");
    }
    let mut table = output::table(&["NODE", "NAME", "VERSION", "STATUS", "STARTED", "LAST SEEN", "REVISION", "LEASE ENDS"]);
    for node in nodes {
        table.add_row([
            cell(&node.id),
            cell(&node.name),
            cell(&node.version),
            status_cell(if node.live { "live" } else { "silent" }),
            cell(times::short(node.started_at, now)),
            cell(times::short(node.last_seen, now)),
            cell(node.revision),
            cell(node.lease_ends.map_or_else(|| "never".to_owned(), |end| times::short(end, now))),
        ]);
    }
    output::write_table(out, table)
}

#[derive(Serialize)]
struct Accepted {
    epoch: String,
    revision: u64,
}

pub async fn store(operator: &Operator, asked: &Store, output: Output) -> Result<()> {
    match asked {
        Store::Accept => operator.with_keyring(async |keyring| accept(operator, keyring, output).await).await,
    }
}

async fn accept(operator: &Operator, keyring: &Keyring, output: Output) -> Result<()> {
    // A node that does not run now judges the store by its snapshot when it starts.
    let known = SnapshotFile::new(operator.config.snapshot.path.clone()).epochs();
    let position = keyring.accept_store(&operator.actor, &known).await?;
    let accepted = Accepted { epoch: position.epoch.to_string(), revision: position.revision };
    output.answer(&accepted, |accepted, out| {
        writeln!(out, "From now on nodes take this store for the truth: epoch {}, revision {}.", accepted.epoch, accepted.revision)
    })
}
