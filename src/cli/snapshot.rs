//! `snapshot`: the file that a node starts from when the store does not answer; written, shown, verified.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::args::Snapshot;
use super::operator::Operator;
use super::output::{self, BAD, GOOD, Output, cell, counted};
use super::{Told, times};
use crate::access::time::Timestamp;
use crate::keyring::Keyring;
use crate::sync::snapshot::{Facts, SnapshotError, SnapshotFile, read, show};
use crate::sync::write_snapshot;

/// What a snapshot says of itself.
#[derive(Serialize)]
struct SnapshotView {
    path: PathBuf,
    format: u32,
    epoch: String,
    revision: u64,
    heard_at: Timestamp,
    keys: u64,
    suspended_accounts: u64,
    bytes: u64,
    checksum: String,
}

/// What became of reading one whole.
#[derive(Serialize)]
struct Verified {
    path: PathBuf,
    /// None: it is whole.
    problem: Option<String>,
    revision: Option<u64>,
    keys: Option<u64>,
}

pub async fn snapshot(operator: &Operator, asked: &Snapshot, output: Output) -> Result<()> {
    let file = SnapshotFile::new(operator.config.snapshot.path.clone());
    let now = operator.clock.now();
    match asked {
        Snapshot::Write => operator.with_keyring(async |keyring| write_one(keyring, &file, output).await).await,
        Snapshot::Show => {
            let facts = show(file.path()).with_context(|| format!("show the snapshot {}", file.path().display()))?;
            output.answer(&view(file.path(), &file.with_moment(facts)), |view, out| write_view(view, now, out))
        }
        Snapshot::Verify => verify(&file, output),
    }
}

async fn write_one(keyring: &Keyring, file: &SnapshotFile, output: Output) -> Result<()> {
    let facts = write_snapshot(keyring.store(), file, keyring.clock()).await?;
    output.answer(&view(file.path(), &facts), |view, out| {
        writeln!(out, "Wrote {} of revision {} to {}.", counted(view.keys, "key"), view.revision, view.path.display())
    })
}

fn verify(file: &SnapshotFile, output: Output) -> Result<()> {
    let newest = verified(file.path());
    // That there is no older generation is how it is until the second one is written.
    let older = Some(file.older()).filter(|path| path.exists()).map(|path| verified(&path));
    let all: Vec<_> = std::iter::once(newest).chain(older).collect();
    output.answer(&all, |all, out| all.iter().try_for_each(|one| write_verified(one, out)))?;
    if all.iter().any(|one| one.problem.is_some()) { Err(Told.into()) } else { Ok(()) }
}

fn verified(path: &Path) -> Verified {
    let (problem, facts) = match read(path) {
        Ok((facts, _)) => (None, Some(facts)),
        Err(error) => (Some(in_one_line(&error)), None),
    };
    Verified { path: path.to_owned(), problem, revision: facts.map(|facts| facts.position.revision), keys: facts.map(|facts| facts.keys) }
}

fn in_one_line(error: &SnapshotError) -> String {
    let mut line = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        // Writing to memory does not fail.
        let _ = write!(line, ": {cause}");
    }
    line
}

fn write_verified(one: &Verified, out: &mut dyn Write) -> io::Result<()> {
    match (&one.problem, one.keys, one.revision) {
        (None, Some(keys), Some(revision)) => {
            writeln!(out, "{GOOD}✓{GOOD:#} {}: whole, {} of revision {revision}", one.path.display(), counted(keys, "key"))
        }
        (problem, ..) => writeln!(out, "{BAD}✗{BAD:#} {}: {}", one.path.display(), problem.as_deref().unwrap_or_default()),
    }
}

fn view(path: &Path, facts: &Facts) -> SnapshotView {
    SnapshotView {
        path: path.to_owned(),
        format: facts.format,
        epoch: facts.position.epoch.to_string(),
        revision: facts.position.revision,
        heard_at: facts.heard_at,
        keys: facts.keys,
        suspended_accounts: facts.suspended_accounts,
        bytes: facts.length,
        checksum: facts.checksum.to_string(),
    }
}

fn write_view(view: &SnapshotView, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    let mut table = output::table(&[]);
    let mut line = |title: &str, value: String| {
        table.add_row([cell(title), cell(value)]);
    };
    line("file", view.path.display().to_string());
    line("revision", view.revision.to_string());
    line("epoch", view.epoch.clone());
    line("current at", times::long(view.heard_at, now));
    line("keys", view.keys.to_string());
    line("suspended accounts", view.suspended_accounts.to_string());
    line("bytes", view.bytes.to_string());
    line("format", view.format.to_string());
    line("checksum", view.checksum.clone());
    output::write_table(out, table)
}
