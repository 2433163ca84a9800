//! When a snapshot is written. Soon after a change, never two at once, and never so that following the store waits for a disk.
//!
//! A writing thread copies the index while changes go on; they are noted meanwhile, and handed to it when it has copied all.
//! When nothing changes, only the moment at which that was last known is noted beside the file, now and then.

use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::{Instant, sleep, timeout};

use super::in_one_line;
use super::snapshot::{Ending, Facts, SnapshotFile, WriteError};
use crate::access::time::Timestamp;
use crate::index::{IndexChange, IndexWriter};
use crate::store::Position;

/// From a change to the beginning of the snapshot that holds it; also from one that failed to the next try. With it, one of ten
/// million keys is there within the ten seconds that are promised.
const SOON: Duration = Duration::from_secs(4);
/// How much older than it is an index may become by a restart.
const NOTE_EVERY: Duration = Duration::from_secs(20);
/// Changes noted for one snapshot, about 200 MB of them. With more it is given up and begun anew: a large import is going on.
const MOST_CHANGES: usize = 1_000_000;
/// For the last snapshot, at a clean stop.
const FINISH_WITHIN: Duration = Duration::from_secs(30);
/// How often a job is looked after once there is nothing else to do.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Keeps the snapshot.
pub(super) struct Keeper {
    file: SnapshotFile,
    /// The newest generation, as it was written or read here.
    saved: Option<Saved>,
    /// Since when the index holds what the newest generation does not.
    unsaved: Option<Instant>,
    job: Option<Job>,
    noted: Instant,
    failing: bool,
}

/// All that is left when following has ended.
pub(super) struct Last {
    pub(super) keeper: Keeper,
    pub(super) writer: IndexWriter,
    pub(super) position: Option<Position>,
}

#[derive(Clone, Copy)]
struct Saved {
    checksum: blake3::Hash,
    heard_at: Timestamp,
}

/// What a blocking thread is doing.
enum Job {
    Write {
        /// Since before the copying began; none if they do not lead from the copy to the index any more.
        changes: Option<Vec<IndexChange>>,
        copied: oneshot::Receiver<oneshot::Sender<Ending>>,
        done: oneshot::Receiver<Result<Facts, WriteError>>,
    },
    Note {
        at: Timestamp,
        done: oneshot::Receiver<std::io::Result<bool>>,
    },
}

impl Keeper {
    pub(super) fn new(file: SnapshotFile) -> Self {
        Self { file, saved: None, unsaved: None, job: None, noted: Instant::now(), failing: false }
    }

    /// The index is what the newest generation holds.
    pub(super) fn started_from(&mut self, facts: &Facts) {
        self.saved = Some(Saved { checksum: facts.checksum, heard_at: facts.heard_at });
    }

    /// Another index is in service.
    pub(super) fn replaced(&mut self) {
        self.unsaved.get_or_insert_with(Instant::now);
        if let Some(Job::Write { changes, .. }) = &mut self.job {
            *changes = None;
        }
    }

    /// A change goes into the index. If it is refused there, the index is replaced.
    pub(super) fn changed(&mut self, change: &IndexChange) {
        self.unsaved.get_or_insert_with(Instant::now);
        if let Some(Job::Write { changes, .. }) = &mut self.job {
            match changes {
                Some(noted) if noted.len() < MOST_CHANGES => noted.push(change.clone()),
                _ => *changes = None,
            }
        }
    }

    /// Looks after what is being done, and begins what is due. Never waits. `position` is where the index
    /// stands.
    pub(super) fn tend(&mut self, index: &IndexWriter, position: Option<Position>) {
        self.look_after_job(index, position);
        if self.job.is_some() {
            return;
        }
        if self.unsaved.is_some_and(|since| since.elapsed() >= SOON) {
            self.begin_to_write(index);
        } else if self.unsaved.is_none() && self.noted.elapsed() >= NOTE_EVERY {
            self.begin_to_note(index);
        }
    }

