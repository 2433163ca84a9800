//! Secrets: after traffic of all sorts, with secrets in every place where a client can put one, no part of any is in what the
//! program said or wrote. The program is the one that is shipped, with its own standard output and error, as talkative as can be.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use martis_gateway::keyring::view::CreatedKey;
use serde_json::Value;

use crate::support::gateway::{PRODUCTION, Setup};
use crate::support::http1::Http1;
use crate::support::http2::{Frame, Frames, Http2};
use crate::support::keys::a_key;
use crate::support::message::Request;
use crate::support::upstream::TestUpstream;
use crate::support::wait::eventually;

const PROGRAM: &str = env!("CARGO_BIN_EXE_martis-gateway");

/// The program in a folder of its own, and everything that it said.
struct Program {
    folder: tempfile::TempDir,
    serving: Child,
    readers: Vec<JoinHandle<()>>,
    said: Arc<Mutex<Vec<u8>>>,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Program {
    async fn serve(upstream: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("gateway.toml"), config(upstream)).unwrap();
        let mut serving = Command::new(PROGRAM)
            .args(["--json", "serve"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (out, err) = (serving.stdout.take().unwrap(), serving.stderr.take().unwrap());
        let readers = vec![keep(out, &said), keep(err, &said)];
        let address = announced(&said, "requests are served at http://").await;
        let admin = announced(&said, "the admin listener is at http://").await;
        Self { folder, serving, readers, said, address, admin }
    }

    /// Runs another command beside it, and gives what it printed. That counts as said unless a secret is given out by it.
    fn run(&self, arguments: &[&str], input: &str, counts: bool) -> String {
        use std::io::Write;
        let mut command = Command::new(PROGRAM)
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        command.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = command.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let mut said = self.said.lock().unwrap();
        said.extend_from_slice(&output.stderr);
        if counts {
            said.extend_from_slice(&output.stdout);
        }
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes a key, and keeps its secret.
    fn make_key(&self) -> (String, String) {
        let made = self.run(&["--json", "keys", "create", "--account", "acme", "--name", "n", "--environment", "production"], "", false);
        let made: Value = serde_json::from_str(&made).unwrap();
        (made["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
    }

    /// Stops it as a service manager would, and gives the folder and all that was said.
    fn stop(mut self) -> (tempfile::TempDir, Vec<u8>) {
        let process = rustix::process::Pid::from_child(&self.serving);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        assert!(self.serving.wait().unwrap().success());
        self.readers.into_iter().for_each(|reader| reader.join().unwrap());
        let said = std::mem::take(&mut *self.said.lock().unwrap());
        (self.folder, said)
    }
}

fn config(upstream: SocketAddr) -> String {
    format!(
        r#"
[[listeners]]
address = "127.0.0.1:0"
[[environments]]
name = "production"
hosts = ["{PRODUCTION}"]
upstream = "core"
[[upstreams]]
name = "core"
servers = ["http://{upstream}"]
[[permissions]]
name = "a:b"
routes = ["GET /a"]
[admin]
address = "127.0.0.1:0"
[limits]
drain_timeout = "1s"
[log]
level = "trace"
access = "stdout"
"#
    )
}

fn keep(from: impl Read + Send + 'static, said: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            said.lock().unwrap().append(&mut line);
        }
    })
}

/// An address that the program said.
async fn announced(said: &Arc<Mutex<Vec<u8>>>, before: &str) -> SocketAddr {
    eventually(before, || {
        let text = String::from_utf8_lossy(&said.lock().unwrap()).into_owned();
        let (_, behind) = text.split_once(before)?;
        behind.split(|character: char| !character.is_ascii_digit() && !".:".contains(character)).next()?.parse().ok()
    })
    .await
}

/// What a client got, as bytes.
async fn answered(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut client = Http1::connect(address).await;
    let _ = client.try_send(bytes).await;
    client.finish_sending().await;
    client.until_end().await
}

/// Requests with a secret in each place where one can be put. Of the last ones nobody can make a request.
fn placed(secret: &str) -> Vec<Vec<u8>> {
    let encoded: String = secret.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let heads = [
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer {secret}\r\n"),
        format!("HEAD / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: bearer  {secret} \r\n"),
        format!("GET / HTTP/1.1\r\nhost: sandbox.martis.test\r\nauthorization: Bearer {secret}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Basic {secret}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: {secret}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer {secret}, Bearer {secret}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer {secret}\r\nauthorization: Bearer {secret}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer {secret}x\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer x{secret}\r\n"),
        format!("GET /{secret} HTTP/1.1\r\nhost: {PRODUCTION}\r\n"),
        format!("GET /a/{secret}/b HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer sk_live_x\r\n"),
        format!("GET /{encoded} HTTP/1.1\r\nhost: {PRODUCTION}\r\n"),
        format!("GET //{secret} HTTP/1.1\r\nhost: {PRODUCTION}\r\n"),
        format!("GET /?key={secret} HTTP/1.1\r\nhost: {PRODUCTION}\r\n"),
        format!("GET http://{PRODUCTION}/{secret}?{secret} HTTP/1.1\r\nhost: {PRODUCTION}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {secret}\r\n"),
        format!(
            "GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nuser-agent: {secret}\r\ncookie: k={secret}\r\nx-api-key: {secret}\r\nreferer: /{secret}\r\n"
        ),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nx-forwarded-for: {secret}\r\nforwarded: for={secret}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\ncontent-type: {secret}\r\nupgrade: {secret}\r\nconnection: upgrade, {secret}\r\n"),
        format!("{secret} / HTTP/1.1\r\nhost: {PRODUCTION}\r\n"),
        format!("{secret}\r\n"),
        format!("GET / {secret}\r\nhost: {PRODUCTION}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\n{secret}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\n{secret}: {secret}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer {secret}\0\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer\r\n {secret}\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {PRODUCTION}\r\nauthorization: Bearer {secret}\nx: y\r\n"),
        format!("POST / HTTP/1.1\r\nhost: {PRODUCTION}\r\ncontent-length: {secret}\r\ntransfer-encoding: {secret}\r\n"),
    ];
    let mut placed: Vec<Vec<u8>> = heads.iter().map(|head| format!("{head}\r\n").into_bytes()).collect();
    placed.extend(heads.iter().map(|head| head.as_bytes().to_vec()));
    let body = format!("POST / HTTP/1.1\r\nhost: {PRODUCTION}\r\ntransfer-encoding: chunked\r\n\r\n{secret}\r\n");
    placed.extend([body.into_bytes(), [&b"\x16\x03\x01"[..], secret.as_bytes()].concat()]);
    placed
}

/// The same over HTTP/2.
async fn place_in_http2(address: SocketAddr, secret: &str) -> String {
    let mut client = Http2::connect(address).await;
    let requests = [
        Request::get("/").secret(secret),
        Request::get("/").secret(secret).secret(secret),
        Request::get(&format!("/{secret}?{secret}")).field("cookie", secret),
        Request::get("/").to(secret),
        Request::get("/").to(&format!("{secret}@{PRODUCTION}")),
        Request::post("/", secret.to_owned()).of_grpc().secret(&format!("{secret}x")),
    ];
    let mut answers = String::new();
    for request in requests {
        if let Ok(reply) = client.try_ask(&request).await {
            answers.push_str(&format!("{:?} {}", reply.fields, String::from_utf8_lossy(&reply.body)));
        }
    }
    let head: [(&[u8], &[u8]); 5] = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", PRODUCTION.as_bytes()),
        (b":path", secret.as_bytes()),
        (b"authorization", secret.as_bytes()),
    ];
    let mut frames = Frames::connect(address).await;
    frames.send(&Frame::headers(1, Frame::END_STREAM, &head)).await;
    frames.next_of(&[Frame::HEADERS, Frame::RST_STREAM, Frame::GOAWAY]).await;
    answers
}

/// Fails if eight characters in a row of a secret's random part are in some bytes, as they are or percent-encoded. Its last four
/// may be: they are the hint.
#[track_caller]
fn holds_nothing_of(secret: &str, what: &str, bytes: &[u8]) {
    let random = &secret["sk_live_".len()..];
    for part in random.as_bytes().windows(8) {
        let encoded = |byte: &u8| format!("%{byte:02x}");
        let lower: String = part.iter().map(encoded).collect();
        for part in [part, lower.as_bytes(), lower.to_uppercase().as_bytes()] {
            if let Some(at) = memchr::memmem::find(bytes, part) {
                // The secret is of no use to anybody by now.
                let around = bytes[at.saturating_sub(200)..bytes.len().min(at + 100)].escape_ascii();
                panic!("{what} holds a part of a secret: {around}");
            }
        }
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn no_part_of_a_secret_is_in_anything_that_the_program_says_or_writes() {
    let upstream = TestUpstream::echo().await;
    let program = Program::serve(upstream.address).await;
    program.run(&["accounts", "create", "acme"], "", true);
    let (good_id, good) = program.make_key();
    let (revoked_id, revoked) = program.make_key();
    program.run(&["keys", "revoke", &revoked_id, "--yes", "--reason", &format!("leaked: {revoked}")], "", true);
    let (other, unknown) = (program.make_key().1, format!("sk_live_{}", "QwErTyUiOpAsDfGhJkLzXcVbNm0123456789uV"));
    let secrets = [&good, &revoked, &other, &unknown];

    let mut answers = Vec::new();
    for secret in secrets {
        for bytes in placed(secret) {
            answers.extend(answered(program.address, &bytes).await);
        }
        answers.extend(place_in_http2(program.address, secret).await.into_bytes());
        // On the wrong listener, too.
        answers.extend(answered(program.admin, &placed(secret)[0]).await);
    }
    for arguments in [&["keys", "list"][..], &["--json", "keys", "show", &good_id], &["keys", "export", "exported.ndjson"], &["nodes"]] {
        program.run(arguments, "", true);
    }
    let url = format!("http://{PRODUCTION}/a");
    for secret in [&good, &revoked, &unknown] {
        program.run(&["explain", "GET", &url, "--from", "127.0.0.1", "--secret-stdin"], secret, true);
    }
    let metrics = Http1::connect(program.admin).await.ask(&Request::get("/metrics").to("localhost")).await;
    let readyz = Http1::connect(program.admin).await.ask(&Request::get("/readyz").to("localhost")).await;
    let (folder, said) = program.stop();

    assert!(said.windows(12).any(|window| window == b"\"code\":\"forw"), "the access log is in what was said");
    let forwarded = upstream.requests().into_iter().filter(|received| received.target() == "/").map(|received| format!("{received:?}"));
    let forwarded = forwarded.collect::<Vec<_>>().concat();
    for secret in secrets {
        holds_nothing_of(secret, "what was said", &said);
        holds_nothing_of(secret, "an answer", &answers);
        holds_nothing_of(secret, "the page of metrics", &metrics.body);
        holds_nothing_of(secret, "the page of readiness", &readyz.body);
        holds_nothing_of(secret, "what the upstream was sent", forwarded.as_bytes());
        for file in files_in(folder.path()) {
            holds_nothing_of(secret, &file.display().to_string(), &std::fs::read(&file).unwrap());
        }
    }
}

#[tokio::test]
async fn no_type_that_holds_a_secret_shows_it() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let created: CreatedKey = gateway.keys.keyring.create(&gateway.keys.actor, &a_key()).await.unwrap();
    let rotated = gateway.keys.keyring.rotate(&gateway.keys.actor, created.key.id, None).await.unwrap();
    let shown = format!("{created:?} {rotated:?} {:#?} {:?}", gateway.keys.keyring, gateway.config());
    for secret in [created.secret.reveal(), rotated.secret.reveal(), &gateway.live.secret] {
        holds_nothing_of(secret, "what is shown of a type", shown.as_bytes());
    }
}

#[tokio::test]
async fn what_stands_on_the_disk_while_a_node_runs_is_digests() {
    let upstream = TestUpstream::echo().await;
    let gateway = Setup::before(upstream.address).start().await;
    let rotated = gateway.keys.keyring.rotate(&gateway.keys.actor, gateway.live.id, Some("1h")).await.unwrap();
    gateway.ask(&Request::get("/").with(&gateway.live)).await.passed();
    gateway.log_lines(1).await;
    for file in files_in(gateway.folder.path()) {
        let bytes = std::fs::read(&file).unwrap();
        for secret in [rotated.secret.reveal(), &gateway.live.secret, &gateway.test.secret] {
            holds_nothing_of(secret, &file.display().to_string(), &bytes);
        }
    }
}
