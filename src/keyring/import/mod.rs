//! Many keys from NDJSON, one a line, with their digests or with secrets that are hashed as they are read.
//!
//! The file is read twice. First it is checked whole, against itself and against the store, and if anything is wrong nothing is
//! done. Then it is written in batches, each a transaction: one for all would keep every other change, and the marks of running
//! nodes, waiting for minutes. What is done when something gets in the way there (a full disk, a kill) is therefore the first
//! part of the file, to a line that the error names. Each key takes a revision of its own. The audit log gets one line for each
//! batch and account, with the ids of its keys.

mod line;
mod lines;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

use self::line::{Checker, Given};
use self::lines::Lines;
use super::Keyring;
use super::actor::Actor;
use super::attempt::{Attempt, Committed};
use super::create::new_id;
use super::error::{ImportProblems, KeyringError};
use super::view::Imported;
use crate::access::key::{AccountId, KeyId};
use crate::access::secret::Digest;
use crate::store::KeyRow;

/// Keys in one transaction: few enough that others wait for a small part of a second.
const BATCH: usize = 2_000;

/// How far an import is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Looking for what is wrong.
    Checking { lines: u64, bytes: u64 },
    /// Nothing is: writing.
    Writing { keys: u64, of: u64 },
}

/// What to import: opened twice, and both times with the same content.
pub type Open<'a> = &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Sync);

impl Keyring {
    /// Imports keys. Accounts must be there; a key without an id gets one. Reads on the calling thread.
    ///
    /// # Errors
    /// [`KeyringError::Import`] with all that is wrong, and nothing is done; [`KeyringError::ImportStopped`] if something got
    /// in the way afterwards, and the keys up to the line that it names are in force.
    pub async fn import(
        &self,
        actor: &Actor,
        open: Open<'_>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Imported, KeyringError> {
        let mut check = Check::new(self, actor);
        let total = check.run(open, progress).await?;
        if check.problems.total > 0 {
            return Err(self.refuse_import(actor, check.problems).await);
        }
        // What was seen is not needed any more, and may be a good part of the memory.
        let Check { checker, .. } = check;
        let mut writing = Writing { keyring: self, actor, checker, keys: 0, of: total, line: 0 };
        let committed = match writing.run(open, progress).await {
            Ok(committed) => committed,
            Err(KeyringError::ImportChanged { line }) if writing.keys == 0 => return Err(KeyringError::ImportChanged { line }),
            Err(source) => return Err(KeyringError::ImportStopped { line: writing.line, keys: writing.keys, source: Box::new(source) }),
        };
        let revision = committed.revision;
        Ok(Imported { keys: writing.keys, confirmation: self.confirm(committed, revision).await })
    }

    async fn refuse_import(&self, actor: &Actor, problems: ImportProblems) -> KeyringError {
        let outcome = Err::<(), _>(KeyringError::Import(problems));
        match self.attempt(actor, "keys.import", None).await {
            Ok(attempt) => attempt.conclude(outcome).await.err().unwrap_or_else(|| KeyringError::Import(ImportProblems::none())),
            Err(error) => error,
        }
    }
}

/// The first reading: finds all that is wrong.
struct Check<'a> {
    keyring: &'a Keyring,
    checker: Checker<'a>,
    /// Each digest and each id, with the line where it stands.
    digests: HashMap<[u8; 32], u64>,
    ids: HashMap<[u8; 16], u64>,
    problems: ImportProblems,
}

impl<'a> Check<'a> {
    fn new(keyring: &'a Keyring, actor: &Actor) -> Self {
        let checker = Checker::new(keyring, actor);
        Self { keyring, checker, digests: HashMap::new(), ids: HashMap::new(), problems: ImportProblems::none() }
    }

    /// Returns the number of keys.
    async fn run(&mut self, open: Open<'_>, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<u64, KeyringError> {
        let mut lines = Lines::new(open().map_err(KeyringError::Input)?);
        let mut batch = Vec::with_capacity(BATCH);
        let mut keys = 0;
        while let Some(given) = next(&mut lines, &mut self.checker).await? {
            match given {
                Ok((line, given)) => {
                    keys += 1;
                    self.compare_with_lines(line, &given);
                    batch.push((line, given.row.digest, given.id));
                }
                Err((line, details)) => details.into_iter().for_each(|detail| self.problems.add(line, detail)),
            }
            if batch.len() == BATCH {
                self.compare_with_store(&mut batch).await?;
                progress(Progress::Checking { lines: lines.number(), bytes: lines.bytes() });
            }
        }
        self.compare_with_store(&mut batch).await?;
        progress(Progress::Checking { lines: lines.number(), bytes: lines.bytes() });
        Ok(keys)
    }

