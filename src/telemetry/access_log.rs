//! The access log: one JSON object a request, with the fields of the contract in its order.
//!
//! A worker writes a line into a buffer of its own, without an allocation, and hands the buffer to the one writer thread when
//! it is full or its timer says so; the writer gives it back empty. A request never waits for the log: when the writer cannot
//! keep up, because of a full disk or a pipe that nobody reads, lines are dropped and counted. At most `QUEUED` buffers of
//! `BUFFER` bytes wait. Deliberately absent: rotation (move the file and send SIGHUP) and a choice of fields.

mod writer;

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;

use self::writer::{LogFile, Message, Orders, Sink, Stdout, Writer, count_lines};
use super::json::{Object, write_number};
use super::metrics::Metrics;
use super::{Outcome, Spent};
use crate::access::address::ClientAddress;
use crate::access::key::{AccountId, Environment, KeyId};
use crate::access::time::Timestamp;
use crate::clock::Clock;
use crate::config::AccessLog as Target;

/// A buffer's size in bytes: what is handed over, and room for the longest line above it, so that none ever grows.
const BUFFER: usize = 64 * 1024;
/// From this many bytes on a buffer is handed over without waiting for the timer.
const FULL: usize = 32 * 1024;
/// How many buffers may wait for the writer.
const QUEUED: usize = 128;
/// How many empty buffers may wait for their worker.
const SPARE: usize = 4;
/// Bytes of a path that are shown.
const LONGEST_PATH: usize = 2 * 1024;
/// Bytes of any other text of a client that are shown.
const LONGEST_TEXT: usize = 256;
/// One request, as it will be shown. What is not known is `None` and shown as `null`.
pub struct Line<'a> {
    /// When its head had been parsed.
    pub time: Timestamp,
    pub request_id: &'a str,
    pub key_id: Option<KeyId>,
    pub account: Option<AccountId>,
    /// That of the host.
    pub environment: Option<Environment>,
    pub client_address: ClientAddress,
    /// The socket's address, or the one that a PROXY header named.
    pub peer: Option<IpAddr>,
    /// `HTTP/1.1`, for example.
    pub protocol: &'static str,
    pub method: Option<&'a [u8]>,
    pub host: Option<&'a [u8]>,
    /// From its first `?` on it is not shown.
    pub path: Option<&'a [u8]>,
    /// That of the reply; none if the client was gone before there was one.
    pub status: Option<u16>,
    pub outcome: Outcome,
    /// The name of the upstream that was asked.
    pub upstream: Option<&'a str>,
    /// Of the request's body.
    pub request_bytes: u64,
    /// Of the reply's body.
    pub reply_bytes: u64,
    pub spent: Spent,
}

/// The way to the log. Cheap to clone.
#[derive(Clone)]
pub struct AccessLog(Option<Arc<Shared>>);

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("open the access log {}", .target.display())]
pub struct CannotOpen {
    target: PathBuf,
    #[source]
    source: io::Error,
}

struct Shared {
    to_writer: SyncSender<Message>,
    orders: Arc<Orders>,
    /// The name of this node, for each line.
    node: String,
    dropped: IntCounter,
}

impl AccessLog {
    /// Opens the log and starts its writer thread. `node` is the name of this node, as each line shows it.
    ///
    /// # Errors
    /// The file cannot be opened or the thread cannot be started.
    pub fn start(target: &Target, node: &str, metrics: &Metrics, clock: Clock) -> Result<(Self, AccessLogControl), CannotOpen> {
        let cannot_open = |source| CannotOpen { target: shown(target).to_owned(), source };
        let sink: Box<dyn Sink> = match target {
            Target::Off => return Ok((Self(None), AccessLogControl(None))),
            Target::Stdout => Box::new(Stdout::open().map_err(cannot_open)?),
            Target::File(path) => Box::new(LogFile::open(path).map_err(cannot_open)?),
        };
        Self::start_on(sink, QUEUED, node, metrics, clock).map_err(cannot_open)
    }

