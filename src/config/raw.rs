//! What a file may say: each table with its settings and what each of them is written as. Every one may be left out; what
//! that means, and what may not stand beside what, is decided in `check`.

use std::net::SocketAddr;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::amounts::{Count, Limit, Positive, Size, Staleness};
use super::network::{Host, HostField, PublicUrl, ServerName, TrustedNet};
use super::read::{Field, Read, Reader, Table};
use super::texts::{Demand, FilePath, NodeName, Optional, Upgrade};
use super::{AccessLog, FailureBudget, ForwardingHeader, LogLevel, Server, StoreUrl, UpstreamProtocol};
use crate::access::key::Environment as EnvironmentName;
use crate::access::permission::PermissionName;
use crate::access::route::Route;

pub(super) type List<T> = Vec<Spanned<T>>;

/// Declares tables: a struct of fields each, how one is read, and the names of its settings.
macro_rules! tables {
    ($($(#[$doc:meta])* $title:literal $name:ident { $($field:ident: $type:ty),+ $(,)? })+) => {
        $(
            $(#[$doc])*
            #[derive(Default)]
            pub(super) struct $name {
                $(pub(super) $field: Field<$type>,)+
            }

            impl Table for $name {
                const TITLE: &'static str = $title;
                const FIELDS: &'static [&'static str] = &[$(stringify!($field)),+];
            }

            impl Read for $name {
                const WHAT: &'static str = "a table";

                fn form() -> String {
                    table_form(Self::TITLE, Self::FIELDS)
                }

                fn list_form() -> String {
                    table_list_form(Self::TITLE, Self::FIELDS)
                }

                fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
                    let table = reader.table::<Self>(value)?;
                    Some(Self { $($field: reader.field(table, stringify!($field)),)+ })
                }
            }
        )+

        /// The titles of all tables with their settings.
        pub(super) const TABLES: &[(&str, &[&str])] = &[$(($title, $name::FIELDS)),+];
    };
}

tables! {
    /// The whole file.
    "" File {
        node: Node,
        store: Store,
        snapshot: Snapshot,
        listeners: List<Listener>,
        environments: List<Environment>,
        upstreams: List<Upstream>,
        permissions: List<Permission>,
        client_address: ClientAddress,
        rates: Rates,
        limits: Limits,
        admin: Admin,
        health: Health,
        log: Log,
    }
    "[node]" Node { name: NodeName }
    "[store]" Store { url: StoreUrl }
    "[snapshot]" Snapshot { path: FilePath, max_staleness: Staleness }
    "[[listeners]]" Listener { address: SocketAddr, tls: ListenerTls, proxy_protocol: bool }
    "tls" ListenerTls { certificates: List<CertificateFiles>, client_ca: FilePath, client_certificate: Demand }
    /// `certificates` of a listener and `client_certificate` of an upstream.
    "certificate" CertificateFiles { certificate: FilePath, private_key: FilePath }
    "[[environments]]" Environment { name: EnvironmentName, hosts: List<Host>, upstream: String }
    "[[upstreams]]" Upstream {
        name: String,
        servers: List<Server>,
        protocol: UpstreamProtocol,
        host: Optional<HostField>,
        ca: FilePath,
        server_name: Optional<ServerName>,
        client_certificate: CertificateFiles,
        upgrades: List<Upgrade>,
        forward_authorization: bool,
    }
    "[[permissions]]" Permission { name: PermissionName, routes: List<Route> }
    "[client_address]" ClientAddress { trusted_proxies: List<TrustedNet>, header: ForwardingHeader }
    "[rates]" Rates { key: Rate, account: Rate }
    /// `key` and `account` of `[rates]`.
    "rate" Rate { per_second: Count<{ u32::MAX }>, burst: Count<{ u32::MAX }>, per_day: Count<{ u32::MAX }> }
    "[limits]" Limits {
        head_timeout: Limit<Positive<Duration>>,
        tls_handshake_timeout: Limit<Positive<Duration>>,
        body_gap: Limit<Positive<Duration>>,
        idle_timeout: Limit<Positive<Duration>>,
        stream_idle_timeout: Limit<Positive<Duration>>,
        reply_gap: Limit<Positive<Duration>>,
        head_bytes: Limit<Positive<Size>>,
        head_fields: Limit<Count<MOST_HEAD_FIELDS>>,
        uri_bytes: Limit<Positive<Size>>,
        body_bytes: Limit<Size>,
        http2_streams: Limit<Count<{ u32::MAX }>>,
        connections: Limit<Count<{ u32::MAX }>>,
        connections_per_source: Limit<Count<{ u32::MAX }>>,
        failed_authentications: Limit<FailureBudget>,
        upstream_connect_timeout: Limit<Positive<Duration>>,
        upstream_first_byte_timeout: Limit<Positive<Duration>>,
        drain_timeout: Limit<Duration>,
    }
    "[admin]" Admin { address: SocketAddr, public_url: Optional<PublicUrl> }
    "[health]" Health { address: Optional<SocketAddr> }
    "[log]" Log { level: LogLevel, access: AccessLog }
}

/// The map of header fields that holds a head cannot be made larger than 32 768 entries.
pub(super) const MOST_HEAD_FIELDS: u32 = 10_000;

fn table_form(title: &str, settings: &[&str]) -> String {
    if title.starts_with('[') { format!("{title} on a line of its own and its settings below it") } else { braces(settings) }
}

fn table_list_form(title: &str, settings: &[&str]) -> String {
    if title.starts_with("[[") {
        format!("{title} on a line of its own before each entry")
    } else {
        format!("a list in brackets, each entry {}", braces(settings))
    }
}

fn braces(settings: &[&str]) -> String {
    let settings: Vec<String> = settings.iter().map(|setting| format!("{setting} = …")).collect();
    format!("{{ {} }}", settings.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_shipped_file_shows_every_setting_of_every_table() {
        let shown = Config::default_text();
        for (title, settings) in TABLES.iter().filter(|(title, _)| !title.is_empty()) {
            assert!(!title.starts_with('[') || shown.contains(&format!("{title}\n")), "{title} is not shown");
            for setting in *settings {
                let is_shown = shown.contains(&format!("{setting} = "));
                assert!(is_shown, "`{setting}` of {title} is not shown");
            }
        }
    }
}
