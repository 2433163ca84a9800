//! Looking at keys.

use super::Keyring;
use super::check::{self, Problems};
use super::error::KeyringError;
use super::view::{KeyView, Page};
use crate::access::key::{AccountId, KeyId, Status};
use crate::access::secret::hide_secrets;
use crate::store::{AccountRow, KeyQuery};

const LIMIT: u32 = 50;
const LARGEST_LIMIT: u32 = 100;

/// Which keys to list, as it was written; all that is None is not asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListKeys {
    /// Name or id.
    pub account: Option<String>,
    pub environment: Option<String>,
    pub status: Option<String>,
    /// A part of the name or the hint, or the beginning of the id.
    pub q: Option<String>,
    /// 1 to 100; 50 if None.
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl Keyring {
    /// Keys, the newest first. A key that is made meanwhile never moves another from one page to the next.
    ///
    /// # Errors
    /// Everything that is wrong with `list`, at once.
    pub async fn list(&self, list: &ListKeys) -> Result<Page<KeyView>, KeyringError> {
        let mut query = self.query(list).await?;
        let limit = query.limit;
        query.limit += 1;
        let rows = self.store.keys(&query).await?;
        Ok(page(rows, limit, |row| row.id.to_string(), |row| KeyView::of(&row, query.now)))
    }

    /// # Errors
    /// No such key.
    pub async fn show(&self, id: KeyId) -> Result<KeyView, KeyringError> {
        let row = self.store.key(id).await?.ok_or_else(|| KeyringError::NotFound { what: "key", name: id.to_string() })?;
        Ok(KeyView::of(&row, self.clock.now()))
    }

    async fn query(&self, list: &ListKeys) -> Result<KeyQuery, KeyringError> {
        let mut problems = Problems::default();
        let account = match &list.account {
            None => None,
            Some(text) => {
                let found = self.find_account(text).await?;
                problems.take("account", found.map(|account| account.id).ok_or_else(|| no_account(text)))
            }
        };
        let environment = list.environment.as_deref().and_then(|text| problems.take("environment", check::environment(text)));
        let status = list.status.as_deref().and_then(|text| problems.take("status", parse_status(text)));
        let limit = problems.take("limit", parse_limit(list.limit)).unwrap_or(LIMIT);
        let cursor = list.cursor.as_deref().map(|text| KeyId::parse(text).map_err(|_| no_cursor()));
        let before = cursor.and_then(|parsed| problems.take("cursor", parsed));
        problems.none()?;
        // Whoever pastes a secret to find its key finds it by the hint.
        let text = list.q.as_deref().map(|text| hide_secrets(text.trim()).into_owned());
        Ok(KeyQuery { account, environment, status, text, before, limit, now: self.clock.now() })
    }

    /// An account by its name or its id.
    pub(super) async fn find_account(&self, text: &str) -> Result<Option<AccountRow>, KeyringError> {
        Ok(match AccountId::parse(text) {
            Ok(id) => self.store.account(id).await?,
            Err(_) => self.store.account_named(text.trim()).await?,
        })
    }
}

/// The first `limit` rows as items, and a cursor if there are more.
pub(super) fn page<R, T>(mut rows: Vec<R>, limit: u32, cursor: impl Fn(&R) -> String, item: impl Fn(R) -> T) -> Page<T> {
    let limit = limit as usize;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(cursor);
    Page { items: rows.into_iter().map(item).collect(), next_cursor }
}

pub(super) fn parse_limit(limit: Option<u32>) -> Result<u32, String> {
    match limit.unwrap_or(LIMIT) {
        limit @ 1..=LARGEST_LIMIT => Ok(limit),
        other => Err(format!("{other} is no limit: 1 to {LARGEST_LIMIT}")),
    }
}

pub(super) fn no_account(text: &str) -> String {
    format!("there is no account `{}`", hide_secrets(text).escape_debug())
}

pub(super) fn no_cursor() -> String {
    "this is no cursor: give the `next_cursor` of the page before, or none".to_owned()
}

fn parse_status(text: &str) -> Result<Status, String> {
    let found = Status::ALL.into_iter().find(|status| status.name() == text);
    found.ok_or_else(|| format!("`{}` is no status: `active`, `paused`, `expired` or `revoked`", hide_secrets(text).escape_debug()))
}