    fn compare_with_lines(&mut self, line: u64, given: &Given) {
        // By their bytes: the hash of a `Digest` trusts them to be random, and a file may say anything.
        let digest = first_line_with(&mut self.digests, *given.row.digest.as_bytes(), line);
        let id = given.id.and_then(|id| first_line_with(&mut self.ids, id.to_bytes(), line));
        for (what, first) in [("digest", digest), ("id", id)] {
            if let Some(first) = first {
                self.problems.add(line, format!("{what}: the same as in line {first}"));
            }
        }
    }

    async fn compare_with_store(&mut self, batch: &mut Vec<(u64, Digest, Option<KeyId>)>) -> Result<(), KeyringError> {
        let digests: Vec<Digest> = batch.iter().map(|(_, digest, _)| *digest).collect();
        let ids: Vec<KeyId> = batch.iter().filter_map(|(_, _, id)| *id).collect();
        let (digests, ids) = self.keyring.store.known(&digests, &ids).await?;
        for (line, digest, id) in batch.drain(..) {
            if digests.contains(&digest) {
                self.problems.add(line, "digest: there is, or was, a key with this one in the store".to_owned());
            }
            if id.is_some_and(|id| ids.contains(&id)) {
                self.problems.add(line, "id: there is a key with this one in the store".to_owned());
            }
        }
        Ok(())
    }
}

/// The line where a name was seen before; if it was not, `line` is remembered as its first.
fn first_line_with<const N: usize>(seen: &mut HashMap<[u8; N], u64>, name: [u8; N], line: u64) -> Option<u64> {
    let first = *seen.entry(name).or_insert(line);
    (first != line).then_some(first)
}

/// The second reading: writes.
struct Writing<'a> {
    keyring: &'a Keyring,
    actor: &'a Actor,
    checker: Checker<'a>,
    keys: u64,
    of: u64,
    /// Up to which everything is in the store.
    line: u64,
}

impl Writing<'_> {
    async fn run(&mut self, open: Open<'_>, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Committed, KeyringError> {
        let mut lines = Lines::new(open().map_err(KeyringError::Input)?);
        loop {
            let batch = self.batch(&mut lines).await?;
            // The last one is not full, and may be empty: then it is there for the list of nodes alone.
            let last = batch.len() < BATCH;
            let committed = self.write(batch).await?;
            self.line = lines.number();
            progress(Progress::Writing { keys: self.keys, of: self.of });
            if last {
                return Ok(committed);
            }
        }
    }

    async fn batch(&mut self, lines: &mut Lines) -> Result<Vec<KeyRow>, KeyringError> {
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH
            && let Some(given) = next(lines, &mut self.checker).await?
        {
            let (_, Given { id, mut row }) = given.map_err(|(line, _)| KeyringError::ImportChanged { line })?;
            if id.is_none() {
                row.id = new_id(row.created_at, &self.keyring.random)?;
            }
            batch.push(row);
        }
        Ok(batch)
    }

    async fn write(&mut self, mut batch: Vec<KeyRow>) -> Result<Committed, KeyringError> {
        let mut attempt = self.keyring.attempt(self.actor, "keys.import", None).await?;
        let outcome = attempt.import(&mut batch).await;
        let ((), committed) = attempt.conclude(outcome).await?;
        self.keys += batch.len() as u64;
        Ok(committed)
    }
}

impl Attempt<'_> {
    async fn import(&mut self, batch: &mut [KeyRow]) -> Result<(), KeyringError> {
        self.write.insert_keys(batch).await?;
        let mut accounts: BTreeMap<AccountId, Vec<KeyId>> = BTreeMap::new();
        for row in batch {
            accounts.entry(row.account).or_default().push(row.id);
        }
        for (account, keys) in accounts {
            self.about(account, account.to_string());
            self.note(None::<&()>, Some(&serde_json::json!({ "keys": keys }))).await?;
        }
        Ok(())
    }
}

type Checked = Result<(u64, Given), (u64, Vec<String>)>;

/// The next line that is not empty: what it gives, or what is wrong with it, with its number. None at the end.
async fn next(lines: &mut Lines, checker: &mut Checker<'_>) -> Result<Option<Checked>, KeyringError> {
    loop {
        let Some(line) = lines.next().map_err(KeyringError::Input)? else { return Ok(None) };
        let number = line.number;
        let parsed = match line.text {
            Some(text) if text.trim_ascii().is_empty() => continue,
            Some(text) => line::parse(text),
            None => Err(vec![format!("the line is longer than {} KiB", lines::LONGEST / 1024)]),
        };
        let checked = match parsed {
            Ok(parsed) => checker.check(parsed).await?,
            Err(details) => Err(details),
        };
        return Ok(Some(match checked {
            Ok(given) => Ok((number, given)),
            Err(details) => Err((number, details)),
        }));
    }
}
