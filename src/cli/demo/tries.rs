//! What there is to try: each line, what it shows, and how to tell that it did.

use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;

use super::request::{PATIENCE, Reply, Request};
use crate::access::key::KeyId;
use crate::access::secret::GeneratedSecret;

/// The range that one key may be used from: it is reserved for documentation, so nobody is in it.
pub const OFFICE: &str = "203.0.113.0/24";
/// The permission that one key has.
pub const READ: &str = "payments.charges:read";

const PRODUCTION: &str = "api.martis.id";
const SANDBOX: &str = "api-staging.martis.id";
const CHARGES: &str = "/api/v1/payments/charges";
const A_CHARGE: &str = r#"{"amount":5000}"#;

/// The keys of the demo.
#[derive(Debug)]
pub struct Keys {
    pub production: Made,
    pub sandbox: Made,
    pub restricted: Made,
    pub reader: Made,
    pub leaked: Made,
}

#[derive(Debug)]
pub struct Made {
    pub id: KeyId,
    pub secret: GeneratedSecret,
}

/// Where everything is.
#[derive(Debug)]
pub struct Place {
    pub gateway: SocketAddr,
    pub admin: SocketAddr,
    pub config: PathBuf,
    program: PathBuf,
}

/// A line to try.
#[derive(Debug, Serialize)]
pub struct Try {
    /// What it does.
    pub comment: String,
    pub command: String,
    #[serde(skip)]
    request: Option<Request>,
    #[serde(skip)]
    expected: Expected,
}

#[derive(Clone, Copy, Debug)]
struct Expected {
    /// None for a command of ours, which exits with 0.
    status: Option<u16>,
    /// Stands in the body or in what is printed.
    text: &'static str,
}

impl Place {
    pub fn new(config: &Path, gateway: SocketAddr, admin: SocketAddr) -> Result<Self> {
        let program = from_here(std::env::current_exe().context("find this program")?);
        Ok(Self { gateway, admin, config: config.to_owned(), program })
    }

