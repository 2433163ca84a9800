//! Values of settings that name something in the network: addresses, ranges, hosts, servers, URLs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

use super::Server;
use super::problems::{Fault, quoted};
use super::read::{FromScalar, Scalar};

/// A host of an environment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Host {
    Any,
    /// In lower case, without a trailing dot; an IPv6 address in brackets.
    Named(String),
}

/// What a Host field says: a host and perhaps a port.
#[derive(PartialEq, Debug)]
pub(super) struct HostField(pub(super) String);

/// The name that a server's certificate must have; an IPv6 address without brackets.
#[derive(PartialEq, Debug)]
pub(super) struct ServerName(pub(super) String);

/// Addresses of proxies.
#[derive(PartialEq, Debug)]
pub(super) struct TrustedNet {
    pub(super) net: IpNet,
    /// The range was written with bits behind its prefix, such as `10.0.0.5/8`.
    pub(super) had_host_bits: bool,
}

/// Where browsers find the admin listener; without a slash at its end.
#[derive(PartialEq, Debug)]
pub(super) struct PublicUrl(pub(super) String);

impl FromScalar for SocketAddr {
    const WHAT: &'static str = "an address to listen on";

    fn form() -> String {
        "an IP address and a port in quotes, such as \"127.0.0.1:8080\" or \"[::1]:8080\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let helped = |help: String| Err(Fault::helped(format!("{} is not {}", quoted(text), Self::WHAT), help));
        match text.rsplit_once(':') {
            Some(("", port)) if is_port(port) => {
                helped(format!("write \"127.0.0.1:{port}\" for this machine alone, \"0.0.0.0:{port}\" for everybody"))
            }
            Some(("localhost", port)) if is_port(port) => helped(format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\"")),
            _ if text.parse::<IpAddr>().is_ok() => {
                helped("write a colon and a port behind the address, and an IPv6 address in brackets".to_owned())
            }
            _ => Err(Fault::Form),
        }
    }
}

impl FromScalar for Host {
    const WHAT: &'static str = "a host";

    fn form() -> String {
        "a host in quotes, such as \"api.martis.id\", or \"*\" for any".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(host) = canonical_host(text) {
            return Ok(Self::Named(host));
        }
        let helped = |why: &str, help: String| Err(Fault::helped(format!("{} {why}", quoted(text)), help));
        match text.rsplit_once(':') {
            _ if text.contains("://") => helped("is a URL, not a host", "write the host alone, such as \"api.martis.id\"".to_owned()),
            _ if text.contains('*') => helped("is not a host: `*` stands alone, for any host", "name each host, or write \"*\"".to_owned()),
            _ if text.parse::<Ipv6Addr>().is_ok() => {
                helped("is not a host: an IPv6 address stands in brackets", format!("write \"[{text}]\""))
            }
            _ if !text.is_ascii() => {
                helped("is not ASCII", "write the host as browsers send it, in labels that begin with xn--".to_owned())
            }
            Some((host, port)) if is_port(port) && canonical_host(host).is_some() => {
                helped("has a port", format!("write \"{host}\": a host stands for all of its ports"))
            }
            _ => Err(Fault::Form),
        }
    }
}

impl FromScalar for HostField {
    const WHAT: &'static str = "a host";

    fn form() -> String {
        "a host in quotes, such as \"core.internal\" or \"core.internal:8080\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        let (host, port) = split_port(text).ok_or(Fault::Form)?;
        let host = canonical_host(host).ok_or(Fault::Form)?;
        Ok(Self(port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))))
    }
}

impl FromScalar for ServerName {
    const WHAT: &'static str = "the name of a server";

    fn form() -> String {
        "the name in the server's certificate in quotes, such as \"core.internal\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.to_string()));
        }
        let name = canonical_host(text).ok_or(Fault::Form)?;
        // An address in brackets is a host and no name.
        rustls_pki_types::DnsName::try_from(name.as_str()).map_err(|_| Fault::Form)?;
        Ok(Self(name))
    }
}

impl FromScalar for Server {
    const WHAT: &'static str = "a server";

