//! `demo`: a whole system in one process, in a temporary folder that is removed at the end.
//!
//! It is the program as it is: a configuration is written to a file and read back, keys are made by the keyring, and the
//! gateway is started as `serve` starts it. Only the upstream, which echoes what it received, is the demo's own.

mod request;
mod tries;
mod upstream;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::request::Request;
use self::tries::{Keys, Made, Place, Try};
use super::output::{self, BAD, GOOD, Output, QUIET, STRONG};
use super::{Told, operator, serve};
use crate::app;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::keyring::view::IpRestrictionsView;
use crate::keyring::{Keyring, NewKey};
use crate::store::{OpenOptions, Random, Store};
use crate::telemetry::log::{self, Format};

/// How long the gateway may take until it serves.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn demo(check: bool, output: Output) -> Result<()> {
    log::init("warn", Format::for_standard_error(), "demo", Clock::of_the_machine())?;
    serve::runtime()?.block_on(run(check, output))
}

async fn run(check: bool, output: Output) -> Result<()> {
    let mut stop = Stop::catch()?;
    let folder = tempfile::Builder::new().prefix("martis-gateway-demo-").tempdir().context("make a temporary folder")?;
    let clock = Clock::of_the_machine();
    let upstream = upstream::start().await.context("start the upstream")?;
    let file = write_config(folder.path(), upstream)?;
    let config = config::load(&file)?;
    let keys = make_keys(&config, &clock).await.context("make the keys")?;

    let bound = app::bind(config, clock, Random::of_the_machine()).await?;
    let gateway = bound.listeners.first().copied().context("the configuration has no listener")?;
    let place = Place::new(&file, gateway, bound.admin)?;
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let node = bound.run(async move {
        let _ = ended.await;
    });
    let shown = async move {
        // Dropped at the end, whatever it is: with it the node stops.
        let _end = end;
        tokio::select! {
            () = stop.told() => return Ok(()),
            ready = until_ready(place.admin) => ready?,
        }
        let tries = place.tries(&keys);
        tokio::select! {
            () = stop.told() => Ok(()),
            done = show(check, &place, tries, output) => done,
        }
    };
    let (stopped, shown) = tokio::join!(node, shown);
    folder.close().context("remove the temporary folder")?;
    shown.and(stopped)
}

/// The configuration of the demo, in a file like anybody's: other commands can be tried with it.
fn write_config(folder: &Path, upstream: SocketAddr) -> Result<PathBuf> {
    let (listener, admin) = (free(8080)?, free(9900)?);
    let text = include_str!("gateway.toml")
        .replace("LISTENER", &listener.local_addr()?.to_string())
        .replace("ADMIN", &admin.local_addr()?.to_string())
        .replace("UPSTREAM", &upstream.to_string());
    let file = folder.join("gateway.toml");
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

/// The port if nobody has it, else any. Held until both are chosen, so that they are not the same.
fn free(port: u16) -> Result<TcpListener> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    bind(port).or_else(|_| bind(0)).context("find a free port")
}

async fn make_keys(config: &Config, clock: &Clock) -> Result<Keys> {
    let random = Random::of_the_machine();
    let store = Store::open(operator::store_path(config)?, OpenOptions { create: true }, &random).await?;
    let keyring = Keyring::new(store.clone(), clock.clone(), random, &config.permission_names);
    let actor = operator::actor();
    let account = keyring.create_account(&actor, "Demo").await?.id.to_string();
    let make = async |name: &str, environment: &str, permission: Option<&str>, range: Option<&str>| -> Result<Made> {
        let allowed = range.map(|range| IpRestrictionsView { enabled: true, allowed: vec![range.to_owned()] });
        let new = NewKey {
            account: account.clone(),
            name: name.to_owned(),
            environment: environment.to_owned(),
            permissions: permission.map(|permission| vec![permission.to_owned()]),
            ip_restrictions: allowed,
            expires_at: None,
        };
        let created = keyring.create(&actor, &new).await?;
        Ok(Made { id: created.key.id, secret: created.secret })
    };
    let keys = Keys {
        production: make("Production", "production", None, None).await?,
        sandbox: make("Sandbox", "sandbox", None, None).await?,
        restricted: make("Office only", "production", None, Some(tries::OFFICE)).await?,
        reader: make("Reports", "production", Some(tries::READ), None).await?,
        leaked: make("Leaked", "production", None, None).await?,
    };
    store.close().await;
    Ok(keys)
}

