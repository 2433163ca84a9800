//! The configuration: `gateway.toml`, read once, checked whole, and from then on a value of which nobody doubts anything.
//!
//! It has two forms. `raw` is what a file may say, [`Config`] what is true: half a certificate pair, an environment without
//! its upstream or a limit of nothing cannot be said in it. Between them stands `check`, which collects everything that is
//! wrong and never stops at the first.
//!
//! Deliberately absent: secrets (a configuration names files that hold them), the content of certificates (`tls` reads those,
//! and again on SIGHUP), the name of the machine, and folders, which whoever writes into them makes.

mod amounts;
mod check;
mod defaults;
mod network;
mod problems;
mod raw;
mod read;
mod texts;

use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use self::problems::{Place, Problem, Problems};
use self::read::{Read, Reader};
use crate::access::key::Environment;
use crate::access::permission::PermissionName;
use crate::access::rate::Rate;
use crate::access::route::RouteTable;

/// The file to read: the one a flag names, else the one `MARTIS_CONFIG` names, else `gateway.toml` in the working folder.
pub fn find(flag: Option<&Path>, env: Option<OsString>) -> PathBuf {
    let named = flag.map(Path::to_path_buf).or_else(|| env.filter(|name| !name.is_empty()).map(PathBuf::from));
    named.unwrap_or_else(|| PathBuf::from("gateway.toml"))
}

/// Reads a file and all that it says, with the variables of the process's environment.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let file_name = path.display().to_string();
    let unreadable = |why: &str| {
        let help = "name the file with --config FILE or MARTIS_CONFIG, or start in the folder of a gateway.toml";
        Problems::of_the_file(&file_name, &format!("{file_name}: {why}"), help)
    };
    let bytes = std::fs::read(path).map_err(|error| unreadable(&why_unreadable(&error)))?;
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(&file_name, error.as_bytes(), error.utf8_error().valid_up_to()))?;
    let path = std::path::absolute(path).map_err(|error| unreadable(&why_unreadable(&error)))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    parse(&text, folder, &file_name, &|name| std::env::var(name).ok())
}

fn not_utf8(file_name: &str, bytes: &[u8], valid: usize) -> Problems {
    let mut problems = Problems::new(file_name, &String::from_utf8_lossy(bytes));
    problems.add(&(valid..valid + char::REPLACEMENT_CHARACTER.len_utf8()), "this is not UTF-8");
    problems
}

/// Reads the text of a file. Relative paths in it are made to stand in `folder`; files that it names must be readable there.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file; of a text that is not TOML, the first place where it is not.
pub fn parse(text: &str, folder: &Path, file_name: &str, lookup_env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    let mut problems = Problems::new(file_name, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    // What follows a first mistake in the syntax is often not one.
    if let Some(error) = errors.iter().min_by_key(|error| error.span().map(|span| span.start)) {
        problems.add(&error.span().unwrap_or_default(), format!("this is not TOML: {}", error.message()));
        return Err(problems);
    }
    let file = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    let raw = raw::File::read(&file, &mut Reader::new(text, lookup_env, &mut problems)).unwrap_or_default();
    let config = check::check(raw, folder, &mut problems);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

fn why_unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::IsADirectory => "this is a folder".to_owned(),
        _ => error.to_string(),
    }
}

/// What a node runs by.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub node: Node,
    pub store: StoreUrl,
    pub snapshot: Snapshot,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// At least one, none twice.
    pub environments: Vec<EnvironmentHosts>,
    pub upstreams: Vec<Upstream>,
    /// Which permission a request needs.
    pub permissions: RouteTable,
    /// Every permission that the file names, sorted.
    pub permission_names: Vec<PermissionName>,
    pub client_address: ClientAddressRules,
    pub rates: Rates,
    pub limits: Limits,
    pub admin: Admin,
    /// Where health and metrics are served; None: on `admin`.
    pub health: Option<SocketAddr>,
    pub log: Log,
    /// What is allowed and probably not meant, each a sentence.
    pub warnings: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// For people; empty: the machine's name.
    pub name: String,
}

/// Where the keys are.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    Sqlite(PathBuf),
    /// The URL as it was written.
    Postgres(String),
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "Sqlite({path:?})"),
            // The URL may hold a password.
            Self::Postgres(_) => f.write_str("Postgres(..)"),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    pub path: PathBuf,
    /// The age from which on the index answers no more; None: `"forever"`.
    pub max_staleness: Option<Duration>,
}

