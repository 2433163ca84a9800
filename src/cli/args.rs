//! What may be said on the command line: commands, their flags, and one sentence on each.
//!
//! Ids are parsed here, so that one that is none is wrong usage; whatever the keyring judges (names, permissions, addresses,
//! times) stays text until then, so that all that is wrong with it is told at once.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::Shell;
use hyper::Method;

use crate::access::key::KeyId;
use crate::keyring::explain::{Url, parse_method};
use crate::keyring::parse_duration;

/// The heading of what every command takes.
const EVERYWHERE: &str = "Options of every command";

/// An API-key gateway: every request's key is looked up in memory, decided and streamed on or refused.
#[derive(Parser, Debug)]
#[command(name = "martis-gateway", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Arguments {
    /// The configuration; else the file that MARTIS_CONFIG names, else gateway.toml in the working folder.
    #[arg(long, value_name = "FILE", global = true, help_heading = EVERYWHERE)]
    pub config: Option<PathBuf>,
    /// Answer in JSON, for programs.
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a node until SIGTERM or Ctrl-C (a second one ends it at once, with exit code 1); SIGHUP reloads certificates and
    /// reopens the access log.
    Serve,
    /// Run a whole system in a temporary folder and print the curl lines to try.
    Demo(Demo),
    /// Check the configuration and everything it names, without starting.
    Check,
    /// Say what would become of a request and, step by step, why.
    Explain(Explain),
    /// Make, show and change keys.
    #[command(subcommand)]
    Keys(Keys),
    /// Make, list and suspend accounts.
    #[command(subcommand)]
    Accounts(Accounts),
    /// Write and examine the file that a node starts from when the store does not answer.
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// List the nodes that run, and those that ended without saying so.
    Nodes(Nodes),
    /// Look after the store as a whole.
    #[command(subcommand)]
    Store(Store),
    /// Print the completions of a shell.
    Completions {
        /// Its name.
        shell: Shell,
    },
}

#[derive(Args, Debug)]
pub struct Demo {
    /// Run the lines, show which did what they say, and end: with 0 if all did, else with 1.
    #[arg(long)]
    pub check: bool,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("credential").required(true)))]
pub struct Explain {
    /// The method of the request, in upper case.
    #[arg(value_parser = parse_method)]
    pub method: Method,
    /// The URL of the request, with https:// or http:// and a host.
    #[arg(value_parser = Url::parse)]
    pub url: Url,
    /// The address of the client.
    #[arg(long, value_name = "IP")]
    pub from: IpAddr,
    /// The key that the request comes with.
    #[arg(long, value_name = "ID", value_parser = KeyId::parse, group = "credential")]
    pub key: Option<KeyId>,
    /// Read the secret that the request comes with from standard input.
    #[arg(long, group = "credential")]
    pub secret_stdin: bool,
}