    fn start_on(sink: Box<dyn Sink>, queued: usize, node: &str, metrics: &Metrics, clock: Clock) -> io::Result<(Self, AccessLogControl)> {
        let (to_writer, inbox) = sync_channel(queued);
        let (alive, ended) = sync_channel(0);
        let orders = Arc::new(Orders::default());
        let mut writer = Writer::new(sink, Arc::clone(&orders), metrics.log_dropped(), clock);
        let shared = Arc::new(Shared { to_writer, orders, node: node.to_owned(), dropped: metrics.log_dropped() });
        thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run(&inbox);
            drop::<SyncSender<()>>(alive);
        })?;
        Ok((Self(Some(Arc::clone(&shared))), AccessLogControl(Some((shared, ended)))))
    }

    /// Has the writer open its file anew, before it writes anything else: for whoever has moved the old one away. Does not wait.
    pub fn reopen(&self) {
        if let Some(shared) = &self.0 {
            shared.order(&shared.orders.reopen);
        }
    }

    /// The buffer of one worker thread.
    pub fn worker(&self) -> WorkerLog {
        WorkerLog(self.0.as_ref().map(|shared| {
            let (home, returned) = sync_channel(SPARE);
            Worker { shared: Arc::clone(shared), state: Cell::default(), home, returned }
        }))
    }
}

fn shown(target: &Target) -> &Path {
    match target {
        Target::Off => Path::new("off"),
        Target::Stdout => Path::new("stdout"),
        Target::File(path) => path,
    }
}

/// What the program may ask of the log as a whole.
pub struct AccessLogControl(Option<(Arc<Shared>, Receiver<()>)>);

impl AccessLogControl {
    /// Has everything written out that was handed over and ends the writer; to be called when all workers have flushed. Gives
    /// up after `patience`: a pipe that nobody reads must not keep the program from ending.
    pub fn close(self, patience: Duration) {
        let Some((shared, ended)) = self.0 else { return };
        shared.order(&shared.orders.close);
        if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the last lines of the access log could not be written in time");
        }
    }
}

impl Shared {
    fn order(&self, order: &AtomicBool) {
        order.store(true, Ordering::Release);
        // A full queue wakes the writer as well.
        let _ = self.to_writer.try_send(Message::Wake);
    }
}

/// The buffer of one worker thread. Without a target it does nothing.
pub struct WorkerLog(Option<Worker>);

struct Worker {
    shared: Arc<Shared>,
    state: Cell<State>,
    home: SyncSender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    second: Second,
}

impl WorkerLog {
    /// Whether there is a log at all; if not, a line need not be put together.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Adds the line of one request.
    pub fn line(&self, line: &Line<'_>) {
        let Some(worker) = &self.0 else { return };
        let mut state = worker.state.take();
        if state.buffer.capacity() == 0 {
            state.buffer = worker.empty_buffer();
        }
        write_line(&mut state, &worker.shared.node, line);
        if state.buffer.len() >= FULL {
            state.buffer = worker.hand_over(state.buffer);
        }
        worker.state.set(state);
    }

    /// Hands what was added to the writer. To be called about every 50 milliseconds; dropping does it, too.
    pub fn flush(&self) {
        let Some(worker) = &self.0 else { return };
        let mut state = worker.state.take();
        if !state.buffer.is_empty() {
            state.buffer = worker.hand_over(state.buffer);
        }
        worker.state.set(state);
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Worker {
    /// Gives lines to the writer, or drops and counts them if it has too many already; returns an empty buffer.
    fn hand_over(&self, lines: Vec<u8>) -> Vec<u8> {
        match self.shared.to_writer.try_send(Message::Lines(lines, self.home.clone())) {
            Ok(()) => self.empty_buffer(),
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                let Message::Lines(mut lines, _) = message else { return self.empty_buffer() };
                self.shared.dropped.inc_by(count_lines(&lines));
                lines.clear();
                lines
            }
        }
    }

    fn empty_buffer(&self) -> Vec<u8> {
        self.returned.try_recv().unwrap_or_else(|_| Vec::with_capacity(BUFFER))
    }
}

// What clients sent, and lines that are not yet written, are in none of these.

impl fmt::Debug for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("time", &self.time).field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("on", &self.0.is_some()).finish()
    }
}

impl fmt::Debug for AccessLogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogControl").field("on", &self.0.is_some()).finish()
    }
}

impl fmt::Debug for WorkerLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerLog").field("on", &self.is_on()).finish()
    }
}