/// An address that API requests come in at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    pub address: SocketAddr,
    pub tls: Option<ListenerTls>,
    /// Every connection begins with a PROXY header.
    pub proxy_protocol: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerTls {
    /// At least one.
    pub certificates: Vec<CertificateFiles>,
    /// What clients must show; None: they are not asked.
    pub client: Option<ClientCertificates>,
}

/// Two files that belong together, in PEM; both could be read when the configuration was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCertificates {
    /// Who must have signed them.
    pub ca: PathBuf,
    /// A client without one is refused.
    pub required: bool,
}

/// The hosts that stand for an environment, and where its requests go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvironmentHosts {
    pub name: Environment,
    /// In lower case, without port or trailing dot; an IPv6 address as RFC 5952 writes it, in brackets. None is in two environments.
    pub hosts: Vec<String>,
    /// Hosts that no environment names belong here. True for one environment at most.
    pub any_host: bool,
    /// Place in [`Config::upstreams`].
    pub upstream: usize,
}

/// Servers that do the same work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upstream {
    pub name: String,
    /// At least one.
    pub servers: Vec<Server>,
    pub protocol: UpstreamProtocol,
    /// Sent as Host in place of the client's.
    pub host: Option<String>,
    /// Who must have signed a server's certificate; None: those whom the machine trusts.
    pub ca: Option<PathBuf>,
    /// The name that a server's certificate must have; None: the host of the server.
    pub server_name: Option<String>,
    /// Shown to servers that ask.
    pub client_certificate: Option<CertificateFiles>,
    /// What `Upgrade` may name, in lower case.
    pub upgrades: Vec<String>,
    /// Leaves the client's `Authorization` in the request.
    pub forward_authorization: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    pub tls: bool,
    /// A name in lower case or an address; an IPv6 address without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpstreamProtocol {
    Http1,
    Http2,
}

/// Whom to believe about the address of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientAddressRules {
    /// Host bits cleared, IPv4-mapped ranges unmapped.
    pub trusted_proxies: Vec<IpNet>,
    pub header: ForwardingHeader,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForwardingHeader {
    XForwardedFor,
    Forwarded,
}

/// Rates of every key and every account, per node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    pub key: Option<Rate>,
    pub account: Option<Rate>,
}

/// The bounds of what clients and upstreams may take; None is `"off"`. Durations are at most a year and more than zero, but for
/// `drain_timeout`; counts are at least 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// From a head's first byte to its last.
    pub head_timeout: Option<Duration>,
    pub tls_handshake_timeout: Option<Duration>,
    /// Between two pieces of a request's body, and of a reply that the client does not take.
    pub body_gap: Option<Duration>,
    /// Of a connection with no request in flight.
    pub idle_timeout: Option<Duration>,
    /// Silence in both directions of upgraded connections, `text/event-stream` and `application/grpc`.
    pub stream_idle_timeout: Option<Duration>,
    /// Between two pieces of any other reply.
    pub reply_gap: Option<Duration>,
    pub head_bytes: Option<u64>,
    /// At most 10 000.
    pub head_fields: Option<usize>,
    pub uri_bytes: Option<u64>,
    /// Of one request's body; may be 0.
    pub body_bytes: Option<u64>,
    /// At once on one connection.
    pub http2_streams: Option<u32>,
    pub connections: Option<usize>,
    pub connections_per_source: Option<usize>,
    pub failed_authentications: Option<FailureBudget>,
    pub upstream_connect_timeout: Option<Duration>,
    pub upstream_first_byte_timeout: Option<Duration>,
    /// May be zero.
    pub drain_timeout: Option<Duration>,
}