#[derive(Subcommand, Debug)]
pub enum Keys {
    /// Make a key and print its secret, this once.
    Create(CreateKey),
    /// List keys, the newest first.
    List(ListKeys),
    /// Show a key.
    Show(OneKey),
    /// Give a key another name.
    Rename {
        #[command(flatten)]
        key: OneKey,
        /// 1 to 100 characters.
        name: String,
    },
    /// Set the IP restrictions of a key, or switch them on or off.
    Restrict(RestrictKey),
    /// Make a key that replaces this one, and print its secret, this once.
    Rotate {
        #[command(flatten)]
        key: OneKey,
        /// How long the replaced key goes on: 0s to 30d; 0s revokes it now.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
        overlap: Duration,
    },
    /// Refuse requests with a key until it is resumed.
    Pause(OneKey),
    /// Let a paused key pass again.
    Resume(OneKey),
    /// End a key for ever; on a terminal, ask first.
    Revoke {
        #[command(flatten)]
        key: OneKey,
        /// Kept in the audit log.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Add the keys of a file, a JSON object a line, with `digest` or `secret`, if all lines are right.
    Import {
        /// Read twice: to check it whole, then to write.
        file: PathBuf,
    },
    /// Write all keys to a file, a JSON object a line, with digests and without secrets.
    Export {
        /// `-` is standard output.
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
pub struct OneKey {
    /// The key: `key_` and 26 characters.
    #[arg(value_parser = KeyId::parse)]
    pub id: KeyId,
}

#[derive(Args, Debug)]
pub struct CreateKey {
    /// Whose key it will be: a name or an id.
    #[arg(long)]
    pub account: String,
    /// 1 to 100 characters; need not be unique.
    #[arg(long)]
    pub name: String,
    /// Where it will work.
    #[arg(long, value_parser = environments())]
    pub environment: String,
    /// What it may do, such as payments.charges:write; repeat it for more. Everything if left out.
    #[arg(long = "permission", value_name = "PERMISSION")]
    pub permissions: Vec<String>,
    /// An address or a range that it may be used from; repeat it for more. Everywhere if left out.
    #[arg(long, value_name = "CIDR")]
    pub allow_ip: Vec<String>,
    /// How long it lasts, such as 90d. For ever if left out.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub expires_in: Option<Duration>,
}

#[derive(Args, Debug)]
pub struct ListKeys {
    /// Only of this account: a name or an id.
    #[arg(long)]
    pub account: Option<String>,
    /// Only of this environment.
    #[arg(long, value_parser = environments())]
    pub environment: Option<String>,
    /// Only with this status.
    #[arg(long, value_parser = ["active", "paused", "expired", "revoked"])]
    pub status: Option<String>,
    /// Only with this in the name or hint, or at the beginning of the id.
    #[arg(long, value_name = "TEXT")]
    pub q: Option<String>,
    #[command(flatten)]
    pub page: Page,
}

#[derive(Args, Debug)]
pub struct Page {
    /// How many at once: 1 to 100, 50 if left out.
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<u32>,
    /// Go on where a list ended.
    #[arg(long)]
    pub cursor: Option<String>,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("change").required(true)))]
// An id behind the addresses would be taken for one of them.
#[command(override_usage = "martis-gateway keys restrict [OPTIONS] <ID> <--allow-ip <CIDR>...|--on|--off>")]
pub struct RestrictKey {
    #[command(flatten)]
    pub key: OneKey,
    /// The addresses and ranges that it may be used from, in place of those before; also switches the restrictions on.
    #[arg(long, value_name = "CIDR", num_args = 1.., group = "change", value_parser = no_id)]
    pub allow_ip: Vec<String>,
    /// Switch the restrictions on, with the list as it is.
    #[arg(long, group = "change")]
    pub on: bool,
    /// Switch the restrictions off and keep the list.
    #[arg(long, group = "change")]
    pub off: bool,
}

#[derive(Subcommand, Debug)]
pub enum Accounts {
    /// Make an account, and the store, too, if there is none.
    Create {
        /// 1 to 100 characters; unique.
        name: String,
    },
    /// List accounts, the newest first.
    List(Page),
    /// Refuse requests with any key of an account until it is resumed.
    Suspend(OneAccount),
    /// Let the keys of a suspended account pass again.
    Resume(OneAccount),
}

#[derive(Args, Debug)]
pub struct OneAccount {
    /// A name or an id.
    pub account: String,
}

#[derive(Subcommand, Debug)]
pub enum Snapshot {
    /// Write one from the store as it is now.
    Write,
    /// Say what it holds, by its header.
    Show,
    /// Read all of it, and of the one before it, and compare the checksums.
    Verify,
}

#[derive(Args, Debug)]
pub struct Nodes {
    #[command(subcommand)]
    pub command: Option<NodesCommand>,
}

#[derive(Subcommand, Debug)]
pub enum NodesCommand {
    /// Take a node that is gone for good off the list, so that changes no longer name it as silent.
    Forget {
        /// As the list shows it.
        id: String,
    },
}

#[derive(Subcommand, Debug)]
pub enum Store {
    /// Make this store, put back from a backup perhaps, the truth for nodes that knew a newer one.
    Accept,
}

/// An address or a range, which the keyring judges; but not the id of a key, which was meant to be something else.
fn no_id(text: &str) -> Result<String, String> {
    match KeyId::parse(text) {
        Ok(id) => Err(format!("this is the id of a key and goes in front of the addresses: keys restrict {id} --allow-ip CIDR...")),
        Err(_) => Ok(text.to_owned()),
    }
}

fn environments() -> PossibleValuesParser {
    ["production", "sandbox"].into()
}
