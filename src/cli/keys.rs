//! `keys`: what people do to keys, and how they are told what came of it.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::args::{CreateKey, Keys, ListKeys, RestrictKey};
use super::operator::Operator;
use super::output::{self, GOOD, Output, STRONG, WARN, cell, counted, status_cell};
use super::{times, transfer};
use crate::access::key::KeyId;
use crate::access::time::Timestamp;
use crate::keyring::view::{ChangedKey, Confirmation, IpRestrictionsView, KeyView, Page};
use crate::keyring::{self, Edit, Keyring, NewKey, Restrict};

pub async fn keys(operator: &Operator, asked: Keys, output: Output) -> Result<()> {
    operator.with_keyring(async |keyring| Desk { operator, keyring, now: operator.clock.now(), output }.serve(asked).await).await
}

/// What every command on keys works with.
struct Desk<'a> {
    operator: &'a Operator,
    keyring: &'a Keyring,
    now: Timestamp,
    output: Output,
}

impl Desk<'_> {
    async fn serve(&self, asked: Keys) -> Result<()> {
        match asked {
            Keys::Create(new) => self.create(new).await,
            Keys::List(list) => self.list(list).await,
            Keys::Show(key) => self.show(key.id).await,
            Keys::Rename { key, name } => self.edit(key.id, Edit { name: Some(name), ip_restrictions: None }).await,
            Keys::Restrict(asked) => self.restrict(asked).await,
            Keys::Rotate { key, overlap } => self.rotate(key.id, overlap).await,
            Keys::Pause(key) => self.changed(self.keyring.pause(&self.operator.actor, key.id).await?, "Paused"),
            Keys::Resume(key) => self.changed(self.keyring.resume(&self.operator.actor, key.id).await?, "Resumed"),
            Keys::Revoke { key, reason, yes } => self.revoke(key.id, reason.as_deref(), yes).await,
            Keys::Import { file } => transfer::import(self.operator, self.keyring, &file, self.output).await,
            Keys::Export { file } => transfer::export(self.keyring, &file, self.output).await,
        }
    }

    async fn create(&self, new: CreateKey) -> Result<()> {
        let restricted = !new.allow_ip.is_empty();
        let new = NewKey {
            account: new.account,
            name: new.name,
            environment: new.environment,
            permissions: (!new.permissions.is_empty()).then_some(new.permissions),
            ip_restrictions: restricted.then_some(IpRestrictionsView { enabled: true, allowed: new.allow_ip }),
            expires_at: new.expires_in.map(|lifetime| self.now.plus(lifetime).to_string()),
        };
        let created = self.keyring.create(&self.operator.actor, &new).await?;
        let shown = self.output.answer_once(&created, |created, out| {
            write_key(&created.key, self.now, out)?;
            output::secret(out, &created.secret)?;
            write_confirmation(&created.confirmation, out)
        });
        shown.with_context(|| lost(created.key.id))?;
        warn_of_silence(&created.confirmation, self.operator.clock.now());
        Ok(())
    }

    async fn list(&self, list: ListKeys) -> Result<()> {
        let ListKeys { account, environment, status, q, page } = list;
        let list = keyring::ListKeys { account, environment, status, q, limit: page.limit, cursor: page.cursor };
        let page = self.keyring.list(&list).await?;
        self.output.answer(&page, |page, out| write_list(page, self.now, out))?;
        tell_of_more(page.next_cursor.as_deref(), self.output);
        Ok(())
    }

    async fn show(&self, id: KeyId) -> Result<()> {
        let key = self.keyring.show(id).await?;
        self.output.answer(&key, |key, out| write_key(key, self.now, out))
    }

    async fn restrict(&self, asked: RestrictKey) -> Result<()> {
        let change = match (asked.on, asked.off) {
            (true, _) => Restrict::On,
            (_, true) => Restrict::Off,
            (false, false) => Restrict::Set(IpRestrictionsView { enabled: true, allowed: asked.allow_ip }),
        };
        self.edit(asked.key.id, Edit { name: None, ip_restrictions: Some(change) }).await
    }

    async fn edit(&self, id: KeyId, edit: Edit) -> Result<()> {
        // Who may pass is not altered by a name: it does not matter which nodes know it.
        let matters = edit.ip_restrictions.is_some();
        let edited = self.keyring.edit(&self.operator.actor, id, &edit).await?;
        self.output.answer(&edited, |edited, out| {
            write_key(&edited.key, self.now, out)?;
            if matters { write_confirmation(&edited.confirmation, out) } else { Ok(()) }
        })?;
        if matters {
            warn_of_silence(&edited.confirmation, self.operator.clock.now());
        }
        Ok(())
    }

    async fn rotate(&self, id: KeyId, overlap: Duration) -> Result<()> {
        let overlap = format!("{}ms", overlap.as_millis());
        let rotated = self.keyring.rotate(&self.operator.actor, id, Some(&overlap)).await?;
        let shown = self.output.answer_once(&rotated, |rotated, out| {
            write_key(&rotated.key, self.now, out)?;
            output::secret(out, &rotated.secret)?;
            match rotated.old.expires_at {
                Some(end) if end > self.now => writeln!(out, "The replaced key {id} works until {}.", times::long(end, self.now))?,
                _ => writeln!(out, "The replaced key {id} works no longer.")?,
            }
            write_confirmation(&rotated.confirmation, out)
        });
        shown.with_context(|| lost(rotated.key.id))?;
        warn_of_silence(&rotated.confirmation, self.operator.clock.now());
        Ok(())
    }

    async fn revoke(&self, id: KeyId, reason: Option<&str>, yes: bool) -> Result<()> {
        if !yes && io::stdin().is_terminal() && io::stderr().is_terminal() {
            ask(&self.keyring.show(id).await?)?;
        }
        self.changed(self.keyring.revoke(&self.operator.actor, id, reason).await?, "Revoked")
    }

    fn changed(&self, changed: ChangedKey, done: &str) -> Result<()> {
        self.output.answer(&changed, |changed, out| {
            let key = &changed.key;
            writeln!(out, "{done} the key {} (\"{}\", {}).", key.id, output::plain(&key.name), key.hint)?;
            write_confirmation(&changed.confirmation, out)
        })?;
        warn_of_silence(&changed.confirmation, self.operator.clock.now());
        Ok(())
    }
}

