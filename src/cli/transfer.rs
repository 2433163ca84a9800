//! `keys import` and `keys export`: files of a key a line, of any length.

use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::keys::{warn_of_silence, write_confirmation};
use super::operator::Operator;
use super::output::{self, Output, counted};
use crate::keyring::{Keyring, KeyringError, Progress};

/// How much is written at a time.
const BUFFER: usize = 1 << 20;

pub async fn import(operator: &Operator, keyring: &Keyring, path: &Path, output: Output) -> Result<()> {
    let length = readable_twice(path)?;
    // Not buffered here: there may be secrets in it, and the keyring wipes its own buffer.
    let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(File::open(path)?)) };
    let bar = bar();
    let mut show = |progress| match progress {
        Progress::Checking { bytes, .. } => {
            bar.set_length(length);
            bar.set_position(bytes);
            bar.set_message("checking");
        }
        Progress::Writing { keys, of } => {
            bar.set_length(of);
            bar.set_position(keys);
            bar.set_message("writing");
        }
    };
    let imported = keyring.import(&operator.actor, &open, &mut show).await;
    bar.finish_and_clear();
    let imported = imported?;
    output.answer(&imported, |imported, out| {
        writeln!(out, "Imported {}.", counted(imported.keys, "key"))?;
        write_confirmation(&imported.confirmation, out)
    })?;
    warn_of_silence(&imported.confirmation, operator.clock.now());
    Ok(())
}

/// The length of a file. Nothing but a file can be read twice, and what comes through a pipe, secrets perhaps, is not to be
/// put on a disk for it.
fn readable_twice(path: &Path) -> Result<u64> {
    if path == Path::new("-") {
        bail!("an import is read twice, to check it whole and then to write: name a file");
    }
    let file = std::fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
    if !file.is_file() {
        bail!("{} is no file: an import is read twice, to check it whole and then to write", path.display());
    }
    Ok(file.len())
}

#[derive(Serialize)]
struct Exported {
    keys: u64,
}

pub async fn export(keyring: &Keyring, path: &Path, output: Output) -> Result<()> {
    let bar = bar();
    bar.set_length(keyring.store().count_keys().await?);
    bar.set_message("writing");
    let mut show = |keys| bar.set_position(keys);
    if path == Path::new("-") {
        let exported = keyring.export(&mut BufWriter::with_capacity(BUFFER, io::stdout()), &mut show).await;
        bar.finish_and_clear();
        return match exported {
            Err(KeyringError::Output(error)) => output::read_or_left(Err(error)),
            exported => {
                // Standard output has the keys.
                output::note(format_args!("Exported {}.", counted(exported?, "key")));
                Ok(())
            }
        };
    }
    let keys = export_to_file(keyring, path, &mut show).await?;
    bar.finish_and_clear();
    output.answer(&Exported { keys }, |exported, out| writeln!(out, "Exported {}.", counted(exported.keys, "key")))
}

/// Written beside and put into place whole, for its owner alone; to a device or a pipe as it comes.
async fn export_to_file(keyring: &Keyring, path: &Path, show: &mut (dyn FnMut(u64) + Send)) -> Result<u64> {
    let cannot = || format!("write {}", path.display());
    if path.metadata().is_ok_and(|file| !file.is_file()) {
        let file = File::options().write(true).open(path).with_context(cannot)?;
        return Ok(keyring.export(&mut BufWriter::with_capacity(BUFFER, file), show).await?);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = NamedTempFile::new_in(folder).with_context(cannot)?;
    let exported = keyring.export(&mut BufWriter::with_capacity(BUFFER, file.as_file()), show).await?;
    file.as_file().sync_all().with_context(cannot)?;
    file.persist(path).map_err(|error| error.error).with_context(cannot)?;
    Ok(exported)
}

/// Seen on a terminal only.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}% {eta} left");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
