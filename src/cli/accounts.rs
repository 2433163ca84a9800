//! `accounts`: made, listed, suspended and resumed.

use std::io::{self, Write};

use anyhow::Result;

use super::args::{self, Accounts};
use super::keys;
use super::operator::Operator;
use super::output::{self, Output, cell, status_cell};
use super::times;
use crate::access::time::Timestamp;
use crate::keyring::view::{AccountView, ChangedAccount, Page};
use crate::keyring::{Keyring, ListAccounts};

pub async fn accounts(operator: &Operator, asked: Accounts, output: Output) -> Result<()> {
    match asked {
        Accounts::Create { name } => {
            operator.with_keyring_of_a_new_store(async |keyring| create(operator, keyring, &name, output).await).await
        }
        Accounts::List(page) => operator.with_keyring(async |keyring| list(keyring, page, output).await).await,
        Accounts::Suspend(asked) => operator.with_keyring(async |keyring| suspend(operator, keyring, &asked.account, output).await).await,
        Accounts::Resume(asked) => operator.with_keyring(async |keyring| resume(operator, keyring, &asked.account, output).await).await,
    }
}

async fn create(operator: &Operator, keyring: &Keyring, name: &str, output: Output) -> Result<()> {
    let account = keyring.create_account(&operator.actor, name).await?;
    output.answer(&account, |account, out| writeln!(out, "Made the account {} ({}).", account.name, account.id))
}

async fn list(keyring: &Keyring, page: args::Page, output: Output) -> Result<()> {
    let page = keyring.list_accounts(&ListAccounts { limit: page.limit, cursor: page.cursor }).await?;
    output.answer(&page, |page, out| write_list(page, keyring.clock().now(), out))?;
    keys::tell_of_more(page.next_cursor.as_deref(), output);
    Ok(())
}

async fn suspend(operator: &Operator, keyring: &Keyring, account: &str, output: Output) -> Result<()> {
    let changed = keyring.suspend_account(&operator.actor, account).await?;
    tell(&changed, operator.clock.now(), output, |name| format!("Suspended the account {name}: its keys are refused."))
}

async fn resume(operator: &Operator, keyring: &Keyring, account: &str, output: Output) -> Result<()> {
    let changed = keyring.resume_account(&operator.actor, account).await?;
    tell(&changed, operator.clock.now(), output, |name| format!("Resumed the account {name}: its keys pass again."))
}

fn tell(changed: &ChangedAccount, now: Timestamp, output: Output, done: impl FnOnce(&str) -> String) -> Result<()> {
    output.answer(changed, |changed, out| {
        writeln!(out, "{}", done(&changed.account.name))?;
        keys::write_confirmation(&changed.confirmation, out)
    })?;
    keys::warn_of_silence(&changed.confirmation, now);
    Ok(())
}

fn write_list(page: &Page<AccountView>, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    if page.items.is_empty() {
        return writeln!(out, "There is no account. Make one: martis-gateway accounts create NAME");
    }
    let mut table = output::table(&["ACCOUNT", "NAME", "STATUS", "CREATED", "BY"]);
    for account in &page.items {
        table.add_row([
            cell(account.id),
            cell(&account.name),
            status_cell(if account.suspended { "suspended" } else { "active" }),
            cell(times::short(account.created_at, now)),
            cell(&account.created_by),
        ]);
    }
    output::write_table(out, table)
}
