//! The snapshot: a file with all that a decision depends on at one revision, and the moment it was known to be current.
//!
//! A node starts from it when the store does not answer. [`read`] is all or nothing: an index comes out only if every byte
//! was what was written, else a [`SnapshotError`] says what is wrong. [`SnapshotFile`] keeps two generations, so that one bad
//! disk block does not cost both, and beside them a few bytes with a later moment at which the newest was still current: an
//! index of ten million keys need not be written again each minute to say that nothing has changed.
//!
//! Deliberately absent: secrecy. The file holds digests, not secrets; its mode is 0600 because who has which key, from which
//! addresses, is nobody's business. Nor does the checksum prove who wrote it: it finds damage, not forgery.

mod file;
mod format;
mod read;
mod write;

use std::io;
use std::path::PathBuf;

pub use file::{Found, Generation, SnapshotFile};
pub use read::{read, show};
pub use write::{Ending, WriteError};

use crate::access::time::Timestamp;
use crate::store::Position;

/// What a snapshot says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    pub format: u32,
    pub position: Position,
    /// When the store was last known to have no newer revision than this.
    pub heard_at: Timestamp,
    /// Tombstones included.
    pub keys: u64,
    pub suspended_accounts: u64,
    /// Of the file, in bytes.
    pub length: u64,
    /// Of everything before it in the file.
    pub checksum: blake3::Hash,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("there is none")]
    Missing,
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    #[error("it is no snapshot: it does not begin like one")]
    Foreign,
    #[error("it has format {found}, and this release knows none newer than {known}: a newer release wrote it, or it is damaged")]
    NewerFormat { found: u32, known: u32 },
    #[error("it is truncated: {found} bytes are there of at least {expected}")]
    Truncated { expected: u64, found: u64 },
    #[error("{surplus} bytes stand behind its end")]
    Surplus { surplus: u64 },
    #[error("its header is damaged")]
    Header,
    #[error("it is damaged in the {length} bytes from byte {at} on")]
    Body { at: u64, length: u64 },
    #[error("its checksum does not fit its content: it is damaged")]
    Checksum,
    #[error("it holds {found} {of} where its header says {expected}: it is damaged")]
    Count { of: &'static str, expected: u64, found: u64 },
}

/// A generation that could not be used.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot {} is not used", path.display())]
pub struct Fault {
    pub path: PathBuf,
    pub source: SnapshotError,
}

#[cfg(test)]
mod tests;
