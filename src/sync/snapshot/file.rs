//! The files of a snapshot and how they are replaced: `keys.snapshot`, the generation before it as `keys.snapshot.1`, and
//! `keys.snapshot.heard` with the last moment at which the newest was known to be current.
//!
//! Every file is written beside and renamed, so at each instant, whatever dies, the newest generation is there and whole.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::format::{Fields, moment};
use super::write::{Ending, WriteError, write};
use super::{Facts, Fault, SnapshotError, read, show};
use crate::access::time::Timestamp;
use crate::index::{IndexReader, Load};
use crate::store::Epoch;

const HEARD_MAGIC: [u8; 8] = *b"\x89MARTIH\n";

/// The place of a node's snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    path: PathBuf,
}

/// Which of the two a snapshot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Generation {
    Newest,
    Older,
}

/// An index from a snapshot.
#[derive(Debug)]
pub struct Found {
    pub facts: Facts,
    pub load: Load,
    pub generation: Generation,
}

impl SnapshotFile {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The newest generation.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The generation before it.
    pub fn older(&self) -> PathBuf {
        self.with_suffix(".1")
    }

    /// What the newest generation with a good header says of itself, and why one before it was passed over. No more of a file
    /// is looked at than its header and its length.
    pub fn facts(&self) -> (Option<Facts>, Vec<Fault>) {
        let (found, faults) = self.newest(show);
        (found.map(|(facts, _)| self.with_moment(facts)), faults)
    }

    /// The epochs that the generations with a good header are of.
    pub fn epochs(&self) -> Vec<Epoch> {
        [self.path.clone(), self.older()].iter().filter_map(|path| show(path).ok()).map(|facts| facts.position.epoch).collect()
    }

    /// Whether there is any generation, usable or not.
    pub fn exists(&self) -> bool {
        self.path.exists() || self.older().exists()
    }

    /// Reads the newest generation that is usable, and says why one was not. That none was ever written is no fault.
    pub fn find(&self) -> (Option<Found>, Vec<Fault>) {
        let (found, faults) = self.newest(read);
        let found = found.map(|((facts, load), generation)| Found { facts: self.with_moment(facts), load, generation });
        (found, faults)
    }

    fn newest<T>(&self, read: impl Fn(&Path) -> Result<T, SnapshotError>) -> (Option<(T, Generation)>, Vec<Fault>) {
        let mut faults = Vec::new();
        for (generation, path) in [(Generation::Newest, self.path.clone()), (Generation::Older, self.older())] {
            match read(&path) {
                Ok(found) => return (Some((found, generation)), faults),
                Err(source) => faults.push(Fault { path, source }),
            }
        }
        faults.retain(|fault| !matches!(fault.source, SnapshotError::Missing));
        (None, faults)
    }

    /// Writes a new generation: first everything that `index` shows, then what `ending` gives once that has been copied. If
    /// it gives none, the copy is thrown away. Blocks; another process that is writing here is waited for.
    ///
    /// # Errors
    /// Why there is no new generation; those before stay as they are.
    pub fn write(&self, index: &IndexReader, ending: impl FnOnce() -> Option<Ending>) -> Result<Facts, WriteError> {
        let folder = self.folder()?;
        let new = New::create(self.with_suffix(".new"))?;
        let facts = write(new.file.try_clone()?, index, ending)?;
        self.keep_newest_as_older()?;
        new.put_at(&self.path)?;
        folder.sync_all()?;
        Ok(facts)
    }

    /// Notes that the newest generation, which is known by its checksum, was still current at a later moment. False, and
    /// nothing noted, if the newest generation is another by now.
    ///
    /// Not synced to the disk: should the note be lost, the index counts as older than it is, never as younger.
    ///
    /// # Errors
    /// Those of the disk; the note of before stays.
    pub fn heard(&self, checksum: &blake3::Hash, at: Timestamp) -> io::Result<bool> {
        let _folder = self.folder()?;
        if !show(&self.path).is_ok_and(|facts| facts.checksum == *checksum) {
            return Ok(false);
        }
        let mut new = New::create(self.with_suffix(".heard.new"))?;
        new.file.write_all(&note(checksum, at))?;
        new.put_at(&self.with_suffix(".heard"))?;
        Ok(true)
    }

    /// What a snapshot says of itself, with the later moment if one was noted.
    pub fn with_moment(&self, facts: Facts) -> Facts {
        let noted = fs::read(self.with_suffix(".heard")).ok().and_then(|bytes| noted(&bytes, &facts.checksum));
        Facts { heard_at: noted.map_or(facts.heard_at, |noted| noted.max(facts.heard_at)), ..facts }
    }

    /// The folder, made if it is missing, and held by no other writer until it is closed.
    fn folder(&self) -> io::Result<File> {
        let path = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let folder = File::open(path)?;
        // Where a file system has no locks, two writers at once can spoil the file that they write beside, not one in use;
        // the checksum tells.
        let _ = folder.lock();
        Ok(folder)
    }

    fn keep_newest_as_older(&self) -> io::Result<()> {
        if show(&self.path).is_err() {
            // Missing or spoilt: what is older is worth more.
            return Ok(());
        }
        let older = self.older();
        missing_is_fine(fs::remove_file(&older))?;
        // A link, so that the newest is never without its name; renamed where the file system has no links.
        missing_is_fine(fs::hard_link(&self.path, &older).or_else(|_| fs::rename(&self.path, &older)))
    }

    fn with_suffix(&self, suffix: &str) -> PathBuf {
        let mut path = OsString::from(&self.path);
        path.push(suffix);
        path.into()
    }
}

fn missing_is_fine(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// A file that is being written beside the one it will replace; removed again if it never does.
struct New {
    path: PathBuf,
    file: File,
    in_place: bool,
}

impl New {
    /// What a process that was killed left behind is thrown away.
    fn create(path: PathBuf) -> io::Result<Self> {
        missing_is_fine(fs::remove_file(&path))?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, file, in_place: false })
    }

    fn put_at(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.in_place = true;
        Ok(())
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if !self.in_place {
            // Nothing to be done if it fails; the next writer tries again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The note of a later moment: magic, checksum of the snapshot, moment, CRC-32 of these.
fn note(checksum: &blake3::Hash, at: Timestamp) -> Vec<u8> {
    let mut bytes = HEARD_MAGIC.to_vec();
    bytes.extend_from_slice(checksum.as_bytes());
    bytes.extend_from_slice(&at.millis().to_le_bytes());
    let check = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&check.to_le_bytes());
    bytes
}

/// The moment, if the note is whole and of that snapshot. Any other says nothing: the snapshot's own moment counts.
fn noted(bytes: &[u8], checksum: &blake3::Hash) -> Option<Timestamp> {
    let millis = Fields(bytes.get(HEARD_MAGIC.len() + blake3::OUT_LEN..)?).take().map(i64::from_le_bytes)?;
    moment(millis).filter(|&at| note(checksum, at) == bytes)
}
