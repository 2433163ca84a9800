//! The writer thread of the access log and what it writes to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use crate::clock::Clock;

/// Between two warnings that the log cannot be written.
const QUIET: Duration = Duration::from_secs(60);
/// Between two tries of a pipe that does not wait and is full.
const PAUSE: Duration = Duration::from_millis(5);

/// What is asked of the writer beside writing. Flags and not messages, so that asking works while the queue is full.
#[derive(Default)]
pub(super) struct Orders {
    pub(super) reopen: AtomicBool,
    pub(super) close: AtomicBool,
}

pub(super) enum Message {
    /// Whole lines, and where the empty buffer is to go.
    Lines(Vec<u8>, SyncSender<Vec<u8>>),
    /// Look at the orders.
    Wake,
}

/// The one thread that writes.
pub(super) struct Writer {
    sink: Box<dyn Sink>,
    orders: Arc<Orders>,
    dropped: IntCounter,
    /// For the time between two warnings.
    clock: Clock,
    /// Whether the last thing written was a part of a line.
    torn: bool,
    /// When it was last warned that writing fails.
    warned: Option<Instant>,
}

impl Writer {
    pub(super) fn new(sink: Box<dyn Sink>, orders: Arc<Orders>, dropped: IntCounter, clock: Clock) -> Self {
        Self { sink, orders, dropped, clock, torn: false, warned: None }
    }

    pub(super) fn run(&mut self, inbox: &Receiver<Message>) {
        while let Ok(message) = inbox.recv() {
            self.handle(message);
            if self.is_closing() {
                return inbox.try_iter().for_each(|message| self.handle(message));
            }
        }
    }

    fn handle(&mut self, message: Message) {
        if self.orders.reopen.swap(false, Ordering::AcqRel) {
            self.reopen();
        }
        if let Message::Lines(mut lines, home) = message {
            self.write(&lines);
            lines.clear();
            // Its worker may be gone or have enough of them.
            let _ = home.try_send(lines);
        }
    }

    fn reopen(&mut self) {
        if let Err(error) = self.sink.reopen() {
            tracing::warn!(%error, "the access log could not be opened anew: it goes on in the old file");
        }
    }

    fn write(&mut self, lines: &[u8]) {
        let mut rest = lines;
        if let Err(error) = self.mend().and_then(|()| self.write_out(&mut rest)) {
            self.dropped.inc_by(count_lines(rest));
            let written = lines.strip_suffix(rest).unwrap_or_default();
            self.torn |= written.last().is_some_and(|&last| last != b'\n');
            self.warn(&error);
        }
    }

    /// Ends a line of which only a part could be written, so that it does not spoil the next.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.write_out(&mut b"\n".as_slice())?;
            self.torn = false;
        }
        Ok(())
    }

    /// Leaves in `rest` what could not be written.
    fn write_out(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.sink.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => *rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.is_closing() => thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn is_closing(&self) -> bool {
        self.orders.close.load(Ordering::Acquire)
    }

    fn warn(&mut self, error: &io::Error) {
        let now = self.clock.monotonic();
        if self.warned.is_none_or(|warned| now.duration_since(warned) >= QUIET) {
            self.warned = Some(now);
            tracing::warn!(%error, dropped = self.dropped.get(), "the access log cannot be written: its lines are dropped");
        }
    }
}

/// Whole lines, each with its end.
pub(super) fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// Where lines go. Tests have one that can be blocked and broken.
pub(super) trait Sink: Send {
    /// Writes some of the bytes and says how many.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Opens the same name anew, if it has one. What was open stays so if that fails.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The standard output, without the buffer and the lock of the standard library: how much was written before an error matters.
pub(super) struct Stdout(File);

impl Stdout {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }
}

impl Sink for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
}

pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }
}

impl Sink for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::time::Timestamp;
    use crate::clock::TestClock;
    use crate::telemetry::log::captured;
    use crate::telemetry::metrics::Metrics;

    struct FullDisk;

    impl Sink for FullDisk {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn a_log_that_cannot_be_written_is_warned_of_once_a_minute() {
        let test = TestClock::at(Timestamp::from_millis(0));
        let dropped = Metrics::new(test.clock()).log_dropped();
        let mut writer = Writer::new(Box::new(FullDisk), Arc::default(), dropped.clone(), test.clock());
        let mut warnings_after = |pause| {
            test.pass(pause);
            captured(|| (0..10).for_each(|_| writer.write(b"{}\n{}\n"))).lines().count()
        };
        assert_eq!(warnings_after(Duration::ZERO), 1);
        assert_eq!(warnings_after(Duration::from_secs(59)), 0);
        assert_eq!(warnings_after(Duration::from_secs(1)), 1);
        assert_eq!(dropped.get(), 60);
    }

    #[test]
    fn a_file_is_added_to_and_is_not_for_everybody_to_read() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        for count in 1..=2 {
            LogFile::open(&path).unwrap().write(b"{}\n").unwrap();
            assert_eq!(std::fs::read(&path).unwrap().len(), 3 * count);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o027, 0);
    }
}
