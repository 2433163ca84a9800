//! From what a file says to what is true: defaults, what may not stand beside what, what must exist. Where something is wrong
//! the value made of it does not matter, for then no configuration comes of the file; what matters is to go on looking.

mod traffic;

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::amounts::{Count, Limit, Positive, Size, Staleness};
use super::problems::{Problems, Span, quoted};
use super::raw::{self, List};
use super::read::{Field, Read, owner};
use super::texts::{FilePath, NodeName, Optional};
use super::{AccessLog, Admin, CertificateFiles, ClientAddressRules, Config, Limits, Log, Node, Rates, Snapshot, StoreUrl};
use crate::access::permission::PermissionName;
use crate::access::rate::Rate;
use crate::access::route::RouteTable;

/// Everything that `raw` says, in place of the defaults where it says something.
pub(super) fn check(raw: raw::File, folder: &Path, problems: &mut Problems) -> Config {
    let defaults = Config::defaults(folder);
    let mut check = Check { folder, problems, warnings: Vec::new(), addresses: Vec::new() };
    let admin = raw.admin.or_default();
    let health = raw.health.or_default();
    let proxies_are_missing = proxies_are_missing(&raw.client_address);

    let listeners = check.listeners(raw.listeners, &defaults.listeners, proxies_are_missing);
    let (upstreams, names) = check.upstreams(raw.upstreams, &defaults.upstreams);
    let environments = check.environments(raw.environments, &defaults.environments, &names);
    let (permissions, permission_names) = check.permissions(raw.permissions);
    Config {
        node: Node { name: raw.node.or_default().name.or(NodeName(String::new())).0 },
        store: check.store(raw.store.or_default().url.or(defaults.store)),
        snapshot: check.snapshot(raw.snapshot.or_default(), defaults.snapshot),
        listeners,
        environments,
        upstreams,
        permissions,
        permission_names,
        client_address: check.client_address(raw.client_address.or_default(), &defaults.client_address),
        rates: check.rates(raw.rates.or_default()),
        limits: check.limits(raw.limits.or_default(), &defaults.limits),
        admin: check.admin(admin, &defaults.admin),
        health: check.health(health),
        log: check.log(raw.log.or_default(), defaults.log),
        warnings: check.warnings,
    }
}

fn proxies_are_missing(raw: &Field<raw::ClientAddress>) -> bool {
    match raw {
        Field::Absent => true,
        Field::Bad => false,
        Field::Given(rules) => match &rules.get_ref().trusted_proxies {
            Field::Absent => true,
            Field::Bad => false,
            Field::Given(proxies) => proxies.get_ref().is_empty(),
        },
    }
}

struct Check<'a> {
    folder: &'a Path,
    problems: &'a mut Problems,
    warnings: Vec<String>,
    /// The addresses that are spoken for.
    addresses: Vec<Taken>,
}

/// An address that somebody will listen on.
struct Taken {
    address: SocketAddr,
    by: &'static str,
    /// None if it is a default.
    span: Option<Span>,
}

impl Taken {
    fn named(&self) -> String {
        if self.span.is_none() { format!("{} by default", self.by) } else { self.by.to_owned() }
    }
}