fn write_line(state: &mut State, node: &str, line: &Line<'_>) {
    let State { buffer, second } = state;
    let mut object = Object::begin(buffer);
    second.write(object.name("time"), line.time);
    object.outside_text("request_id", Some(line.request_id.as_bytes()), LONGEST_TEXT);
    object.text("node", Some(node));
    object.plain_bytes("key_id", line.key_id.map(KeyId::write).as_ref().map(|id| id.as_slice()));
    object.plain_bytes("account", line.account.map(AccountId::write).as_ref().map(|id| id.as_slice()));
    object.plain_bytes("environment", line.environment.map(|environment| environment.name().as_bytes()));
    object.address("client_address", line.client_address.known());
    object.address("peer", line.peer);
    object.plain_bytes("protocol", Some(line.protocol.as_bytes()));
    object.outside_text("method", line.method, LONGEST_TEXT);
    object.outside_text("host", line.host, LONGEST_TEXT);
    object.outside_text("path", line.path.map(without_query), LONGEST_PATH);
    object.number("status", line.status.map(u64::from));
    object.plain_bytes("code", Some(line.outcome.code().as_bytes()));
    object.text("upstream", line.upstream);
    object.number("request_bytes", Some(line.request_bytes));
    object.number("reply_bytes", Some(line.reply_bytes));
    write_fine_micros(&mut object, "decision_us", line.spent.decision);
    object.number("upstream_us", line.spent.upstream.map(micros));
    object.number("total_us", Some(micros(line.spent.total)));
    object.end();
}