    fn look_after_job(&mut self, index: &IndexWriter, position: Option<Position>) {
        match &mut self.job {
            Some(Job::Write { changes, copied, done }) => {
                if let Ok(answer) = copied.try_recv() {
                    let ending = position.zip(changes.take()).and_then(|(position, changes)| Ending::of(index, position, changes));
                    // What comes now is in none of the two: the snapshot is of this moment.
                    self.unsaved = ending.is_none().then(Instant::now);
                    // Without an ending the asker finds its channel closed, and gives up; so it does if it is gone itself.
                    ending.map(|ending| answer.send(ending));
                }
                match done.try_recv() {
                    Err(TryRecvError::Empty) => {}
                    Ok(result) => self.written(result),
                    Err(TryRecvError::Closed) => self.written(Err(WriteError::Overtaken)),
                }
            }
            Some(Job::Note { at, done }) => match done.try_recv() {
                Err(TryRecvError::Empty) => {}
                Ok(Ok(true)) => {
                    let at = *at;
                    self.saved = self.saved.map(|saved| Saved { heard_at: at, ..saved });
                    self.job = None;
                }
                // Not ours any more, or gone: a new one is worth more than a note.
                Ok(Ok(false) | Err(_)) | Err(TryRecvError::Closed) => {
                    self.job = None;
                    self.replaced();
                }
            },
            None => {}
        }
    }

    fn begin_to_write(&mut self, index: &IndexWriter) {
        let (ask, copied) = oneshot::channel();
        let (report, done) = oneshot::channel();
        let (file, reader) = (self.file.clone(), index.reader());
        self.job = Some(Job::Write { changes: Some(Vec::new()), copied, done });
        tokio::task::spawn_blocking(move || {
            let written = file.write(&reader, || {
                let (answer, answered) = oneshot::channel();
                ask.send(answer).ok()?;
                answered.blocking_recv().ok()
            });
            // Nobody is left to hear of it if this fails.
            let _ = report.send(written);
        });
    }

    fn begin_to_note(&mut self, index: &IndexWriter) {
        self.noted = Instant::now();
        let (Some(saved), Some(at)) = (self.saved, index.reader().heard_at()) else { return };
        if at <= saved.heard_at {
            return;
        }
        let (report, done) = oneshot::channel();
        let file = self.file.clone();
        self.job = Some(Job::Note { at, done });
        tokio::task::spawn_blocking(move || report.send(file.heard(&saved.checksum, at)));
    }

    fn written(&mut self, result: Result<Facts, WriteError>) {
        self.job = None;
        match result {
            Ok(facts) => {
                tracing::debug!(revision = facts.position.revision, keys = facts.keys, bytes = facts.length, "the snapshot was written");
                self.started_from(&facts);
                (self.noted, self.failing) = (Instant::now(), false);
            }
            Err(error) => {
                self.unsaved = Some(Instant::now());
                if !self.failing && !matches!(error, WriteError::Overtaken) {
                    self.failing = true;
                    tracing::error!(error = %in_one_line(&error), path = %self.file.path().display(), "the snapshot is not up to date: it is tried again");
                }
            }
        }
    }
}

impl Last {
    /// Brings the snapshot up to the last change and the last moment. A disk that hangs does not hold up the end for ever.
    pub(super) async fn finish(self) {
        if timeout(FINISH_WITHIN, self.write_last()).await.is_err() {
            tracing::error!("the last snapshot was not finished in time: the one before it stays");
        }
    }

    async fn write_last(mut self) {
        self.idle().await;
        match self.keeper.unsaved.take() {
            Some(_) => self.keeper.begin_to_write(&self.writer),
            None => self.keeper.begin_to_note(&self.writer),
        }
        self.idle().await;
    }

