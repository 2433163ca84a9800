//! Where requests come in, which environment they belong to, and where they go: listeners, environments, upstreams.

use std::net::SocketAddr;

use toml::Spanned;

use super::{Check, is_loopback};
use crate::config::defaults::UPSTREAM;
use crate::config::network::Host;
use crate::config::problems::{enumerated, nearest, quoted};
use crate::config::raw::{self, List};
use crate::config::read::Field;
use crate::config::texts::{Demand, FilePath, Optional, Upgrade};
use crate::config::{ClientCertificates, EnvironmentHosts, Listener, ListenerTls, Upstream};

/// The names of upstreams, as far as they are known, with their places.
pub(super) struct UpstreamNames {
    names: Vec<Spanned<String>>,
    /// None is missing because what was written for it is wrong.
    complete: bool,
}

impl Check<'_> {
    pub(super) fn listeners(&mut self, raw: Field<List<raw::Listener>>, defaults: &[Listener], proxies_are_missing: bool) -> Vec<Listener> {
        match self.entries(raw, "listener") {
            Some(entries) => entries.into_iter().filter_map(|raw| self.listener(raw, proxies_are_missing)).collect(),
            None => {
                defaults.iter().for_each(|listener| self.take(listener.address, "a listener", None));
                defaults.to_vec()
            }
        }
    }

    fn listener(&mut self, raw: Spanned<raw::Listener>, proxies_are_missing: bool) -> Option<Listener> {
        let span = raw.span();
        let raw = raw.into_inner();
        let is_plain = matches!(raw.tls, Field::Absent);
        let tls = raw.tls.given().and_then(|tls| self.listener_tls(tls));
        let proxy_protocol = raw.proxy_protocol.given();
        if let Some(switch) = proxy_protocol.as_ref().filter(|switch| *switch.get_ref() && proxies_are_missing) {
            let help =
                "name the proxies that connect to it in `trusted_proxies` of [client_address]: from nobody else is a PROXY header believed";
            self.problems.add_with_help(&switch.span(), "nobody could connect to this listener: no proxy is trusted", help);
        }
        let address = self.required(raw.address, &span, "[[listeners]]", "address")?;
        self.take(*address.get_ref(), "a listener", Some(address.span()));
        let address = address.into_inner();
        if is_plain && !is_loopback(address) {
            self.warnings.push(plain_listener(address));
        }
        Some(Listener { address, tls, proxy_protocol: proxy_protocol.is_some_and(Spanned::into_inner) })
    }

    fn listener_tls(&mut self, raw: Spanned<raw::ListenerTls>) -> Option<ListenerTls> {
        let span = raw.span();
        let raw = raw.into_inner();
        let client = self.client_certificates(raw.client_ca, raw.client_certificate);
        let certificates = self.required(raw.certificates, &span, "tls", "certificates")?;
        let certificates = self.entries(Field::Given(certificates), "certificate")?;
        let certificates = certificates.into_iter().filter_map(|files| self.certificate_files(files)).collect();
        Some(ListenerTls { certificates, client })
    }

    /// A CA alone asks for certificates that it has signed: whoever names one wants them.
    fn client_certificates(&mut self, ca: Field<FilePath>, demand: Field<Demand>) -> Option<ClientCertificates> {
        if let (Field::Absent, Some(span)) = (&ca, demand.span()) {
            let help = "write client_ca = \"ca.pem\" beside it: the file with the CAs that sign clients' certificates";
            self.problems.add_with_help(&span, "`client_certificate` needs `client_ca`", help);
        }
        let ca = self.readable(&ca.given()?);
        Some(ClientCertificates { ca, required: demand.or(Demand::Required) == Demand::Required })
    }

    pub(super) fn upstreams(&mut self, raw: Field<List<raw::Upstream>>, defaults: &[Upstream]) -> (Vec<Upstream>, UpstreamNames) {
        let complete = !matches!(raw, Field::Bad);
        let Some(entries) = self.entries(raw, "upstream") else {
            let names = defaults.iter().map(|upstream| Spanned::new(0..0, upstream.name.clone())).collect();
            return (defaults.to_vec(), UpstreamNames { names, complete });
        };
        let mut names = UpstreamNames { names: Vec::new(), complete: complete && !entries.is_empty() };
        let upstreams = entries.into_iter().filter_map(|raw| self.upstream(raw, &mut names)).collect();
        (upstreams, names)
    }

    fn upstream(&mut self, raw: Spanned<raw::Upstream>, names: &mut UpstreamNames) -> Option<Upstream> {
        let span = raw.span();
        let raw = raw.into_inner();
        let name = self.required(raw.name, &span, "[[upstreams]]", "name");
        match &name {
            Some(name) if names.names.iter().any(|other| other.get_ref() == name.get_ref()) => {
                self.problems.add_with_help(
                    &name.span(),
                    format!("there already is an upstream {}", quoted(name.get_ref())),
                    "give each a name of its own",
                );
            }
            Some(name) => names.names.push(name.clone()),
            None => names.complete = false,
        }
        let ca = raw.ca.given().map(|file| self.readable(&file));
        let client_certificate = raw.client_certificate.given().and_then(|files| self.certificate_files(files));
        let servers = self.required(raw.servers, &span, "[[upstreams]]", "servers");
        let servers = servers.and_then(|servers| self.entries(Field::Given(servers), "server")).unwrap_or_default();
        let mut upstream = Upstream::new(&name?.into_inner(), servers.into_iter().map(Spanned::into_inner).collect());
        upstream.protocol = raw.protocol.or(upstream.protocol);
        upstream.host = raw.host.or(Optional(None)).0.map(|host| host.0);
        upstream.ca = ca;
        upstream.server_name = raw.server_name.or(Optional(None)).0.map(|name| name.0);
        upstream.client_certificate = client_certificate;
        if let Some(upgrades) = raw.upgrades.given() {
            upstream.upgrades = upgrades_once(upgrades.into_inner());
        }
        upstream.forward_authorization = raw.forward_authorization.or(upstream.forward_authorization);
        self.warn_of_tls_settings_without_tls(&upstream);
        Some(upstream)
    }

    fn warn_of_tls_settings_without_tls(&mut self, upstream: &Upstream) {
        let has_settings = upstream.ca.is_some() || upstream.server_name.is_some() || upstream.client_certificate.is_some();
        if has_settings && !upstream.servers.iter().any(|server| server.tls) {
            let name = quoted(&upstream.name);
            self.warnings.push(format!("the upstream {name} has settings for TLS, but no server of it is https://: they have no effect"));
        }
    }

    pub(super) fn environments(
        &mut self,
        raw: Field<List<raw::Environment>>,
        defaults: &[EnvironmentHosts],
        upstreams: &UpstreamNames,
    ) -> Vec<EnvironmentHosts> {
        let Some(entries) = self.entries(raw, "environment") else {
            return self.default_environments(defaults, upstreams);
        };
        let mut environments: Vec<EnvironmentHosts> = Vec::new();
        let mut hosts: Vec<Host> = Vec::new();
        for entry in entries {
            if let Some(environment) = self.environment(entry, &environments, &mut hosts, upstreams) {
                environments.push(environment);
            }
        }
        environments
    }

    /// The default environment sends to the default upstream, which is gone where others are named in its place.
    fn default_environments(&mut self, defaults: &[EnvironmentHosts], upstreams: &UpstreamNames) -> Vec<EnvironmentHosts> {
        let has_default = upstreams.names.iter().any(|name| name.get_ref() == UPSTREAM);
        if let (false, true, Some(first)) = (has_default, upstreams.complete, upstreams.names.first()) {
            let message = format!("no environment sends requests to {}", quoted(first.get_ref()));
            let help = format!(
                "write [[environments]] with upstream = {}, or name an upstream \"{UPSTREAM}\", which production sends to unless set",
                quoted(first.get_ref())
            );
            self.problems.add_with_help(&first.span(), message, help);
        }
        let upstream = upstreams.names.iter().position(|name| name.get_ref() == UPSTREAM).unwrap_or_default();
        defaults.iter().cloned().map(|environment| EnvironmentHosts { upstream, ..environment }).collect()
    }

    fn environment(
        &mut self,
        raw: Spanned<raw::Environment>,
        before: &[EnvironmentHosts],
        taken: &mut Vec<Host>,
        upstreams: &UpstreamNames,
    ) -> Option<EnvironmentHosts> {
        const TITLE: &str = "[[environments]]";
        let span = raw.span();
        let raw = raw.into_inner();
        let name = self.required(raw.name, &span, TITLE, "name");
        if let Some(name) = name.as_ref().filter(|name| before.iter().any(|other| other.name == *name.get_ref())) {
            let help = "put the hosts of both into one";
            self.problems.add_with_help(&name.span(), format!("there already is an environment \"{}\"", name.get_ref()), help);
        }
        let hosts = self.required(raw.hosts, &span, TITLE, "hosts").map(Field::Given);
        let hosts = hosts.and_then(|hosts| self.entries(hosts, "host")).unwrap_or_default();
        let hosts = self.hosts(hosts, taken);
        let upstream =
            self.required(raw.upstream, &span, TITLE, "upstream").and_then(|upstream| self.upstream_of_that_name(&upstream, upstreams));
        let any_host = hosts.contains(&Host::Any);
        let hosts = hosts.into_iter().filter_map(|host| if let Host::Named(name) = host { Some(name) } else { None }).collect();
        Some(EnvironmentHosts { name: name?.into_inner(), hosts, any_host, upstream: upstream.unwrap_or_default() })
    }

    /// The hosts that nobody else has.
    fn hosts(&mut self, raw: List<Host>, taken: &mut Vec<Host>) -> Vec<Host> {
        let mut own = Vec::new();
        for host in raw {
            if taken.contains(host.get_ref()) {
                let message = match host.get_ref() {
                    Host::Any => "\"*\" is already there: only one environment can have any host".to_owned(),
                    Host::Named(name) => format!("the host {} is already there", quoted(name)),
                };
                self.problems.add_with_help(&host.span(), message, "leave one of them out: a host stands for one environment");
                continue;
            }
            taken.push(host.get_ref().clone());
            own.push(host.into_inner());
        }
        own
    }

    fn upstream_of_that_name(&mut self, name: &Spanned<String>, upstreams: &UpstreamNames) -> Option<usize> {
        let found = upstreams.names.iter().position(|other| other.get_ref() == name.get_ref());
        if found.is_none() && upstreams.complete {
            let names: Vec<&str> = upstreams.names.iter().map(|name| name.get_ref().as_str()).collect();
            let help = match nearest(name.get_ref(), names.iter().copied()) {
                Some(near) => format!("did you mean {}?", quoted(near)),
                None => format!("there is {}", enumerated(&names)),
            };
            self.problems.add_with_help(&name.span(), format!("there is no upstream {}", quoted(name.get_ref())), help);
        }
        found
    }
}

fn plain_listener(address: SocketAddr) -> String {
    format!("the listener {address} has no TLS and is not on a loopback address: secrets cross the network in the clear")
}

fn upgrades_once(upgrades: List<Upgrade>) -> Vec<String> {
    let mut once: Vec<String> = Vec::new();
    for Upgrade(upgrade) in upgrades.into_iter().map(Spanned::into_inner) {
        if !once.contains(&upgrade) {
            once.push(upgrade);
        }
    }
    once
}
