//! Writing beside changes: the keys are copied while they change, what changed meanwhile is written behind them, and the
//! header, which comes last, says the revision at the end.
//!
//! The thread that copies holds one part of the index locked for reading at a time and only encodes; another hashes and
//! writes. A change that meets a locked part waits for it to be copied, not for the disk, as long as the disk is less than
//! `BLOCKS_AHEAD` blocks behind.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::mpsc::{Receiver, SendError, SyncSender, sync_channel};
use std::thread;

use super::Facts;
use super::format::{BLOCK_HEAD, FORMAT, HEADER, Header, KEY, Kind, TRAILER, put_account, put_key};
use crate::access::time::Timestamp;
use crate::index::{IndexChange, IndexReader, IndexWriter, IndexedAccount};
use crate::store::Position;

/// Records are gathered up to this many bytes; a block is longer by a record at most.
const BLOCK: usize = 256 << 10;
/// 16 MiB.
const BLOCKS_AHEAD: usize = 64;

/// What is known only once the keys have been copied; all of it at one moment.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Where the index stood.
    pub position: Position,
    pub heard_at: Timestamp,
    /// The number of keys in the index.
    pub keys: u64,
    /// Every account that is suspended.
    pub accounts: Vec<IndexedAccount>,
    /// Every change since before the copying began, in their order.
    pub changes: Vec<IndexChange>,
}

impl Ending {
    /// Of an index as it is, at `position`; none if it is not in service. Whoever holds the write side changes nothing meanwhile.
    pub fn of(index: &IndexWriter, position: Position, changes: Vec<IndexChange>) -> Option<Self> {
        let reader = index.reader();
        Some(Self {
            position,
            heard_at: reader.heard_at()?,
            keys: reader.len() as u64,
            accounts: index.suspended().into_iter().map(|id| IndexedAccount { id, suspended: true }).collect(),
            changes,
        })
    }
}

/// Why no snapshot was written. The last one stays.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("write the snapshot")]
    Disk(#[from] io::Error),
    #[error("the index was replaced while it was being copied")]
    Overtaken,
}

/// Writes everything to a file that is open for writing and empty, and syncs it to the disk.
pub(super) fn write(file: File, index: &IndexReader, ending: impl FnOnce() -> Option<Ending>) -> Result<Facts, WriteError> {
    let mut out = Out { file, hasher: blake3::Hasher::new(), body: 0 };
    out.file.write_all(&[0; HEADER])?;
    let (full, blocks) = sync_channel(BLOCKS_AHEAD);
    let (written, copied) = thread::scope(|scope| {
        let writing = scope.spawn(|| out.blocks(blocks));
        let copied = copy(index, ending, Blocks::new(full));
        (writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), copied)
    });
    written?;
    out.finish(&copied?)
}

/// Copies keys, then changes, then accounts.
fn copy(index: &IndexReader, ending: impl FnOnce() -> Option<Ending>, mut blocks: Blocks) -> Result<Ending, WriteError> {
    // Never seen: blocks are refused only by a writing thread that has failed, and its error comes first.
    let stopped = |_| WriteError::Overtaken;
    index.for_each(|key| blocks.put(Kind::Keys, |out| put_key(out, &key))).map_err(stopped)?;
    let ending = ending().ok_or(WriteError::Overtaken)?;
    for change in &ending.changes {
        if let IndexChange::Key(key) = change {
            blocks.put(Kind::Keys, |out| put_key(out, key)).map_err(stopped)?;
        }
    }
    for account in &ending.accounts {
        blocks.put(Kind::Accounts, |out| put_account(out, account)).map_err(stopped)?;
    }
    blocks.hand_on().map_err(stopped)?;
    Ok(ending)
}

/// Gathers records into blocks.
struct Blocks {
    kind: Kind,
    /// With room for the block's head at its front.
    block: Vec<u8>,
    full: SyncSender<Vec<u8>>,
}

impl Blocks {
    fn new(full: SyncSender<Vec<u8>>) -> Self {
        Self { kind: Kind::Keys, block: empty_block(), full }
    }

    fn put(&mut self, kind: Kind, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), SendError<Vec<u8>>> {
        if self.kind != kind || self.block.len() >= BLOCK {
            self.hand_on()?;
            self.kind = kind;
        }
        encode(&mut self.block);
        Ok(())
    }

    fn hand_on(&mut self) -> Result<(), SendError<Vec<u8>>> {
        let mut block = std::mem::replace(&mut self.block, empty_block());
        let Some((head, records)) = block.split_first_chunk_mut() else { return Ok(()) };
        if records.is_empty() {
            return Ok(());
        }
        *head = self.kind.head(records.len() as u32);
        self.full.send(block)
    }
}

fn empty_block() -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK + 2 * KEY);
    block.resize(BLOCK_HEAD, 0);
    block
}

/// The file, and the sum of what went into its body.
struct Out {
    file: File,
    hasher: blake3::Hasher,
    body: u64,
}

impl Out {
    fn blocks(&mut self, blocks: Receiver<Vec<u8>>) -> io::Result<()> {
        for block in blocks {
            self.hasher.update(&block);
            self.file.write_all(&block)?;
            self.body += block.len() as u64;
        }
        Ok(())
    }

    fn finish(mut self, ending: &Ending) -> Result<Facts, WriteError> {
        let &Ending { position, heard_at, keys, .. } = ending;
        let header = Header { position, heard_at, keys, accounts: ending.accounts.len() as u64, body: self.body };
        let checksum = self.hasher.update(&header.to_bytes()).finalize();
        self.file.write_all(checksum.as_bytes())?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header.to_bytes())?;
        self.file.sync_all()?;
        let length = (HEADER + TRAILER) as u64 + self.body;
        Ok(Facts { format: FORMAT, position, heard_at, keys, suspended_accounts: header.accounts, length, checksum })
    }
}