    fn form() -> String {
        "\"http://HOST:PORT\" or \"https://HOST:PORT\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        let said = |why: &str, help: &str| Fault::helped(format!("{} {why}", quoted(text)), help);
        let Some((scheme, rest)) = text.split_once("://") else {
            let is_address = split_port(text).is_some_and(|(host, _)| canonical_host(host).is_some());
            return Err(if is_address {
                said("is not a server", &format!("write \"http://{text}\" or \"https://{text}\""))
            } else {
                Fault::Form
            });
        };
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            "h2c" => return Err(said("is not a server", "write \"http://HOST:PORT\", and protocol = \"http2\" beside it")),
            _ => return Err(Fault::Form),
        };
        if rest.contains('@') {
            return Err(said("has a user name", "write it without: what upstreams learn of a caller, the gateway tells them"));
        }
        if rest.contains(['/', '?', '#']) {
            return Err(said("has a path", "write it without, also without the last slash: each request goes on with its own path"));
        }
        let (host, port) = split_port(rest).ok_or(Fault::Form)?;
        let host = canonical_host(host).ok_or(Fault::Form)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }) })
    }
}

impl FromScalar for TrustedNet {
    const WHAT: &'static str = "an address or a range of them";

    fn form() -> String {
        "an IP address or a range in quotes, such as \"203.0.113.7\", \"10.0.0.0/8\" or \"2001:db8::/32\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        let written = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse()).map_err(|_| Fault::Form)?;
        Ok(Self { net: unmapped(written.trunc()), had_host_bits: written != written.trunc() })
    }
}

impl FromScalar for PublicUrl {
    const WHAT: &'static str = "the URL of a page";

    fn form() -> String {
        "a URL in quotes, such as \"https://gateway.example.com\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        let (scheme, rest) = text.split_once("://").ok_or(Fault::Form)?;
        let (authority, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len())).ok_or(Fault::Form)?;
        let (host, _) = split_port(authority).ok_or(Fault::Form)?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
        let is_valid = matches!(scheme, "http" | "https") && canonical_host(host).is_some() && path.bytes().all(is_plain);
        if is_valid { Ok(Self(text.trim_end_matches('/').to_owned())) } else { Err(Fault::Form) }
    }
}

/// `core:8080` as its host and its port, which is never 0; the host may be an IPv6 address in brackets.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = port.parse().ok().filter(|number| *number != 0 && is_port(port))?;
            Some((host, Some(port)))
        }
        _ => Some((text, None)),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|digit| digit.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// A name, an IPv4 address, or an IPv6 address in brackets, in the one form that all ways of writing it have in common.
fn canonical_host(text: &str) -> Option<String> {
    if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().ok().map(|address| format!("[{address}]"));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    // What ends in a number is an address or nothing: no domain of the top level is a number.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|c| c.is_ascii_digit())) {
        return name.parse::<Ipv4Addr>().ok().map(|address| address.to_string());
    }
    (name.len() <= 253 && name.split('.').all(is_label)).then_some(name)
}

/// The underscore is in no host of the internet, but in many of container networks.
fn is_label(label: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(is_letter) && !label.starts_with('-') && !label.ends_with('-')
}