/// A secret can be shown only now.
fn lost(id: KeyId) -> String {
    format!("the key {id} was made, but its secret could not be shown: rotate or revoke it")
}

/// Asks whether a key is to be revoked.
fn ask(key: &KeyView) -> Result<()> {
    let mut err = anstream::stderr().lock();
    let (name, environment) = (output::plain(&key.name), key.environment);
    let question = format!("Revoke the {environment} key {} (\"{name}\", {}) for ever? [y/N] ", key.id, key.hint);
    write!(err, "{WARN}{question}{WARN:#}").and_then(|()| err.flush()).context("ask")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("read the answer")?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}

fn write_list(page: &Page<KeyView>, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    if page.items.is_empty() {
        return writeln!(out, "There is no such key.");
    }
    let mut table = output::table(&["KEY", "NAME", "HINT", "STATUS", "PERMISSIONS", "ADDRESSES", "CREATED", "EXPIRES"]);
    for key in &page.items {
        table.add_row([
            cell(key.id),
            cell(&key.name),
            // Its prefix says the environment.
            cell(&key.hint),
            status_cell(key.status.name()),
            cell(key.permissions.names().map_or_else(|| "full".to_owned(), |names| counted(names.len() as u64, "permission"))),
            cell(if key.ip_restrictions.enabled { counted(key.ip_restrictions.allowed.len() as u64, "range") } else { "any".to_owned() }),
            cell(times::short(key.created_at, now)),
            cell(key.expires_at.map_or_else(|| "never".to_owned(), |end| times::short(end, now))),
        ]);
    }
    output::write_table(out, table)
}

fn write_key(key: &KeyView, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    let mut table = output::table(&[]);
    let mut line = |title: &str, value: comfy_table::Cell| {
        table.add_row([cell(title), value]);
    };
    line("key", cell(key.id));
    line("name", cell(&key.name));
    line("account", cell(key.account));
    line("environment", cell(key.environment));
    line("hint", cell(&key.hint));
    line("status", status_cell(key.status.name()));
    line("permissions", cell(key.permissions.to_string().replace(' ', ", ")));
    line("addresses", cell(addresses(&key.ip_restrictions)));
    line("created", cell(format!("{} by {}", times::long(key.created_at, now), key.created_by)));
    line("expires", cell(key.expires_at.map_or_else(|| "never".to_owned(), |end| times::long(end, now))));
    if let Some(replaces) = key.replaces {
        line("replaces", cell(replaces));
    }
    if let Some(replaced_by) = key.replaced_by {
        line("replaced by", cell(replaced_by));
    }
    output::write_table(out, table)
}

fn addresses(restrictions: &IpRestrictionsView) -> String {
    match (restrictions.enabled, restrictions.allowed.join(", ")) {
        (true, list) if list.is_empty() => "none".to_owned(),
        (true, list) => list,
        (false, list) if list.is_empty() => "any".to_owned(),
        (false, list) => format!("any (switched off: {list})"),
    }
}

/// Which nodes enforce a change.
pub fn write_confirmation(confirmation: &Confirmation, out: &mut dyn Write) -> io::Result<()> {
    match (confirmation.nodes, confirmation.confirmed, confirmation.slowest_ms) {
        (0, _, _) => writeln!(out, "No node runs: the next one to start enforces it."),
        (nodes, confirmed, Some(slowest)) => {
            let style = if confirmed == nodes { GOOD } else { WARN };
            writeln!(
                out,
                "{style}Enforced by {confirmed} of {}{style:#}, by the last one after {slowest} ms.",
                counted(nodes as u64, "node")
            )
        }
        (nodes, _, None) => writeln!(out, "{WARN}Confirmed by none of {}.{WARN:#}", counted(nodes as u64, "node")),
    }
}

/// Nodes that may still let pass what they should not: told beside the answer, also to those who read JSON.
pub fn warn_of_silence(confirmation: &Confirmation, now: Timestamp) {
    for node in &confirmation.silent {
        let until = match node.lease_ends {
            Some(end) => format!("until {}", times::long(end, now)),
            None => "for ever".to_owned(),
        };
        output::warn(format_args!(
            "the node {STRONG}{}{STRONG:#} ({}) did not confirm. It was seen {}; if it still runs, it may decide by what it knew {until}. \
             If it is gone for good: martis-gateway nodes forget {}",
            output::plain(&node.name),
            output::plain(&node.node),
            times::short(node.last_seen, now),
            output::plain(&node.node),
        ));
    }
}

/// That a list goes on.
pub fn tell_of_more(cursor: Option<&str>, output: Output) {
    if let (Some(cursor), false) = (cursor, output.is_json()) {
        output::note(format_args!("There are more: --cursor {cursor}"));
    }
}