impl Check<'_> {
    fn store(&self, url: StoreUrl) -> StoreUrl {
        match url {
            StoreUrl::Sqlite(path) => StoreUrl::Sqlite(self.folder.join(path)),
            url @ StoreUrl::Postgres(_) => url,
        }
    }

    fn snapshot(&self, raw: raw::Snapshot, defaults: Snapshot) -> Snapshot {
        Snapshot {
            path: raw.path.given().map_or(defaults.path, |path| self.path(path.get_ref())),
            max_staleness: raw.max_staleness.or(Staleness(defaults.max_staleness)).0,
        }
    }

    fn permissions(&mut self, raw: Field<List<raw::Permission>>) -> (RouteTable, Vec<PermissionName>) {
        let mut table = RouteTable::default();
        let mut names = Vec::new();
        for permission in raw.or_default() {
            let span = permission.span();
            let permission = permission.into_inner();
            let Some(name) = self.required(permission.name, &span, "[[permissions]]", "name") else { continue };
            for route in permission.routes.or_default() {
                if let Err(other) = table.add(route.get_ref(), name.get_ref()) {
                    let help = "leave one of them out: a request needs one permission, not a choice of them";
                    self.problems.add_with_help(&route.span(), format!("the same method and path already needs `{other}`"), help);
                }
            }
            names.push(name.into_inner());
        }
        names.sort();
        names.dedup();
        (table, names)
    }

    fn client_address(&mut self, raw: raw::ClientAddress, defaults: &ClientAddressRules) -> ClientAddressRules {
        let mut trusted_proxies = Vec::new();
        for proxy in raw.trusted_proxies.or_default() {
            let proxy = proxy.into_inner();
            if proxy.had_host_bits {
                self.warnings
                    .push(format!("an entry of trusted_proxies has bits behind its prefix: the whole range {} is trusted", proxy.net));
            }
            if proxy.net.prefix_len() == 0 {
                self.warnings.push(format!("trusted_proxies has {}: every client can say what its address is", proxy.net));
            }
            trusted_proxies.push(proxy.net);
        }
        ClientAddressRules { trusted_proxies, header: raw.header.or(defaults.header) }
    }

    fn rates(&mut self, raw: raw::Rates) -> Rates {
        let rates = Rates { key: raw.key.given().map(|rate| self.rate(rate)), account: raw.account.given().map(|rate| self.rate(rate)) };
        for (name, rate) in [("key", rates.key), ("account", rates.account)] {
            if rate.is_some() {
                self.warnings.push(not_enforced("[rates]", name));
            }
        }
        rates
    }

    fn rate(&mut self, raw: Spanned<raw::Rate>) -> Rate {
        let span = raw.span();
        let raw = raw.into_inner();
        let count = |field: Field<Count<{ u32::MAX }>>| field.given().map(|count| count.into_inner().0);
        let limits_nothing = matches!((&raw.per_second, &raw.per_day), (Field::Absent, Field::Absent));
        if limits_nothing {
            self.problems.add_with_help(&span, "this rate limits nothing", "write `per_second`, `per_day` or both; or leave the rate out");
        }
        let lonely_burst = !limits_nothing && matches!(raw.per_second, Field::Absent);
        if let (true, Some(burst)) = (lonely_burst, raw.burst.span()) {
            self.problems.add_with_help(
                &burst,
                "`burst` says nothing without `per_second`",
                "write `per_second`, too, or leave `burst` out",
            );
        }
        Rate { per_second: count(raw.per_second), burst: count(raw.burst), per_day: count(raw.per_day) }
    }

    fn limits(&mut self, raw: raw::Limits, defaults: &Limits) -> Limits {
        let limits = limits(raw, defaults);
        // The shipped file says the defaults, and of one that is off there is nothing to enforce.
        let set = |limit: Option<Duration>, default| limit.is_some() && limit != default;
        let failures = limits.failed_authentications;
        let settings = [
            ("body_gap", set(limits.body_gap, defaults.body_gap)),
            ("stream_idle_timeout", set(limits.stream_idle_timeout, defaults.stream_idle_timeout)),
            ("reply_gap", set(limits.reply_gap, defaults.reply_gap)),
            ("failed_authentications", failures.is_some() && failures != defaults.failed_authentications),
        ];
        self.warnings.extend(settings.iter().filter(|(_, set)| *set).map(|(name, _)| not_enforced("[limits]", name)));
        limits
    }

    fn admin(&mut self, raw: raw::Admin, defaults: &Admin) -> Admin {
        let (span, is_bad) = (raw.address.span(), matches!(raw.address, Field::Bad));
        let address = raw.address.or(defaults.address);
        if !is_bad {
            self.take(address, "[admin]", span);
        }
        if !is_loopback(address) {
            self.warnings.push(format!("[admin] {address} is not a loopback address, and what is sent there is not encrypted"));
        }
        Admin { address, public_url: raw.public_url.or(Optional(None)).0.map_or_else(String::new, |url| url.0) }
    }

    fn health(&mut self, raw: raw::Health) -> Option<SocketAddr> {
        let span = raw.address.span();
        let address = raw.address.or(Optional(None)).0?;
        self.take(address, "[health]", span);
        Some(address)
    }

    fn log(&self, raw: raw::Log, defaults: Log) -> Log {
        let access = match raw.access.or(defaults.access) {
            AccessLog::File(path) => AccessLog::File(self.folder.join(path)),
            access @ (AccessLog::Stdout | AccessLog::Off) => access,
        };
        Log { level: raw.level.or(defaults.level), access }
    }

    /// Speaks for an address; a second one there is a problem.
    fn take(&mut self, address: SocketAddr, by: &'static str, span: Option<Span>) {
        if let Some(other) = self.addresses.iter().find(|other| collide(other.address, address)) {
            // A default cannot be pointed at; whoever took its address can.
            let own = Taken { address, by, span: span.clone() };
            let (pointed, hidden) = if span.is_some() { (&own, other) } else { (other, &own) };
            let message = match hidden.address == pointed.address {
                true => format!("{} is already the address of {}", pointed.address, hidden.named()),
                false => format!("{} collides with {}, the address of {}", pointed.address, hidden.address, hidden.named()),
            };
            let is_ipv4 = |address: SocketAddr| address.ip().to_canonical().is_ipv4();
            let help = match is_ipv4(other.address) == is_ipv4(address) {
                true => "give each an address or a port of its own",
                false => "\"[::]\" takes IPv4, too: leave the other one out, or give each a port of its own",
            };
            let place = pointed.span.clone().unwrap_or_default();
            self.problems.add_with_help(&place, message, help);
        }
        self.addresses.push(Taken { address, by, span });
    }

    /// A setting without which its table says nothing.
    fn required<T: Read>(&mut self, field: Field<T>, table: &Span, title: &str, name: &str) -> Option<Spanned<T>> {
        if matches!(field, Field::Absent) {
            self.problems.add_with_help(table, format!("{} needs `{name}`", owner(title)), format!("write `{name}`: {}", T::form()));
        }
        field.given()
    }

    /// The entries of a list that may be left out but not left empty; None if it was left out.
    fn entries<T>(&mut self, field: Field<List<T>>, what: &str) -> Option<List<T>> {
        match field {
            Field::Absent => None,
            Field::Bad => Some(Vec::new()),
            Field::Given(list) if list.get_ref().is_empty() => {
                self.problems.add(&list.span(), format!("there must be at least one {what}"));
                Some(Vec::new())
            }
            Field::Given(list) => Some(list.into_inner()),
        }
    }

    fn certificate_files(&mut self, raw: Spanned<raw::CertificateFiles>) -> Option<CertificateFiles> {
        let span = raw.span();
        let raw = raw.into_inner();
        let certificate = self.half_of_a_pair(raw.certificate, &span, "certificate");
        let private_key = self.half_of_a_pair(raw.private_key, &span, "private_key");
        Some(CertificateFiles { certificate: certificate?, private_key: private_key? })
    }

    fn half_of_a_pair(&mut self, half: Field<FilePath>, pair: &Span, name: &str) -> Option<PathBuf> {
        if matches!(half, Field::Absent) {
            self.problems.add_with_help(
                pair,
                format!("half a pair: `{name}` is missing"),
                "write { certificate = \"cert.pem\", private_key = \"key.pem\" }",
            );
        }
        half.given().map(|file| self.readable(&file))
    }

    /// The path of a file that must be there.
    fn readable(&mut self, file: &Spanned<FilePath>) -> PathBuf {
        let path = self.path(file.get_ref());
        let Err(why) = open(&path) else { return path };
        let help = format!("it was looked for at {}", path.display());
        self.problems.add_with_help(&file.span(), format!("{}: {why}", quoted(&file.get_ref().0)), help);
        path
    }

    fn path(&self, path: &FilePath) -> PathBuf {
        self.folder.join(&path.0)
    }
}