/// An IPv4-mapped range as the IPv4 range that it is: peers are compared unmapped.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(net, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: FromScalar>(text: &str) -> Result<T, Fault> {
        T::from_scalar(&Scalar::Text(text.into()))
    }

    #[track_caller]
    fn refused<T: FromScalar>(text: &str) -> Fault {
        parse::<T>(text).err().unwrap_or_else(|| panic!("{text:?} is taken for {}", T::WHAT))
    }

    /// Hosts as written and as they are compared.
    #[track_caller]
    fn check_host(written: &str, meant: &str) {
        assert_eq!(parse::<Host>(written).unwrap(), Host::Named(meant.to_owned()));
    }

    #[test]
    fn an_address_to_listen_on_is_an_address_and_a_port() {
        for text in ["127.0.0.1:8080", "[::1]:8080", "0.0.0.0:0"] {
            assert_eq!(parse::<SocketAddr>(text).unwrap().to_string(), text);
        }
        for text in
            ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", ":8080", "localhost:8080", "::1", "[::1]", "host:80", "127.0.0.1:80 "]
        {
            refused::<SocketAddr>(text);
        }
    }

    #[test]
    fn a_host_is_compared_without_case_and_trailing_dot() {
        check_host("api.martis.id", "api.martis.id");
        check_host("API.Martis.id.", "api.martis.id");
        check_host("localhost", "localhost");
        check_host("core_api", "core_api");
        check_host("127.0.0.1", "127.0.0.1");
        check_host("[2001:DB8:0::1]", "[2001:db8::1]");
        assert_eq!(parse::<Host>("*").unwrap(), Host::Any);
    }

    #[test]
    fn what_no_host_field_can_say_is_no_host() {
        let long = "a".repeat(64);
        for text in ["", ".", "a..b", ".a", "a.b..", "-a", "a-", "a b", "a/b", "a@b", "1.2.3", "256.0.0.1", "[127.0.0.1]", "[::1", &long] {
            assert_eq!(refused::<Host>(text), Fault::Form, "{text}");
        }
    }

    #[test]
    fn a_host_with_a_port_is_told_to_leave_it_out() {
        for (text, without) in [("api.martis.id:443", "\"api.martis.id\""), ("[::1]:80", "\"[::1]\"")] {
            assert!(matches!(refused::<Host>(text), Fault::Said { help: Some(help), .. } if help.contains(without)), "{text}");
        }
    }

    #[test]
    fn a_server_has_a_scheme_a_host_and_a_port_that_may_be_left_out() {
        for (text, tls, host, port) in [
            ("http://127.0.0.1:9000", false, "127.0.0.1", 9000),
            ("https://Core.Internal", true, "core.internal", 443),
            ("HTTP://core", false, "core", 80),
            ("http://[::1]:9000", false, "::1", 9000),
            ("https://[::1]", true, "::1", 443),
        ] {
            assert_eq!(parse::<Server>(text).unwrap(), Server { tls, host: host.to_owned(), port });
        }
        for text in [
            "",
            "core:9000",
            "http://",
            "http://a/",
            "http://a?b",
            "http://a:0",
            "http://a:+1",
            "http://a:",
            "http://u:p@a",
            "ftp://a",
            "http://::1",
            "http://a b",
        ] {
            refused::<Server>(text);
        }
    }

    #[test]
    fn a_host_field_keeps_its_port() {
        assert_eq!(parse::<HostField>("Core.internal:8080").unwrap(), HostField("core.internal:8080".to_owned()));
        assert_eq!(parse::<HostField>("[::1]").unwrap(), HostField("[::1]".to_owned()));
        assert_eq!(refused::<HostField>("a\r\nb"), Fault::Form);
    }

    #[test]
    fn a_server_name_is_what_a_certificate_can_hold() {
        assert_eq!(parse::<ServerName>("Core.internal").unwrap(), ServerName("core.internal".to_owned()));
        assert_eq!(parse::<ServerName>("2001:db8::1").unwrap(), ServerName("2001:db8::1".to_owned()));
        for text in ["[::1]", "", "a:1", "*", "a b"] {
            assert_eq!(refused::<ServerName>(text), Fault::Form, "{text}");
        }
    }

    #[test]
    fn trusted_proxies_are_addresses_or_ranges_unmapped_and_cleared_of_host_bits() {
        for (text, net, had_host_bits) in [
            ("10.0.0.7", "10.0.0.7/32", false),
            ("10.0.0.0/8", "10.0.0.0/8", false),
            ("10.0.0.5/8", "10.0.0.0/8", true),
            ("2001:db8::/32", "2001:db8::/32", false),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8", false),
            ("::ffff:10.0.0.7", "10.0.0.7/32", false),
            ("0.0.0.0/0", "0.0.0.0/0", false),
        ] {
            assert_eq!(parse::<TrustedNet>(text).unwrap(), TrustedNet { net: net.parse().unwrap(), had_host_bits }, "{text}");
        }
        for text in ["", "10.0.0", "010.0.0.1", "10.0.0.0/33", "10.0.0.0/-1", "proxy", "[::1]", "fe80::1%1", "10.0.0.1:80"] {
            assert_eq!(refused::<TrustedNet>(text), Fault::Form, "{text}");
        }
    }

    #[test]
    fn a_public_url_is_kept_without_its_last_slash() {
        for (text, url) in [("https://a.example/", "https://a.example"), ("http://a.example:8443/hub", "http://a.example:8443/hub")] {
            assert_eq!(parse::<PublicUrl>(text).unwrap(), PublicUrl(url.to_owned()));
        }
        for text in [
            "",
            "a.example",
            "ftp://a.example",
            "https://",
            "https://u@a.example",
            "https://a.example/?q",
            "https://a.example/#x",
            "https://a.example/\"x",
        ] {
            assert_eq!(refused::<PublicUrl>(text), Fault::Form, "{text}");
        }
    }
}