    async fn idle(&mut self) {
        loop {
            self.keeper.look_after_job(&self.writer, self.position);
            if self.keeper.job.is_none() {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::address::AddressRule;
    use crate::access::key::{AccountId, Environment, KeyId, LifeState};
    use crate::access::permission::Permissions;
    use crate::access::secret::Digest;
    use crate::index::{IndexReader, IndexedKey, new_index};
    use crate::store::Epoch;
    use crate::sync::snapshot::read;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn key(number: u64, state: LifeState) -> IndexedKey {
        IndexedKey {
            digest: Digest::of(&number.to_be_bytes()),
            id: KeyId::from_bytes([0; 16]),
            account: AccountId::from_bytes([0; 16]),
            environment: Environment::Production,
            state,
            expires_at: None,
            permissions: Permissions::Full,
            addresses: AddressRule::Anywhere,
        }
    }

    fn at(revision: u64) -> Position {
        Position { revision, ..Position::beginning(Epoch::from_bytes([1; 16])) }
    }

    fn an_index(keys: u64) -> (IndexWriter, IndexReader) {
        let (mut writer, reader) = new_index(None);
        let mut load = IndexWriter::load(keys as usize);
        (0..keys).for_each(|number| load.key(key(number, LifeState::Active)));
        writer.swap(load, 0, NOW);
        (writer, reader)
    }

    fn a_keeper() -> (tempfile::TempDir, Keeper) {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(SnapshotFile::new(folder.path().join("keys.snapshot")));
        (folder, keeper)
    }

    /// Does something between any two looks after the job, until it is done.
    async fn until_done(keeper: &mut Keeper, writer: &mut IndexWriter, mut meanwhile: impl FnMut(&mut Keeper, &mut IndexWriter)) {
        while keeper.job.is_some() {
            meanwhile(keeper, writer);
            keeper.look_after_job(writer, Some(at(writer.reader().revision())));
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn changes_meanwhile_are_in_the_snapshot_or_cause_the_next() {
        let (_folder, mut keeper) = a_keeper();
        let (mut writer, reader) = an_index(5_000);
        keeper.begin_to_write(&writer);
        let revoke_next = |keeper: &mut Keeper, writer: &mut IndexWriter| {
            let revision = reader.revision() + 1;
            let change = IndexChange::Key(key(revision % 6_000, LifeState::Revoked));
            keeper.changed(&change);
            writer.apply(revision, change).unwrap();
        };
        until_done(&mut keeper, &mut writer, revoke_next).await;
        let (facts, load) = read(keeper.file.path()).unwrap();
        assert!(facts.position.revision > 0 && facts.position.revision <= reader.revision());
        assert_eq!(keeper.unsaved.is_some(), facts.position.revision < reader.revision());
        // Each revision revoked the key of its number: exactly those up to the snapshot's own are in it.
        let (mut loaded, found) = new_index(None);
        loaded.swap(load, facts.position.revision, NOW);
        for number in 1..5_000 {
            let state = found.key(&key(number, LifeState::Active).digest).unwrap().state;
            assert_eq!(state == LifeState::Revoked, number <= facts.position.revision, "{number}");
        }
    }

    #[tokio::test]
    async fn an_index_that_is_replaced_meanwhile_makes_no_snapshot_of_the_two() {
        let (_folder, mut keeper) = a_keeper();
        let (mut writer, _) = an_index(100);
        keeper.begin_to_write(&writer);
        writer.swap(IndexWriter::load(0), 9, NOW);
        keeper.replaced();
        until_done(&mut keeper, &mut writer, |_, _| {}).await;
        assert!(!keeper.file.exists());
        assert!(keeper.unsaved.is_some(), "it is begun anew");
    }

    #[tokio::test]
    async fn a_moment_is_noted_for_the_snapshot_that_is_there_and_a_missing_one_is_written_anew() {
        let (_folder, mut keeper) = a_keeper();
        let (mut writer, _) = an_index(1);
        keeper.begin_to_write(&writer);
        until_done(&mut keeper, &mut writer, |_, _| {}).await;
        let later = NOW.plus(Duration::from_secs(100));
        writer.heard(later, std::time::Instant::now());
        keeper.begin_to_note(&writer);
        until_done(&mut keeper, &mut writer, |_, _| {}).await;
        assert_eq!(keeper.file.facts().0.unwrap().heard_at, later);
        assert!(keeper.unsaved.is_none());

        std::fs::remove_file(keeper.file.path()).unwrap();
        writer.heard(later.plus(Duration::from_secs(1)), std::time::Instant::now());
        keeper.begin_to_note(&writer);
        until_done(&mut keeper, &mut writer, |_, _| {}).await;
        assert!(keeper.unsaved.is_some());
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_is_tried_again() {
        let (folder, _) = a_keeper();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let mut keeper = Keeper::new(SnapshotFile::new(folder.path().join("file/keys.snapshot")));
        let (mut writer, _) = an_index(1);
        keeper.begin_to_write(&writer);
        until_done(&mut keeper, &mut writer, |_, _| {}).await;
        assert!(keeper.failing && keeper.unsaved.is_some());
    }
}