async fn until_ready(admin: SocketAddr) -> Result<()> {
    let ready = async {
        while !Request::get(admin, "/readyz").send().await.is_ok_and(|reply| reply.status == 200) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.context("the gateway was not ready in time")
}

#[derive(Serialize)]
struct Demo<'a> {
    gateway: String,
    admin: String,
    config: &'a Path,
    tries: Vec<Try>,
}

/// Prints what there is to try and stays; or tries all of it.
async fn show(check: bool, place: &Place, tries: Vec<Try>, output: Output) -> Result<()> {
    if check {
        return check_all(tries, output).await;
    }
    let demo =
        Demo { gateway: format!("http://{}", place.gateway), admin: format!("http://{}", place.admin), config: &place.config, tries };
    output.answer(&demo, write_demo)?;
    std::future::pending().await
}

fn write_demo(demo: &Demo<'_>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{STRONG}The gateway is at {}, its admin listener at {}.{STRONG:#}", demo.gateway, demo.admin)?;
    writeln!(out, "The upstream behind it echoes what it received. All files are in {}.", parent(demo.config))?;
    writeln!(out, "Try these in another terminal; Ctrl-C ends everything and removes the files.")?;
    for one in &demo.tries {
        writeln!(out, "\n{QUIET}# {}{QUIET:#}\n{}", one.comment, one.command)?;
    }
    Ok(())
}

fn parent(file: &Path) -> String {
    file.parent().unwrap_or(file).display().to_string()
}

#[derive(Serialize)]
struct Tried {
    comment: String,
    command: String,
    /// None: it did what it says.
    problem: Option<String>,
}

async fn check_all(tries: Vec<Try>, output: Output) -> Result<()> {
    let curl = tries::curl_is_there().await;
    if !curl {
        output::note("curl is not installed: the same requests are sent without it.");
    }
    let mut done = Vec::new();
    for one in tries {
        let problem = one.run(curl).await.err().map(|error| format!("{error:#}"));
        let tried = Tried { comment: one.comment, command: one.command, problem };
        if !output.is_json() {
            // At once: whoever watches sees how far it is.
            write_tried(&tried, &mut anstream::stdout().lock()).context("write to standard output")?;
        }
        done.push(tried);
    }
    let failed = done.iter().filter(|tried| tried.problem.is_some()).count();
    let all = done.len();
    output.answer(&done, |_, out| match failed {
        0 => writeln!(out, "\n{GOOD}All {all} lines did what they say.{GOOD:#}"),
        _ => writeln!(out, "\n{BAD}{failed} of {all} lines did not do what they say.{BAD:#}"),
    })?;
    if failed == 0 { Ok(()) } else { Err(Told.into()) }
}

fn write_tried(tried: &Tried, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{QUIET}# {}{QUIET:#}", tried.comment)?;
    match &tried.problem {
        None => writeln!(out, "{GOOD}✓{GOOD:#} {}", tried.command),
        Some(problem) => writeln!(out, "{BAD}✗{BAD:#} {}\n  {BAD}{}{BAD:#}", tried.command, output::plain(problem)),
    }
}

/// What ends a demo: Ctrl-C, SIGTERM, and the end of its terminal.
struct Stop([Signal; 3]);

impl Stop {
    fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("listen to signals");
        Ok(Self([catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?, catch(SignalKind::hangup())?]))
    }

    async fn told(&mut self) {
        let [interrupt, terminate, hang_up] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    }
}
