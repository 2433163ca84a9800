//! Accounts: making, listing, suspending.

use super::Keyring;
use super::actor::Actor;
use super::attempt::Attempt;
use super::check::{self, Problems};
use super::error::{FieldProblem, KeyringError};
use super::list::{no_cursor, page, parse_limit};
use super::view::{AccountView, ChangedAccount, Page};
use crate::access::key::AccountId;
use crate::access::secret::hide_secrets;
use crate::store::{AccountRow, StoreError, Taken};

/// Which part of the accounts to list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListAccounts {
    /// 1 to 100; 50 if None.
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl Keyring {
    /// Makes an account with a name that no other has.
    ///
    /// # Errors
    /// A name that is none, or is taken.
    pub async fn create_account(&self, actor: &Actor, name: &str) -> Result<AccountView, KeyringError> {
        let mut attempt = self.attempt(actor, "account.create", None).await?;
        let outcome = attempt.create_account(name).await;
        let (account, _) = attempt.conclude(outcome).await?;
        Ok(AccountView::of(account))
    }

    /// Accounts, the newest first.
    ///
    /// # Errors
    /// Everything that is wrong with `list`, at once.
    pub async fn list_accounts(&self, list: &ListAccounts) -> Result<Page<AccountView>, KeyringError> {
        let mut problems = Problems::default();
        let limit = problems.take("limit", parse_limit(list.limit));
        let cursor = list.cursor.as_deref().map(|text| AccountId::parse(text).map_err(|_| no_cursor()));
        let before = cursor.and_then(|parsed| problems.take("cursor", parsed));
        problems.none()?;
        let limit = limit.unwrap_or_default();
        let rows = self.store.accounts(before, limit + 1).await?;
        Ok(page(rows, limit, |row| row.id.to_string(), AccountView::of))
    }

    /// An account by its name or its id.
    ///
    /// # Errors
    /// No such account.
    pub async fn account(&self, account: &str) -> Result<AccountView, KeyringError> {
        self.find_account(account).await?.map(AccountView::of).ok_or_else(|| not_found(account))
    }

    /// Refuses all keys of an account until it is resumed.
    ///
    /// # Errors
    /// No such account, or one that is suspended already.
    pub async fn suspend_account(&self, actor: &Actor, account: &str) -> Result<ChangedAccount, KeyringError> {
        let attempt = self.attempt(actor, "account.suspend", None).await?;
        self.set_suspended(attempt, account, true).await
    }

    /// Lets the keys of a suspended account pass again.
    ///
    /// # Errors
    /// No such account, or one that is not suspended.
    pub async fn resume_account(&self, actor: &Actor, account: &str) -> Result<ChangedAccount, KeyringError> {
        let attempt = self.attempt(actor, "account.resume", None).await?;
        self.set_suspended(attempt, account, false).await
    }

    async fn set_suspended(&self, mut attempt: Attempt<'_>, account: &str, suspended: bool) -> Result<ChangedAccount, KeyringError> {
        let outcome = attempt.set_suspended(account, suspended).await;
        let (account, committed) = attempt.conclude(outcome).await?;
        let revision = committed.revision;
        let confirmation = self.confirm(committed, revision).await;
        Ok(ChangedAccount { account: AccountView::of(account), confirmation })
    }
}

impl Attempt<'_> {
    async fn create_account(&mut self, name: &str) -> Result<AccountRow, KeyringError> {
        let invalid = |detail| KeyringError::Invalid(vec![FieldProblem { field: "name".to_owned(), detail }]);
        let name = check::account_name(name).map_err(invalid)?;
        let id = AccountId::new(self.now, self.keyring().random.bytes()?);
        let account = AccountRow { id, name, suspended: false, created_at: self.now, created_by: self.actor().to_string() };
        match self.write.insert_account(&account).await {
            Err(StoreError::Taken(Taken::AccountName)) => return Err(invalid(Taken::AccountName.to_string())),
            other => other?,
        }
        self.about(id, id.to_string());
        self.note(None::<&AccountView>, Some(&AccountView::of(account.clone()))).await?;
        Ok(account)
    }

    async fn set_suspended(&mut self, account: &str, suspended: bool) -> Result<AccountRow, KeyringError> {
        let old = self.account(account).await?.ok_or_else(|| not_found(account))?;
        self.about(old.id, old.id.to_string());
        if old.suspended == suspended {
            let state = if suspended { "suspended already" } else { "not suspended" };
            return Err(KeyringError::WrongStatus(format!("account `{}` is {state}", old.name)));
        }
        self.write.set_suspended(old.id, suspended).await?;
        let new = AccountRow { suspended, ..old.clone() };
        self.note(Some(&AccountView::of(old)), Some(&AccountView::of(new.clone()))).await?;
        Ok(new)
    }
}

fn not_found(account: &str) -> KeyringError {
    KeyringError::NotFound { what: "account", name: hide_secrets(account).escape_debug().to_string() }
}
