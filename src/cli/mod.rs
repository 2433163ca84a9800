//! The command line: flags in, `app` or `keyring` called, text or JSON out.
//!
//! Standard output has the answer and nothing else; what went wrong, and what to do about it, goes to standard error. 0: done,
//! 1: failed, 2: wrong usage. Secrets are never arguments; one that was given as an argument by mistake is not repeated in
//! the complaint about it.
//!
//! Whoever runs this acts as the operator. Deliberately absent: rules about keys (`keyring` has them) and sessions.

mod accounts;
mod args;
mod check;
mod demo;
mod explain;
mod fleet;
mod keys;
mod operator;
mod output;
mod serve;
mod snapshot;
mod times;
mod transfer;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};

use self::args::{Arguments, Command};
use self::operator::Operator;
use self::output::Output;
use crate::access::secret::hide_secrets;

/// Does what the arguments of this process say.
pub fn run() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => conclude(dispatch(arguments)),
        Err(error) => refuse(&error),
    }
}

/// All commands with all that is said of them, for tests and completions.
pub fn commands() -> clap::Command {
    Arguments::command()
}

/// Something went wrong and was told already.
#[derive(Debug)]
struct Told;

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this did not work")
    }
}

impl std::error::Error for Told {}

fn dispatch(arguments: Arguments) -> Result<()> {
    let Arguments { config, json, command } = arguments;
    let (config, output) = (config.as_deref(), Output::new(json));
    match command {
        Command::Serve => serve::serve(config, output),
        Command::Demo(demo) => demo::demo(demo.check, output),
        Command::Completions { shell } => completions(shell),
        Command::Check => at_once(check::check(config, output)),
        Command::Explain(explain) => at_once(explain::explain(&Operator::load(config)?, explain, output)),
        Command::Keys(keys) => at_once(keys::keys(&Operator::load(config)?, keys, output)),
        Command::Accounts(accounts) => at_once(accounts::accounts(&Operator::load(config)?, accounts, output)),
        Command::Snapshot(snapshot) => at_once(snapshot::snapshot(&Operator::load(config)?, &snapshot, output)),
        Command::Nodes(nodes) => at_once(fleet::nodes(&Operator::load(config)?, nodes.command, output)),
        Command::Store(store) => at_once(fleet::store(&Operator::load(config)?, &store, output)),
    }
}

/// Runs a command that is done in one go.
fn at_once(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("start a runtime")?.block_on(command)
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut commands(), "martis-gateway", &mut script);
    output::read_or_left(io::stdout().write_all(&script))
}

fn conclude(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<Told>() {
                output::complain(&error);
            }
            ExitCode::FAILURE
        }
    }
}

/// Wrong usage; or, by clap's way, help and version.
fn refuse(error: &clap::Error) -> ExitCode {
    let text = error.render().ansi().to_string();
    if error.use_stderr() {
        output::note(hide_secrets(text.trim_end()));
        return ExitCode::from(2);
    }
    let _ = write!(anstream::stdout(), "{text}");
    ExitCode::SUCCESS
}
