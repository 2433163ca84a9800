//! `check`: everything that would keep a node from starting with this configuration, at once and without starting.
//!
//! Nothing is changed, and nothing left behind: the store is looked through for damage and keeps its schema; folders and files
//! that a node would make are only looked at. An address that is in use is a warning, since it may well be the running node
//! that the configuration is meant for.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::operator::{may_make_store, store_path};
use super::output::{self, BAD, GOOD, Output, counted};
use super::{Told, times};
use crate::clock::Clock;
use crate::config::{self, AccessLog, Config, Problems};
use crate::store::{Examined, StoreError, examine};
use crate::sync::snapshot::{SnapshotError, show};
use crate::tls::{self, ListenerCertificates};

/// Certificates that end within so many days are warned of.
const CERTIFICATE_DAYS: u64 = 14;

#[derive(Serialize, Default)]
struct Checked {
    file: String,
    /// What a node would not start with.
    problems: Vec<Problem>,
    /// What is allowed and probably not meant.
    warnings: Vec<String>,
    #[serde(skip)]
    summary: Vec<String>,
}

#[derive(Serialize)]
struct Problem {
    line: Option<usize>,
    column: Option<usize>,
    message: String,
    help: Option<String>,
}

pub async fn check(flag: Option<&Path>, output: Output) -> Result<()> {
    let path = config::find(flag, std::env::var_os("MARTIS_CONFIG"));
    let file = path.display().to_string();
    let checked = match config::load(&path) {
        Ok(config) => examined(file, &config).await,
        Err(problems) => {
            output::note(problems.render(true));
            Checked { file, problems: of_the_file(&problems), ..Checked::default() }
        }
    };
    checked.warnings.iter().for_each(output::warn);
    let fine = checked.problems.is_empty();
    if fine || output.is_json() {
        output.answer(&checked, |checked, out| {
            let Checked { file, summary, .. } = checked;
            writeln!(out, "{GOOD}{} is fine{GOOD:#}: {}", output::plain(file), output::plain(&summary.join("; ")))
        })?;
    }
    if fine { Ok(()) } else { Err(Told.into()) }
}

fn of_the_file(problems: &Problems) -> Vec<Problem> {
    let problem = |problem: &config::Problem| Problem {
        line: problem.place.map(|place| place.line),
        column: problem.place.map(|place| place.column),
        message: problem.message.clone(),
        help: problem.help.clone(),
    };
    problems.iter().map(problem).collect()
}

/// What a configuration names, looked at.
async fn examined(file: String, config: &Config) -> Checked {
    let mut checked = Checked { file, warnings: config.warnings.clone(), ..Checked::default() };
    checked.summary(config);
    checked.tls(config);
    checked.addresses(config);
    checked.files(config);
    match store(config).await {
        Ok(found) => checked.summary.push(found),
        Err(error) => checked.problem(&error),
    }
    checked
}

impl Checked {
    fn problem(&mut self, error: &anyhow::Error) {
        output::note(format_args!("{BAD}error{BAD:#}: {error:#}"));
        self.problems.push(Problem { line: None, column: None, message: format!("{error:#}"), help: None });
    }

    fn summary(&mut self, config: &Config) {
        let with_tls = config.listeners.iter().filter(|listener| listener.tls.is_some()).count();
        let environments: Vec<_> = config.environments.iter().map(|environment| environment.name.name()).collect();
        self.summary.push(format!("{}, {with_tls} with TLS", counted(config.listeners.len() as u64, "listener")));
        self.summary.push(environments.join(" and "));
        self.summary.push(counted(config.upstreams.len() as u64, "upstream"));
        self.summary.push(counted(config.permission_names.len() as u64, "permission"));
    }

    fn tls(&mut self, config: &Config) {
        let now = Clock::of_the_machine().now();
        for error in tls::check(&config.listeners, &config.upstreams, now) {
            self.problem(&error.into());
        }
        let certificates = config.listeners.iter().filter_map(|listener| ListenerCertificates::load(listener.tls.as_ref()?, now).ok());
        for (name, end) in certificates.flat_map(|certificates| certificates.expiries()) {
            if end.since(now).as_secs() < CERTIFICATE_DAYS * 86_400 {
                self.warnings.push(format!("the certificate {name} ends {}", times::short(end, now)));
            }
        }
    }

    fn addresses(&mut self, config: &Config) {
        let listeners = config.listeners.iter().map(|listener| listener.address);
        for address in listeners.chain([config.admin.address]).chain(config.health) {
            match TcpListener::bind(address) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::AddrInUse => self.warnings.push(in_use(address)),
                Err(error) => self.problem(&anyhow::Error::new(error).context(format!("listen on {address}"))),
            }
        }
    }

    fn files(&mut self, config: &Config) {
        let snapshot = &config.snapshot.path;
        if let Err(error) = writable(snapshot, MayMake::Folders).with_context(|| format!("write the snapshot {}", snapshot.display())) {
            self.problem(&error);
        }
        match show(snapshot) {
            Ok(_) | Err(SnapshotError::Missing) => {}
            Err(error) => self.warnings.push(format!("the snapshot {} would not be used: {error}", snapshot.display())),
        }
        if let AccessLog::File(path) = &config.log.access
            && let Err(error) = writable(path, MayMake::File).with_context(|| format!("write the access log {}", path.display()))
        {
            self.problem(&error);
        }
    }
}

fn in_use(address: SocketAddr) -> String {
    format!("{address} is in use: by a node that runs already, or by something that a node could not start beside")
}

/// What there is in the store, or that there is none yet.
async fn store(config: &Config) -> Result<String> {
    let path = store_path(config)?;
    match examine(path).await {
        Ok(Examined::Store { keys, revision }) => Ok(format!("the store has {} at revision {revision}", counted(keys, "key"))),
        Ok(Examined::Older { schema }) => Ok(format!("the store has schema {schema}, which the next start brings up to date")),
        Err(StoreError::Missing { .. }) => {
            may_make_store(config)??;
            writable(path, MayMake::Folders).with_context(|| format!("make the store {}", path.display()))?;
            Ok("the store is made at the first start".to_owned())
        }
        Err(error) => Err(error.into()),
    }
}

/// What a node makes where it is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MayMake {
    File,
    /// And the file.
    Folders,
}

/// Whether a file could be written, found out without a trace.
fn writable(path: &Path, may_make: MayMake) -> io::Result<()> {
    if path.exists() {
        return std::fs::OpenOptions::new().append(true).open(path).map(drop);
    }
    let parent = |path: &Path| path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let mut folder = parent(path);
    while may_make == MayMake::Folders && !folder.exists() && folder.parent().is_some() {
        folder = parent(&folder);
    }
    // A file without a name: nobody sees it, and it is gone when it is closed.
    tempfile::tempfile_in(folder).map(drop)
}
