//! What is true where a file says nothing: the values of the shipped `gateway.toml`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::{
    AccessLog, Admin, ClientAddressRules, Config, EnvironmentHosts, FailureBudget, ForwardingHeader, Limits, Listener, Log, LogLevel, Node,
    Rates, Server, Snapshot, StoreUrl, Upstream, UpstreamProtocol,
};
use crate::access::key::Environment;
use crate::access::route::RouteTable;

/// The upstream that is there, and that the environment that is there sends to, unless others are named.
pub(super) const UPSTREAM: &str = "core";

impl Config {
    /// The shipped file: every setting at its default, with a sentence on each.
    pub const fn default_text() -> &'static str {
        include_str!("../../gateway.toml")
    }

    /// What an empty file in `folder` says.
    pub fn defaults(folder: &Path) -> Self {
        Self {
            node: Node::default(),
            store: StoreUrl::Sqlite(folder.join("data/martis.db")),
            snapshot: Snapshot { path: folder.join("data/keys.snapshot"), max_staleness: Some(hours(12)) },
            listeners: vec![Listener { address: loopback(8080), tls: None, proxy_protocol: false }],
            environments: vec![EnvironmentHosts {
                name: Environment::Production,
                hosts: vec!["api.martis.id".to_owned()],
                any_host: false,
                upstream: 0,
            }],
            upstreams: vec![Upstream::new(UPSTREAM, vec![Server { tls: false, host: "127.0.0.1".to_owned(), port: 9000 }])],
            permissions: RouteTable::default(),
            permission_names: Vec::new(),
            client_address: ClientAddressRules { trusted_proxies: Vec::new(), header: ForwardingHeader::XForwardedFor },
            rates: Rates::default(),
            limits: Limits::default(),
            admin: Admin { address: loopback(9900), public_url: String::new() },
            health: None,
            log: Log { level: LogLevel::Info, access: AccessLog::Stdout },
            warnings: Vec::new(),
        }
    }
}

impl Upstream {
    /// With every other setting at its default.
    pub fn new(name: &str, servers: Vec<Server>) -> Self {
        Self {
            name: name.to_owned(),
            servers,
            protocol: UpstreamProtocol::Http1,
            host: None,
            ca: None,
            server_name: None,
            client_certificate: None,
            upgrades: vec!["websocket".to_owned()],
            forward_authorization: false,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_timeout: Some(seconds(10)),
            tls_handshake_timeout: Some(seconds(5)),
            body_gap: Some(seconds(30)),
            idle_timeout: Some(seconds(60)),
            stream_idle_timeout: Some(hours(1)),
            reply_gap: Some(seconds(5 * 60)),
            head_bytes: Some(32 << 10),
            head_fields: Some(100),
            uri_bytes: Some(8 << 10),
            body_bytes: Some(10 << 20),
            http2_streams: Some(100),
            connections: Some(20_000),
            connections_per_source: Some(1000),
            failed_authentications: Some(FailureBudget { count: 600, per: seconds(60) }),
            upstream_connect_timeout: Some(seconds(3)),
            upstream_first_byte_timeout: Some(seconds(30)),
            drain_timeout: Some(seconds(30)),
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn hours(count: u64) -> Duration {
    Duration::from_secs(count * 60 * 60)
}