/// How many failed authentications a source may have in how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailureBudget {
    /// At least 1.
    pub count: u32,
    pub per: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    pub address: SocketAddr,
    /// For links, without a slash at its end; empty: `http://` and the address that was bound.
    pub public_url: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    pub level: LogLevel,
    pub access: AccessLog,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Where the lines of requests go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AccessLog {
    Stdout,
    Off,
    File(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Config, Problems> {
        let variable = |name: &str| (name == "CORE").then(|| "10.0.0.7:9000".to_owned());
        parse(text, Path::new("/etc/martis"), "gateway.toml", &variable)
    }

    /// The warnings of a file in which nothing is wrong.
    #[track_caller]
    fn warnings(text: &str) -> Vec<String> {
        read(text).unwrap().warnings
    }

    #[test]
    fn the_file_is_the_one_of_the_flag_then_of_the_environment_then_of_the_working_folder() {
        let flag = Path::new("flag.toml");
        assert_eq!(find(Some(flag), Some("env.toml".into())), flag);
        assert_eq!(find(None, Some("env.toml".into())), Path::new("env.toml"));
        assert_eq!(find(None, Some("".into())), Path::new("gateway.toml"));
        assert_eq!(find(None, None), Path::new("gateway.toml"));
    }

    #[test]
    fn what_is_not_said_stays_at_its_default() {
        let config = read("[limits]\nbody_bytes = \"off\"\ndrain_timeout = \"0s\"\n").unwrap();
        let mut expected = Config::defaults(Path::new("/etc/martis"));
        expected.limits.body_bytes = None;
        expected.limits.drain_timeout = Some(Duration::ZERO);
        assert_eq!(config, expected);
    }

    #[test]
    fn relative_paths_begin_at_the_folder_of_the_file() {
        let config = read("[store]\nurl = \"sqlite:a.db\"\n[snapshot]\npath = \"/b\"\n[log]\naccess = \"logs/c\"\n").unwrap();
        assert_eq!(config.store, StoreUrl::Sqlite("/etc/martis/a.db".into()));
        assert_eq!(config.snapshot.path, Path::new("/b"));
        assert_eq!(config.log.access, AccessLog::File("/etc/martis/logs/c".into()));
    }

    #[test]
    fn variables_are_replaced_in_values_and_can_be_written_out() {
        let config =
            read("[node]\nname = \"$${CORE} $5 ${CORE}\"\n[[upstreams]]\nname = \"core\"\nservers = [\"http://${CORE}\"]\n").unwrap();
        assert_eq!(config.node.name, "${CORE} $5 10.0.0.7:9000");
        assert_eq!(config.upstreams[0].servers, [Server { tls: false, host: "10.0.0.7".to_owned(), port: 9000 }]);
    }

    #[test]
    fn environments_find_their_upstreams_by_name() {
        let text = "[[upstreams]]\nname = \"a\"\nservers = [\"http://a\"]\n[[upstreams]]\nname = \"b\"\nservers = [\"http://b\"]\n\
                    [[environments]]\nname = \"sandbox\"\nhosts = [\"*\", \"B.example.\"]\nupstream = \"b\"\n";
        let hosts = vec!["b.example".to_owned()];
        assert_eq!(read(text).unwrap().environments, [EnvironmentHosts { name: Environment::Sandbox, hosts, any_host: true, upstream: 1 }]);
    }

    #[test]
    fn a_permission_may_be_listed_twice_for_other_routes() {
        let text = "[[permissions]]\nname = \"a:b\"\nroutes = [\"GET /a\"]\n[[permissions]]\nname = \"a:b\"\nroutes = [\"GET /b\"]\n";
        let config = read(text).unwrap();
        assert_eq!(config.permission_names, [PermissionName::parse("a:b").unwrap()]);
        assert_eq!(config.permissions.permission("GET", "/b"), config.permissions.permission("HEAD", "/a"));
    }

    #[test]
    fn a_plain_listener_that_others_can_reach_gets_a_warning() {
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(warnings(&format!("[[listeners]]\naddress = \"{address}\"\n")).is_empty(), "{address}");
        }
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            let warnings = warnings(&format!("[[listeners]]\naddress = \"{address}\"\n"));
            assert!(matches!(warnings.as_slice(), [warning] if warning.contains(address)), "{warnings:?}");
        }
        assert_eq!(warnings("[admin]\naddress = \"0.0.0.0:9900\"\n").len(), 1);
    }

    #[test]
    fn proxies_that_are_more_than_was_written_get_a_warning() {
        assert!(warnings("[client_address]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\n").is_empty());
        assert_eq!(warnings("[client_address]\ntrusted_proxies = [\"10.0.0.5/8\"]\n").len(), 1);
        assert_eq!(warnings("[client_address]\ntrusted_proxies = [\"::/0\"]\n").len(), 1);
    }

    #[test]
    fn settings_for_tls_without_a_tls_server_get_a_warning() {
        let upstream = |server: &str| format!("[[upstreams]]\nname = \"core\"\nservers = [\"{server}\"]\nserver_name = \"core\"\n");
        assert_eq!(warnings(&upstream("http://core")).len(), 1);
        assert!(warnings(&upstream("https://core")).is_empty());
    }

    #[test]
    fn settings_that_are_not_enforced_yet_get_a_warning_each() {
        let warned = warnings(
            "[rates]\nkey = { per_second = 5 }\naccount = { per_day = 9 }\n\
             [limits]\nbody_gap = \"1s\"\nreply_gap = \"1s\"\nstream_idle_timeout = \"1s\"\nfailed_authentications = \"5/1m\"\n",
        );
        for name in ["key", "account", "body_gap", "reply_gap", "stream_idle_timeout", "failed_authentications"] {
            let about = warned.iter().filter(|warning| warning.starts_with(&format!("`{name}` of [")) && warning.contains("has no effect"));
            assert_eq!(about.count(), 1, "{name}: {warned:?}");
        }
        assert_eq!(warned.len(), 6);
        // The shipped file says the defaults; and what is off is off.
        assert!(warnings(Config::default_text()).is_empty());
        assert!(warnings("[limits]\nbody_gap = \"off\"\nfailed_authentications = \"off\"\n").is_empty());
    }

    #[test]
    fn two_that_would_get_the_same_connections_collide() {
        let collide = |one: &str, other: &str| {
            let text = format!("[[listeners]]\naddress = \"{one}:8443\"\n[[listeners]]\naddress = \"{other}:8443\"\n");
            read(&text).is_err_and(|problems| problems.len() == 1 && problems.iter().all(|problem| problem.message.contains("8443")))
        };
        for (one, other) in [
            ("0.0.0.0", "[::]"),
            ("127.0.0.1", "[::]"),
            ("[::1]", "[::]"),
            ("0.0.0.0", "127.0.0.1"),
            ("127.0.0.1", "[::ffff:127.0.0.1]"),
            ("0.0.0.0", "[::ffff:127.0.0.1]"),
        ] {
            assert!(collide(one, other) && collide(other, one), "{one} and {other}");
        }
        for (one, other) in [("0.0.0.0", "[::1]"), ("127.0.0.1", "[::1]"), ("127.0.0.1", "127.0.0.2")] {
            assert!(!collide(one, other) && !collide(other, one), "{one} and {other}");
        }
    }

    #[test]
    fn the_password_of_a_store_is_not_in_its_debug_output() {
        let config = read("[store]\nurl = \"postgres://martis:hunter2@db/keys\"\n").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn any_table_may_stand_in_braces_or_behind_dots() {
        let text = "log = { level = \"warn\" }\nlimits.connections = 7\nlisteners = [{ address = \"127.0.0.1:1\" }]\n";
        let config = read(text).unwrap();
        assert_eq!((config.log.level, config.limits.connections), (LogLevel::Warn, Some(7)));
        assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:1");
    }

    #[test]
    fn line_ends_of_other_systems_and_a_byte_order_mark_are_no_mistake() {
        assert_eq!(read("\u{feff}[log]\r\nlevel = \"warn\"\r\n").unwrap().log.level, LogLevel::Warn);
    }

    /// Pieces of files, right and wrong.
    fn piece() -> impl Strategy<Value = String> {
        let sections = raw::TABLES.iter().filter(|(title, _)| title.starts_with('['));
        let settings: Vec<String> = sections.flat_map(|(title, names)| names.iter().map(move |name| format!("{title}\n{name}"))).collect();
        let values = r#"-?[0-9]{1,20}|"(\$\{|CORE\}|[a-z0-9:/.*@$}\[\]-]){0,12}"|true|\[\]|\{\}|\["", "\*"\]|"off""#;
        let shown: Vec<String> = Config::default_text().lines().map(|line| format!("{}\n", line.trim_start_matches('#'))).collect();
        prop_oneof![
            8 => (proptest::sample::select(settings), values).prop_map(|(setting, value)| format!("{setting} = {value}\n")),
            4 => proptest::sample::select(shown),
            1 => "\\PC{0,20}",
        ]
    }

    proptest! {
        #[test]
        fn no_text_brings_the_reader_down(text in "(\\PC|\n){0,200}") {
            if let Err(problems) = read(&text) {
                prop_assert!(!problems.to_string().is_empty());
            }
        }

        #[test]
        fn no_file_of_pieces_brings_the_reader_down(pieces in proptest::collection::vec(piece(), 0..6)) {
            if let Err(problems) = read(&pieces.concat()) {
                prop_assert!(!problems.to_string().is_empty());
                prop_assert!(problems.iter().is_sorted_by_key(|problem| problem.place));
            }
        }
    }
}
