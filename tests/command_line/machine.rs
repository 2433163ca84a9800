//! A machine with a configuration and, in time, a store: a folder of its own for each test.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Far more than anything here takes; met only by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG: &str = r#"
[[listeners]]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[[environments]]
name = "production"
hosts = ["api.martis.test"]
upstream = "core"
[[environments]]
name = "sandbox"
hosts = ["sandbox.martis.test"]
upstream = "core"
[[permissions]]
name = "payments.charges:read"
routes = ["GET /charges"]
[[permissions]]
name = "payments.charges:write"
routes = ["POST /charges"]
[limits]
connections = 100
[log]
access = "off"
"#;

pub struct Machine {
    folder: TempDir,
}

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Machine {
    /// With a configuration and nothing else.
    pub fn new() -> Self {
        Self::with_config(CONFIG)
    }

    pub fn with_config(text: &str) -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(machine.path("gateway.toml"), text).unwrap();
        machine
    }

    /// With the account Acme, too.
    pub fn with_account() -> Self {
        let machine = Self::new();
        machine.run(&["accounts", "create", "Acme"]).done();
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command in the folder of this machine. Nothing of the environment of the tests reaches it but the way to programs.
    pub fn command<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, arguments: &[S]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TMPDIR", self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn gateway(&self, arguments: &[&str]) -> Command {
        self.command(program(), arguments)
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.gateway(arguments).spawn().unwrap())
    }

    /// The same with something on standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self.gateway(arguments).stdin(Stdio::piped()).spawn().unwrap();
        // Whoever does not want to read it has ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        ran(child)
    }

    /// The answer in JSON.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--json"]].concat()).done().json()
    }

    /// A new key of Acme: what create answers.
    #[track_caller]
    pub fn make_key(&self, arguments: &[&str]) -> Value {
        self.ask(&[&["keys", "create", "--account", "Acme", "--name", "Shop", "--environment"], arguments].concat())
    }

    /// All files below the folder.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        files
    }

    /// A node that runs until it is dropped, at the latest.
    pub fn start_node(&self) -> Node {
        let child = self.gateway(&["serve"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut node = Node { child };
        eventually("the node on the list", || {
            assert!(node.is_running(), "the node ended at once");
            (!self.ask(&["nodes"])["items"].as_array().unwrap().is_empty()).then_some(())
        });
        node
    }
}

/// A running node.
pub struct Node {
    child: Child,
}

impl Node {
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The exit code, once it has ended.
    pub fn ended(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Ended already, if it was asked to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ran {
    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    #[track_caller]
    pub fn failed(self) -> Self {
        assert_eq!(self.code, 1, "{self:?}");
        self
    }

    #[track_caller]
    pub fn wrong_usage(self) -> Self {
        assert_eq!(self.code, 2, "{self:?}");
        self
    }

    /// With these texts on standard output.
    #[track_caller]
    pub fn prints(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.out.contains(text), "{text} is not printed: {self:?}");
        }
        self
    }

    /// With these texts on standard error.
    #[track_caller]
    pub fn complains(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.err.contains(text), "{text} is not said: {self:?}");
        }
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_martis-gateway")
}

pub fn ran(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let ran = Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) };
    assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'), "colour in a pipe: {ran:?}");
    ran
}

/// What `look` finds as soon as it finds something. Nothing here waits for a time to pass.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not come about within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// A field of an answer that is a text.
#[track_caller]
pub fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().unwrap_or_else(|| panic!("{field} is no text in {answer}"))
}

/// Whether a file holds these bytes.
pub fn holds(file: &Path, bytes: &str) -> bool {
    let mut content = Vec::new();
    fs::File::open(file).unwrap().read_to_end(&mut content).unwrap();
    content.windows(bytes.len()).any(|window| window == bytes.as_bytes())
}