fn without_query(path: &[u8]) -> &[u8] {
    let end = memchr::memchr2(b'?', b'#', path).unwrap_or(path.len());
    path.split_at(end).0
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// With three places behind the point: a decision takes less than a microsecond, so a whole number would always be 0.
fn write_fine_micros(object: &mut Object<'_>, name: &str, duration: Option<Duration>) {
    let Some(duration) = duration else { return object.null(name) };
    let nanos = duration.subsec_nanos() % 1_000;
    let out = object.name(name);
    write_number(out, micros(duration));
    out.extend_from_slice(&[b'.', digit(nanos / 100), digit(nanos / 10), digit(nanos)]);
}

const fn digit(number: u32) -> u8 {
    b'0' + (number % 10) as u8
}

/// The second that the last line was written in, as text: a calendar is asked once a second and not for each line.
struct Second {
    /// Since the Unix epoch.
    number: i64,
    /// `2026-11-22T03:13:00`.
    text: [u8; Self::LENGTH],
}

impl Second {
    const LENGTH: usize = 19;

    /// Writes a time in RFC 3339, in quotes, always with milliseconds.
    fn write(&mut self, out: &mut Vec<u8>, time: Timestamp) {
        let (second, millis) = (time.millis().div_euclid(1_000), time.millis().rem_euclid(1_000) as u32);
        if second != self.number {
            *self = Self::of(second);
        }
        out.push(b'"');
        out.extend_from_slice(&self.text);
        out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z', b'"']);
    }

    fn of(number: i64) -> Self {
        let mut text = *b"0000-00-00T00:00:00Z";
        // A moment on the second is shown without its milliseconds: exactly these 20 bytes.
        let _ = write!(text.as_mut_slice(), "{}", Timestamp::from_millis(number.saturating_mul(1_000)));
        let [shown @ .., _] = text;
        Self { number, text: shown }
    }
}

impl Default for Second {
    /// None: no time falls into this one, so the first line asks the calendar.
    fn default() -> Self {
        Self { number: i64::MIN, text: [0; Self::LENGTH] }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::mpsc::{Sender, channel};
    use std::sync::{Mutex, MutexGuard};
    use std::time::Instant;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::access::denial::Denial;
    use crate::clock::TestClock;

    /// Far more than any of the tests needs; reached only by a test that fails.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// What a test's sink holds, and what it does with the next writes.
    #[derive(Default)]
    struct Disk {
        content: Vec<u8>,
        /// One for each write: how much it takes, or its error. With none left, everything is taken.
        plan: VecDeque<Result<usize, io::ErrorKind>>,
    }

    #[derive(Clone)]
    struct TestSink {
        disk: Arc<Mutex<Disk>>,
        /// Told of each write before it begins.
        begun: Sender<()>,
    }

    impl TestSink {
        fn disk(&self) -> MutexGuard<'_, Disk> {
            self.disk.lock().unwrap()
        }

        fn plan(&self, plan: impl IntoIterator<Item = Result<usize, io::ErrorKind>>) {
            self.disk().plan.extend(plan);
        }
    }

    impl Sink for TestSink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.begun.send(());
            let mut disk = self.disk();
            let taken = disk.plan.pop_front().unwrap_or(Ok(bytes.len())).map_err(io::Error::from)?.min(bytes.len());
            disk.content.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }
    }

    /// A log on a [`TestSink`].
    struct Bench {
        sink: TestSink,
        begun: Receiver<()>,
        log: AccessLog,
        control: AccessLogControl,
        metrics: Metrics,
    }

    impl Bench {
        fn with_queue(queued: usize) -> Self {
            let clock = TestClock::at(START).clock();
            let (begun, told) = channel();
            let sink = TestSink { disk: Arc::default(), begun };
            let metrics = Metrics::new(clock.clone());
            let (log, control) = AccessLog::start_on(Box::new(sink.clone()), queued, "node \"1\"", &metrics, clock).unwrap();
            Self { sink, begun: told, log, control, metrics }
        }

        /// Ends the log and returns what it holds.
        fn closed(self) -> Vec<u8> {
            self.control.close(PATIENCE);
            self.sink.disk().content.clone()
        }
    }

    const START: Timestamp = Timestamp::from_millis(1_795_317_180_007);

    fn a_line() -> Line<'static> {
        Line {
            time: START,
            request_id: "req_1",
            key_id: Some(KeyId::from_bytes([1; 16])),
            account: Some(AccountId::from_bytes([2; 16])),
            environment: Some(Environment::Production),
            client_address: ClientAddress::Known("192.0.2.7".parse().unwrap()),
            peer: Some("2001:db8::1".parse().unwrap()),
            protocol: "HTTP/1.1",
            method: Some(b"POST"),
            host: Some(b"api.martis.id"),
            path: Some(b"/api/v1/payments?card=4111"),
            status: Some(403),
            outcome: Outcome::Refused(Denial::IpNotAllowed),
            upstream: Some("core"),
            request_bytes: 12,
            reply_bytes: 345,
            spent: Spent {
                decision: Some(Duration::from_nanos(1_412)),
                upstream: Some(Duration::from_micros(900)),
                total: Duration::from_millis(2),
            },
        }
    }

    fn written(line: &Line<'_>) -> String {
        let mut state = State::default();
        write_line(&mut state, "node-1", line);
        String::from_utf8(state.buffer).unwrap()
    }

    fn lines(content: &[u8]) -> Vec<Value> {
        std::str::from_utf8(content).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_has_the_fields_of_the_contract_in_its_order() {
        let expected = concat!(
            r#"{"time":"2026-11-22T03:13:00.007Z","request_id":"req_1","node":"node-1","#,
            r#""key_id":"key_00g40r40m30e209185gr38e1","account":"acct_00","environment":"production","#,
            r#""client_address":"192.0.2.7","peer":"2001:db8::1","protocol":"HTTP/1.1","method":"POST","host":"api.martis.id","#,
            r#""path":"/api/v1/payments","status":403,"code":"ip_not_allowed","upstream":"core","request_bytes":12,"reply_bytes":345,"#,
            r#""decision_us":1.412,"upstream_us":900,"total_us":2000}"#,
            "\n"
        )
        .replace("key_00g40r40m30e209185gr38e1", &KeyId::from_bytes([1; 16]).to_string())
        .replace("acct_00", &AccountId::from_bytes([2; 16]).to_string());
        assert_eq!(written(&a_line()), expected);
    }

    #[test]
    fn what_is_not_known_is_null() {
        let line = Line {
            key_id: None,
            account: None,
            environment: None,
            client_address: ClientAddress::Unknown,
            peer: None,
            method: None,
            host: None,
            path: None,
            status: None,
            upstream: None,
            spent: Spent::default(),
            ..a_line()
        };
        let object: Value = serde_json::from_str(&written(&line)).unwrap();
        let null: Vec<_> = object.as_object().unwrap().iter().filter(|(_, value)| value.is_null()).map(|(name, _)| name.as_str()).collect();
        let unknown = [
            "account",
            "client_address",
            "decision_us",
            "environment",
            "host",
            "key_id",
            "method",
            "path",
            "peer",
            "status",
            "upstream",
            "upstream_us",
        ];
        assert_eq!(null, unknown);
    }

    #[test]
    fn no_field_of_a_client_shows_a_secret() {
        let secret = format!("sk_test_{}wxyz", "x".repeat(34));
        let path = format!("/a/{}", secret.replace('_', "%5F"));
        let bytes = secret.as_bytes();
        let line = Line { request_id: &secret, method: Some(bytes), host: Some(bytes), path: Some(path.as_bytes()), ..a_line() };
        let written = written(&line);
        assert!(!written.contains("xx"), "{written}");
        assert_eq!(written.matches("sk_test_…wxyz").count(), 4);
    }

    #[test]
    fn a_long_path_is_cut_and_marked() {
        let path = [b"/".as_slice(), &[b'a'; 5_000]].concat();
        let object: Value = serde_json::from_str(&written(&Line { path: Some(&path), ..a_line() })).unwrap();
        assert_eq!(object["path"].as_str().unwrap(), format!("/{}…", "a".repeat(2_047)));
    }

    #[test]
    fn the_longest_line_fits_above_a_buffer_that_is_not_yet_full() {
        let worst = [1_u8; 10_000];
        let text = std::str::from_utf8(&worst).unwrap();
        let line = Line { request_id: text, method: Some(&worst), host: Some(&worst), path: Some(&worst), ..a_line() };
        assert!(FULL + written(&line).len() < BUFFER);
    }

    #[test]
    fn the_time_is_right_across_a_second_and_before_1970() {
        let mut second = Second::default();
        for (millis, expected) in
            [(1_999, "1970-01-01T00:00:01.999Z"), (2_000, "1970-01-01T00:00:02.000Z"), (-1, "1969-12-31T23:59:59.999Z")]
        {
            let mut out = Vec::new();
            second.write(&mut out, Timestamp::from_millis(millis));
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{expected}\""));
        }
    }

    #[test]
    fn lines_of_all_workers_are_written_and_closing_waits_for_them() {
        let bench = Bench::with_queue(QUEUED);
        let workers = [bench.log.worker(), bench.log.worker()];
        for worker in &workers {
            (0..100).for_each(|_| worker.line(&a_line()));
        }
        drop(workers);
        let content = lines(&bench.closed());
        assert_eq!(content.len(), 200);
        assert!(content.iter().all(|line| line["node"] == "node \"1\""));
    }

    #[test]
    fn a_buffer_is_handed_over_when_it_is_full() {
        let bench = Bench::with_queue(QUEUED);
        let worker = bench.log.worker();
        let needed = FULL.div_ceil(written(&a_line()).len());
        (0..needed).for_each(|_| worker.line(&a_line()));
        bench.begun.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn lines_are_dropped_and_counted_while_the_writer_is_blocked() {
        let bench = Bench::with_queue(2);
        let worker = bench.log.worker();
        let blocked = bench.sink.disk();
        let line_and_flush = || {
            worker.line(&a_line());
            worker.flush();
        };
        line_and_flush();
        // From here on the writer waits for the disk with the first line, and two more fit into the queue.
        bench.begun.recv_timeout(PATIENCE).unwrap();
        (0..5).for_each(|_| line_and_flush());
        assert_eq!(bench.metrics.log_dropped().get(), 3);
        drop(blocked);
        drop(worker);
        assert_eq!(lines(&bench.closed()).len(), 3);
    }

    #[test]
    fn a_full_disk_drops_lines_and_the_log_goes_on_after_it() {
        let bench = Bench::with_queue(QUEUED);
        let length = written(&a_line()).len() + "\\\"1\\\"".len() - "-1".len();
        // Of the first three lines one and a half fit; then the disk is full for three tries.
        bench.sink.plan([
            Ok(length + 10),
            Err(io::ErrorKind::StorageFull),
            Err(io::ErrorKind::StorageFull),
            Err(io::ErrorKind::Interrupted),
        ]);
        let worker = bench.log.worker();
        for _ in 0..3 {
            (0..3).for_each(|_| worker.line(&a_line()));
            worker.flush();
        }
        let dropped = bench.metrics.log_dropped();
        let content = bench.closed();
        let content: Vec<_> = std::str::from_utf8(&content).unwrap().lines().collect();
        assert_eq!(dropped.get(), 2 + 3);
        // The torn line stands alone, and the lines after it are whole.
        let whole = |line: &&&str| serde_json::from_str::<Value>(line).is_ok();
        assert_eq!(content.len(), 1 + 1 + 3);
        assert_eq!(content.iter().filter(whole).count(), 4);
        assert!(!whole(&&content[1]));
    }

    #[test]
    fn a_pipe_that_does_not_wait_is_tried_again() {
        let bench = Bench::with_queue(QUEUED);
        bench.sink.plan([Err(io::ErrorKind::WouldBlock), Ok(5), Err(io::ErrorKind::WouldBlock)]);
        let worker = bench.log.worker();
        worker.line(&a_line());
        worker.flush();
        for _ in 0..4 {
            bench.begun.recv_timeout(PATIENCE).unwrap();
        }
        assert_eq!(bench.metrics.log_dropped().get(), 0);
        assert_eq!(lines(&bench.closed()).len(), 1);
    }

    #[test]
    fn closing_gives_up_on_a_writer_that_is_blocked() {
        let bench = Bench::with_queue(QUEUED);
        let worker = bench.log.worker();
        let blocked = bench.sink.disk();
        worker.line(&a_line());
        worker.flush();
        bench.begun.recv_timeout(PATIENCE).unwrap();
        bench.control.close(Duration::from_millis(1));
        drop(blocked);
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let metrics = Metrics::new(TestClock::at(START).clock());
        let (log, control) = AccessLog::start(&Target::File(path.clone()), "node-1", &metrics, TestClock::at(START).clock()).unwrap();
        let worker = log.worker();
        let written_lines = |path: &Path| std::fs::read(path).map(|content| lines(&content).len()).unwrap_or(0);
        let line_lands_in = |path: &Path, count: usize| {
            worker.line(&a_line());
            worker.flush();
            let deadline = Instant::now() + PATIENCE;
            while written_lines(path) < count {
                assert!(Instant::now() < deadline, "no line came");
                thread::yield_now();
            }
        };
        line_lands_in(&path, 1);
        std::fs::rename(&path, &moved).unwrap();
        line_lands_in(&moved, 2);
        log.reopen();
        line_lands_in(&path, 1);
        assert_eq!(written_lines(&moved), 2);
        drop(worker);
        control.close(PATIENCE);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let metrics = Metrics::new(TestClock::at(START).clock());
        let target = Target::File(PathBuf::from("/nowhere/access.log"));
        let refusal = AccessLog::start(&target, "node-1", &metrics, TestClock::at(START).clock()).err().unwrap();
        assert_eq!(refusal.to_string(), "open the access log /nowhere/access.log");
    }

    #[test]
    fn a_log_that_is_off_takes_lines_and_does_nothing() {
        let metrics = Metrics::new(TestClock::at(START).clock());
        let (log, control) = AccessLog::start(&Target::Off, "node-1", &metrics, TestClock::at(START).clock()).unwrap();
        let worker = log.worker();
        assert!(!worker.is_on());
        worker.line(&a_line());
        worker.flush();
        log.reopen();
        control.close(PATIENCE);
        assert_eq!(metrics.log_dropped().get(), 0);
    }

    #[test]
    fn empty_buffers_come_back_to_their_worker() {
        let bench = Bench::with_queue(QUEUED);
        let WorkerLog(Some(worker)) = &bench.log.worker() else { unreachable!() };
        let lent = Vec::with_capacity(BUFFER + 1);
        worker.hand_over(lent);
        assert_eq!(worker.returned.recv_timeout(PATIENCE).unwrap().capacity(), BUFFER + 1);
    }

    proptest! {
        #[test]
        fn every_line_is_json_and_its_fields_come_back(
            request_id: String,
            method in prop::collection::vec(any::<u8>(), 0..40),
            host: String,
            path in "/[^?#]{0,100}",
            status: Option<u16>,
            request_bytes: u64,
            micros in 0_u64..1 << 50,
        ) {
            let total = Duration::from_micros(micros);
            let line = Line {
                request_id: &request_id,
                method: Some(&method),
                host: Some(host.as_bytes()),
                path: Some(path.as_bytes()),
                status,
                request_bytes,
                spent: Spent { total, ..Spent::default() },
                ..a_line()
            };
            let written = written(&line);
            prop_assert_eq!(written.matches('\n').count(), 1);
            let object: Value = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(object["request_id"].as_str().unwrap(), request_id);
            prop_assert_eq!(object["method"].as_str().unwrap(), String::from_utf8_lossy(&method));
            prop_assert_eq!(object["host"].as_str().unwrap(), host);
            prop_assert_eq!(object["path"].as_str().unwrap(), path);
            prop_assert_eq!(object["status"].as_u64(), status.map(u64::from));
            prop_assert_eq!(object["request_bytes"].as_u64().unwrap(), request_bytes);
            prop_assert_eq!(object["total_us"].as_u64().unwrap(), micros);
        }
    }
}