    /// Everything there is to try, in an order in which each does what it says.
    pub fn tries(&self, keys: &Keys) -> Vec<Try> {
        let production = |key: &Made| self.charges(PRODUCTION).secret(key.secret.reveal());
        let Keys { production: full, sandbox, restricted, reader, leaked } = keys;
        vec![
            sends(
                "A production key passes: the reply is what the upstream received.",
                production(full),
                200,
                r#""x-martis-environment": "production""#,
            ),
            sends(
                "A sandbox key passes on the sandbox's host.",
                self.charges(SANDBOX).secret(sandbox.secret.reveal()),
                200,
                r#""x-martis-environment": "sandbox""#,
            ),
            sends("Wrong environment: a sandbox key on the production host gets 401.", production(sandbox), 401, "environment_mismatch"),
            sends("Missing key: 401.", self.charges(PRODUCTION), 401, "missing_api_key"),
            sends("A secret that nobody has: 401.", self.charges(PRODUCTION).secret("sk_live_guess"), 401, "invalid_api_key"),
            sends(
                &format!("Refused address: this key may be used from {OFFICE} alone; 403."),
                production(restricted),
                403,
                "ip_not_allowed",
            ),
            sends(&format!("A key with {READ} alone may read."), production(reader), 200, READ),
            sends(
                "Missing permission: the same key may not write; 403.",
                production(reader).post(A_CHARGE),
                403,
                "insufficient_permissions",
            ),
            sends("A key that has leaked still passes.", production(leaked), 200, "x-martis-key-id"),
            self.runs("It is revoked, beside the running node.", &format!("keys revoke {} --yes", leaked.id), "Enforced by 1 of 1 node"),
            sends("The very next request with it gets 401.", production(leaked), 401, "revoked_api_key"),
            self.runs("All keys.", "keys list", "revoked"),
            self.runs(
                "Why the address was refused, step by step.",
                &format!("explain GET http://{PRODUCTION}{CHARGES} --from 127.0.0.1 --key {}", restricted.id),
                "ip_not_allowed",
            ),
            sends("The process lives.", Request::get(self.admin, "/healthz"), 200, "ok"),
            sends("The node may serve.", Request::get(self.admin, "/readyz"), 200, r#""ready":true"#),
            sends("What it counted.", Request::get(self.admin, "/metrics"), 200, "martis_gateway_requests_total"),
        ]
    }

    fn charges(&self, host: &'static str) -> Request {
        Request::get(self.gateway, CHARGES).host(host)
    }

    fn runs(&self, comment: &str, arguments: &str, text: &'static str) -> Try {
        let command = format!("{} --config {} {arguments}", quoted(&self.program), quoted(&self.config));
        Try { comment: comment.to_owned(), command, request: None, expected: Expected { status: None, text } }
    }
}

fn sends(comment: &str, request: Request, status: u16, text: &'static str) -> Try {
    let expected = Expected { status: Some(status), text };
    Try { comment: comment.to_owned(), command: request.curl(), request: Some(request), expected }
}

/// As short as it can be called from the working folder.
fn from_here(program: PathBuf) -> PathBuf {
    let here = std::env::current_dir().ok().and_then(|folder| program.strip_prefix(folder).ok().map(|rest| Path::new(".").join(rest)));
    here.unwrap_or(program)
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-');
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

impl Try {
    /// Does what the line says, by `sh` unless it needs a curl that is not there.
    ///
    /// # Errors
    /// What came instead of what the comment says.
    pub async fn run(&self, curl: bool) -> Result<()> {
        match (&self.request, self.expected.status) {
            (Some(request), Some(status)) => {
                let reply = if curl { self.by_curl().await? } else { request.send().await? };
                if reply.status != status || !reply.body.contains(self.expected.text) {
                    bail!("expected {status} with {}, but got {}: {}", self.expected.text, reply.status, shortened(&reply.body));
                }
            }
            _ => {
                let output = shell(&self.command).await?;
                let printed = String::from_utf8_lossy(&output.stdout);
                if !output.status.success() || !printed.contains(self.expected.text) {
                    let complaint = String::from_utf8_lossy(&output.stderr);
                    bail!("expected {}, but got {}: {} {}", self.expected.text, output.status, shortened(&printed), shortened(&complaint));
                }
            }
        }
        Ok(())
    }

    async fn by_curl(&self) -> Result<Reply> {
        let output = shell(&self.command).await?;
        let printed = String::from_utf8_lossy(&output.stdout);
        Reply::printed_by_curl(&printed).with_context(|| format!("curl ended with {} and printed no reply", output.status))
    }
}

fn shortened(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.char_indices().nth(300).map_or(line.clone(), |(end, _)| format!("{}…", line.get(..end).unwrap_or_default()))
}

pub async fn curl_is_there() -> bool {
    shell("command -v curl").await.is_ok_and(|output| output.status.success())
}

/// Runs a line as somebody who pasted it would.
async fn shell(line: &str) -> Result<Output> {
    let mut command = Command::new("sh");
    // A group of its own: what is started by it ends with it, should it take too long.
    command.args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().context("start sh")?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    match tokio::time::timeout(PATIENCE, ended).await {
        Ok(ended) => Ok(ended.map_err(io::Error::other).and_then(|output| output).context("wait for sh")?),
        Err(_) => {
            if let Some(group) = group {
                // It may have ended this very moment: then there is nothing to end.
                let _ = kill_process_group(group, Signal::KILL);
            }
            bail!("it did not end in time")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_spaces_and_quotes_is_one_word_for_a_shell() {
        assert_eq!(quoted(Path::new("/a/b-c.toml")), "/a/b-c.toml");
        assert_eq!(quoted(Path::new("/a b/c'd")), r"'/a b/c'\''d'");
    }

    #[test]
    fn a_long_reply_is_shown_in_part() {
        assert_eq!(shortened("a\n  b"), "a b");
        assert!(shortened(&"ä".repeat(400)).ends_with("ä…"));
    }
}