fn limits(raw: raw::Limits, defaults: &Limits) -> Limits {
    let duration = |field: Field<Limit<Positive<_>>>, default| limit(field, default, |Positive(duration)| duration);
    let bytes = |field: Field<Limit<Positive<Size>>>, default| limit(field, default, |Positive(Size(bytes))| bytes);
    let count = |field: Field<Limit<Count<{ u32::MAX }>>>, default| limit(field, default, |count| count.0.get() as usize);
    Limits {
        head_timeout: duration(raw.head_timeout, defaults.head_timeout),
        tls_handshake_timeout: duration(raw.tls_handshake_timeout, defaults.tls_handshake_timeout),
        body_gap: duration(raw.body_gap, defaults.body_gap),
        idle_timeout: duration(raw.idle_timeout, defaults.idle_timeout),
        stream_idle_timeout: duration(raw.stream_idle_timeout, defaults.stream_idle_timeout),
        reply_gap: duration(raw.reply_gap, defaults.reply_gap),
        head_bytes: bytes(raw.head_bytes, defaults.head_bytes),
        head_fields: limit(raw.head_fields, defaults.head_fields, |count| count.0.get() as usize),
        uri_bytes: bytes(raw.uri_bytes, defaults.uri_bytes),
        body_bytes: limit(raw.body_bytes, defaults.body_bytes, |Size(bytes)| bytes),
        http2_streams: limit(raw.http2_streams, defaults.http2_streams, |count| count.0.get()),
        connections: count(raw.connections, defaults.connections),
        connections_per_source: count(raw.connections_per_source, defaults.connections_per_source),
        failed_authentications: limit(raw.failed_authentications, defaults.failed_authentications, |budget| budget),
        upstream_connect_timeout: duration(raw.upstream_connect_timeout, defaults.upstream_connect_timeout),
        upstream_first_byte_timeout: duration(raw.upstream_first_byte_timeout, defaults.upstream_first_byte_timeout),
        drain_timeout: limit(raw.drain_timeout, defaults.drain_timeout, |duration| duration),
    }
}

