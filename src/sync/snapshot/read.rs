//! Reading: one thread reads and hashes, another takes the records apart and inserts them, so that ten million keys are there
//! in seconds. Until the checksum was compared, the index under construction is seen by nobody.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::format::{BLOCK_HEAD, FORMAT, Fields, HEADER, Header, KEY, Kind, TRAILER};
use super::{Facts, SnapshotError};
use crate::index::{IndexWriter, Load};

/// Blocks that may wait to be taken apart: enough to even out the two threads, little beside the index.
const BLOCKS_AHEAD: usize = 16;
const READ_BUFFER: usize = 1 << 20;

/// What the header and the length of the file say, and the checksum as it stands at the end. The body is not read.
///
/// # Errors
/// Why this is no whole snapshot.
pub fn show(path: &Path) -> Result<Facts, SnapshotError> {
    use std::io::{Seek, SeekFrom};
    let mut opened = Opened::open(path)?;
    opened.file.seek(SeekFrom::End(-(TRAILER as i64))).map_err(SnapshotError::Unreadable)?;
    let checksum = opened.trailer()?;
    Ok(opened.facts(checksum))
}

/// Reads a whole snapshot and checks every byte of it. This is also what verifying one means.
///
/// # Errors
/// Why it is not used. Nothing is handed out then.
pub fn read(path: &Path) -> Result<(Facts, Load), SnapshotError> {
    let mut opened = Opened::open(path)?;
    let header = opened.header;
    let mut load = IndexWriter::load(usize::try_from(header.keys).unwrap_or(usize::MAX));
    let (blocks, full) = sync_channel(BLOCKS_AHEAD);
    let (checked, filled) = thread::scope(|scope| {
        let reading = scope.spawn(|| opened.body(blocks));
        let filled = fill(&mut load, full);
        (reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), filled)
    });
    // A record that makes no sense says more than the checksum that does not fit either.
    let accounts = filled?;
    let checksum = checked?;
    same_count("keys", header.keys, load.len() as u64)?;
    same_count("accounts", header.accounts, accounts)?;
    Ok((opened.facts(checksum), load))
}

/// A file with a good header and the length that this names.
struct Opened {
    file: BufReader<File>,
    header: Header,
    length: u64,
}

/// Records of one kind, and where they stand in the file.
struct Block {
    kind: Kind,
    at: u64,
    records: Vec<u8>,
}

impl Opened {
    fn open(path: &Path) -> Result<Self, SnapshotError> {
        let file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => SnapshotError::Missing,
            _ => SnapshotError::Unreadable(error),
        })?;
        let length = file.metadata().map_err(SnapshotError::Unreadable)?.len();
        let mut file = BufReader::with_capacity(READ_BUFFER, file);
        let mut beginning = Vec::with_capacity(HEADER);
        file.by_ref().take(HEADER as u64).read_to_end(&mut beginning).map_err(SnapshotError::Unreadable)?;
        let header = Header::from_bytes(&beginning)?;
        check_length(&header, length)?;
        Ok(Self { file, header, length })
    }

    /// Hands on the blocks of the body, and compares the checksum. Ends early, without a verdict, when nobody takes them.
    fn body(&mut self, blocks: SyncSender<Block>) -> Result<blake3::Hash, SnapshotError> {
        let mut hasher = blake3::Hasher::new();
        let mut at = HEADER as u64;
        let end = at + self.header.body;
        while at < end {
            let block = self.block(at, end, &mut hasher)?;
            at += (BLOCK_HEAD + block.records.len()) as u64;
            if blocks.send(block).is_err() {
                break;
            }
        }
        // The writer knows its header last, so it is hashed last.
        hasher.update(&self.header.to_bytes());
        let checksum = self.trailer()?;
        if hasher.finalize() == checksum { Ok(checksum) } else { Err(SnapshotError::Checksum) }
    }

    fn block(&mut self, at: u64, end: u64, hasher: &mut blake3::Hasher) -> Result<Block, SnapshotError> {
        let left = end - at;
        let damaged = SnapshotError::Body { at, length: left };
        if left < BLOCK_HEAD as u64 {
            return Err(damaged);
        }
        let mut head = [0; BLOCK_HEAD];
        self.exactly(&mut head)?;
        // A length is believed only as far as the body reaches: memory is asked for by it.
        let (kind, length) = match Kind::of_head(head) {
            Some((kind, length)) if u64::from(length) <= left - BLOCK_HEAD as u64 => (kind, length),
            _ => return Err(damaged),
        };
        let mut records = vec![0; length as usize];
        self.exactly(&mut records)?;
        hasher.update(&head).update(&records);
        Ok(Block { kind, at, records })
    }

    fn trailer(&mut self) -> Result<blake3::Hash, SnapshotError> {
        let mut checksum = [0; TRAILER];
        self.exactly(&mut checksum)?;
        Ok(checksum.into())
    }

    fn exactly(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        // The length was looked at before: an early end here is a file that is being cut off, and unreadable like any other.
        self.file.read_exact(bytes).map_err(SnapshotError::Unreadable)
    }

    fn facts(&self, checksum: blake3::Hash) -> Facts {
        let Header { position, heard_at, keys, accounts, .. } = self.header;
        Facts { format: FORMAT, position, heard_at, keys, suspended_accounts: accounts, length: self.length, checksum }
    }
}

fn check_length(header: &Header, found: u64) -> Result<(), SnapshotError> {
    let expected = header.file_length().ok_or(SnapshotError::Header)?;
    if found < expected {
        return Err(SnapshotError::Truncated { expected, found });
    }
    if found > expected {
        return Err(SnapshotError::Surplus { surplus: found - expected });
    }
    // Room is made for that many keys, so that many must be able to stand there.
    if header.keys.checked_mul(KEY as u64).is_some_and(|least| least <= header.body) { Ok(()) } else { Err(SnapshotError::Header) }
}

/// Takes the blocks apart, and gives the number of accounts.
fn fill(load: &mut Load, blocks: Receiver<Block>) -> Result<u64, SnapshotError> {
    let mut accounts = 0;
    for Block { kind, at, records } in blocks {
        let mut fields = Fields(&records);
        let damaged = || SnapshotError::Body { at, length: (BLOCK_HEAD + records.len()) as u64 };
        while !fields.is_empty() {
            match kind {
                Kind::Keys => load.key(fields.key().ok_or_else(damaged)?),
                Kind::Accounts => {
                    load.account(fields.account().ok_or_else(damaged)?);
                    accounts += 1;
                }
            }
        }
    }
    Ok(accounts)
}

fn same_count(of: &'static str, expected: u64, found: u64) -> Result<(), SnapshotError> {
    if expected == found { Ok(()) } else { Err(SnapshotError::Count { of, expected, found }) }
}
