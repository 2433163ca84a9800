//! What can go wrong with a store, and what to do about it.

use std::io;
use std::path::PathBuf;

use sqlx::error::DatabaseError;

/// A store that could not be opened, read or written. Never a reason to let a request pass or to refuse one: nodes go on
/// with what they have.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no store at {}: `martis-gateway serve` makes one, or correct `url` under [store]", path.display())]
    Missing { path: PathBuf },
    #[error("could not make the folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("could not open the store at {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{} is not a store of martis-gateway and was left as it is: correct `url` under [store], or move the file away",
        path.display()
    )]
    Foreign { path: PathBuf },
    #[error(
        "the store at {} has schema {found}, this program knows schemas up to {known}: start the newer martis-gateway that \
         made it, or put back a backup from before",
        path.display()
    )]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    #[error(
        "the file at {0} is no longer the one that was opened: it was moved or replaced while in use. To put a backup back, run \
         `sqlite3 {0} \".restore BACKUP\"`, or stop everything that has the store open, remove {0}-wal and {0}-shm, and copy it \
         to its place; then run `martis-gateway store accept`",
        path.display()
    )]
    Replaced { path: PathBuf },
    #[error("another process is writing to the store and did not finish in time: try again")]
    Busy,
    #[error("could not {doing}")]
    Unavailable { doing: &'static str, source: sqlx::Error },
    /// Something in the store cannot be what this program wrote. It is never replaced by a default.
    #[error("the store is damaged at {what}: {problem}")]
    Damaged { what: String, problem: String },
    #[error("{0}")]
    Taken(Taken),
    /// The log of changes no longer reaches back so far: whoever asked has to load everything.
    #[error("changes after revision {asked} were asked for, the log begins with {oldest}")]
    Gap { asked: u64, oldest: u64 },
    /// Whoever asked knows another copy of the store.
    #[error("changes after revision {revision} were asked for, which is another one here or does not exist")]
    OtherHistory { revision: u64 },
    #[error("the operating system gave no random bytes")]
    Random(#[from] getrandom::Error),
}

/// What there can be once only, and is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Taken {
    #[error("there is, or was, a key with this digest")]
    Digest,
    #[error("there is a key with this id")]
    KeyId,
    #[error("there is an account with this id")]
    AccountId,
    #[error("there is an account with this name")]
    AccountName,
}

impl StoreError {
    /// Whether the same may well succeed a moment later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable { .. })
    }

    /// For `map_err`: what an error of the database means, and what was being done.
    pub(super) fn when(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| match source {
            sqlx::Error::PoolTimedOut => Self::Busy,
            sqlx::Error::Database(error) => Self::of_the_database(doing, error),
            source => Self::Unavailable { doing, source },
        }
    }

    fn of_the_database(doing: &'static str, error: Box<dyn DatabaseError>) -> Self {
        match result_code(&*error) {
            Some(BUSY) => Self::Busy,
            Some(CORRUPT | NOT_A_DATABASE) => Self::Damaged { what: "the database file".to_owned(), problem: error.message().to_owned() },
            _ => match taken(error.message()) {
                Some(taken) => Self::Taken(taken),
                None => Self::Unavailable { doing, source: sqlx::Error::Database(error) },
            },
        }
    }
}

/// SQLite's primary result codes, as far as they make a difference here.
const BUSY: i32 = 5;
const CORRUPT: i32 = 11;
pub(super) const NOT_A_DATABASE: i32 = 26;

/// The primary code: the low byte of the extended one.
pub(super) fn result_code(error: &dyn DatabaseError) -> Option<i32> {
    error.code()?.parse::<i32>().ok().map(|extended| extended & 0xff)
}

fn taken(message: &str) -> Option<Taken> {
    match message.strip_prefix("UNIQUE constraint failed: ")? {
        "keys.digest" => Some(Taken::Digest),
        "keys.id" => Some(Taken::KeyId),
        "accounts.id" => Some(Taken::AccountId),
        "accounts.name" => Some(Taken::AccountName),
        _ => None,
    }
}