/// The limit that a field sets, which may be none; the default if it says nothing.
fn limit<T, U>(field: Field<Limit<T>>, default: Option<U>, value: impl FnOnce(T) -> U) -> Option<U> {
    field.given().map_or(default, |limit| limit.into_inner().0.map(value))
}

/// Why a file cannot be read, if it cannot.
fn open(path: &Path) -> Result<(), String> {
    let why = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => error.to_string(),
    };
    // Asked before it is opened: to open a pipe is to wait for whoever writes into it.
    let metadata = std::fs::metadata(path).map_err(why)?;
    if metadata.is_file() { File::open(path).map(drop).map_err(why) } else { Err("this is not a file".to_owned()) }
}

/// A setting that stands for something that is not there yet. Whoever sets it relies on it.
fn not_enforced(section: &str, name: &str) -> String {
    format!("`{name}` of {section} has no effect: this release reads it and does not enforce it")
}

/// Whether two listen on the same port of the same address. A port 0 is another one each time.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (first, second) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && one.port() != 0 && (first == second || takes(first, second) || takes(second, first))
}

/// Whether whoever listens on `all` gets what is sent to `one`: `0.0.0.0` is all of IPv4, and `::` all of both families.
fn takes(all: IpAddr, one: IpAddr) -> bool {
    all.is_unspecified() && (all.is_ipv6() || one.is_ipv4())
}

fn is_loopback(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(_) => address.ip().to_canonical().is_loopback(),
    }
}
