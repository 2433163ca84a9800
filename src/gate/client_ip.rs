//! Whom to believe about the address of a client: the socket, and what trusted proxies say of those before them.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::HeaderName;

use crate::access::address::{AddressSet, ClientAddress};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// The field that trusted proxies write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ForwardingField {
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// Which peers are believed, and which of their fields.
#[derive(Clone, Debug, Default)]
pub struct ClientAddressRules {
    pub trusted: AddressSet,
    pub field: ForwardingField,
}

impl ClientAddressRules {
    /// Whether a peer is a trusted proxy.
    pub fn trusts(&self, peer: ClientAddress) -> bool {
        peer.known().is_some_and(|address| self.trusted.contains(address))
    }

    /// The client: the peer, or, if that is trusted, the right-most entry that is not. An entry on the way that is no plain
    /// address makes the client unknown; with nothing but trusted entries it is the left-most.
    pub fn client(&self, peer: ClientAddress, headers: &HeaderMap) -> ClientAddress {
        if !self.trusts(peer) {
            return peer;
        }
        let mut left_most = None;
        let mut client = None;
        let mut read = |entry: Option<IpAddr>| {
            let entry = entry.map_or(ClientAddress::Unknown, ClientAddress::of);
            left_most.get_or_insert(entry);
            if !self.trusts(entry) {
                client = Some(entry);
            }
        };
        match self.field {
            ForwardingField::XForwardedFor => {
                lines(headers, &X_FORWARDED_FOR)
                    .flat_map(|line| line.split(|&byte| byte == b','))
                    .for_each(|entry| read(plain_address(entry)));
            }
            ForwardingField::Forwarded => {
                lines(headers, &FORWARDED).flat_map(Elements::of).for_each(|element| read(element.and_then(forwarded_for)));
            }
        }
        client.or(left_most).unwrap_or(peer)
    }

    /// The scheme and the host that a trusted proxy said last, each if it said one that can be one.
    pub fn said<'a>(&self, peer: ClientAddress, headers: &'a HeaderMap) -> (Option<&'a str>, Option<&'a str>) {
        if !self.trusts(peer) {
            return (None, None);
        }
        let (scheme, host) = match self.field {
            ForwardingField::XForwardedFor => (last_entry(headers, &X_FORWARDED_PROTO), last_entry(headers, &X_FORWARDED_HOST)),
            ForwardingField::Forwarded => {
                let last = lines(headers, &FORWARDED).flat_map(Elements::of).last().flatten();
                (last.and_then(|element| parameter(element, b"proto")), last.and_then(|element| parameter(element, b"host")))
            }
        };
        let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).ok();
        let scheme = scheme.and_then(text).filter(|scheme| matches!(*scheme, "http" | "https"));
        let host = host.and_then(text).filter(|host| super::host::name_of(host).is_some());
        (scheme, host)
    }
}

/// The lines of a field that are not blank.
fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().map(|line| line.as_bytes().trim_ascii()).filter(|line| !line.is_empty())
}

fn last_entry<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    lines(headers, name).last().and_then(|line| line.rsplit(|&byte| byte == b',').next()).map(<[u8]>::trim_ascii)
}

/// A whole address and nothing else; leading zeros, zones, prefixes, ports and names are none.
fn plain_address(entry: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(entry.trim_ascii()).ok()?.parse().ok()
}

/// The address of an element of `Forwarded`: IPv4, or bracketed IPv6, with a port that may be missing (RFC 7239, section 6).
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let node = std::str::from_utf8(parameter(element, b"for")?).ok()?;
    let (address, port) = match node.strip_prefix('[') {
        Some(rest) => {
            let (address, behind) = rest.split_once(']')?;
            (IpAddr::V6(address.parse().ok()?), behind)
        }
        None => {
            let end = node.find(':').unwrap_or(node.len());
            let (address, behind) = node.split_at(end);
            (IpAddr::V4(address.parse().ok()?), behind)
        }
    };
    let port = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    port.then_some(address)
}

/// The value of a parameter, which must stand in the element exactly once; quotes are taken off.
fn parameter<'a>(element: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut found = None;
    for pair in split_outside_quotes(element, b';') {
        let pair = pair?;
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (key, value) = pair.split_at_checked(equals)?;
        if key.trim_ascii().eq_ignore_ascii_case(name) && found.replace(value.get(1..)?.trim_ascii()).is_some() {
            return None;
        }
    }
    match found? {
        // An escaped character could only make an address of what is none.
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') && !inner.contains(&b'"') => Some(inner),
        token if !token.contains(&b'"') => Some(token),
        _ => None,
    }
}

/// The elements of a line of `Forwarded`; None for one whose quotes do not end, which is the last.
struct Elements;

impl Elements {
    fn of(line: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
        split_outside_quotes(line, b',')
    }
}

fn split_outside_quotes(text: &[u8], separator: u8) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.iter().position(|&byte| {
            let ends = byte == separator && !quoted;
            quoted ^= byte == b'"' && !escaped;
            escaped = quoted && byte == b'\\' && !escaped;
            ends
        });
        match end {
            Some(end) => {
                rest = text.get(end + 1..);
                Some(text.get(..end))
            }
            None if quoted => Some(None),
            None => Some(Some(text)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use ipnet::IpNet;
    use proptest::prelude::*;

    const PROXY: &str = "10.0.0.1";

    fn rules(field: ForwardingField) -> ClientAddressRules {
        let trusted = ["10.0.0.0/8", "2001:db8:ffff::/48"].map(|net| net.parse::<IpNet>().unwrap());
        ClientAddressRules { trusted: AddressSet::new(trusted), field }
    }

    fn client(field: ForwardingField, peer: &str, lines: &[&str]) -> ClientAddress {
        let name = if field == ForwardingField::Forwarded { FORWARDED } else { X_FORWARDED_FOR };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        rules(field).client(ClientAddress::of(peer.parse().unwrap()), &headers)
    }

    /// `expected` is an address, or `?` for unknown.
    #[track_caller]
    fn check(field: ForwardingField, peer: &str, lines: &[&str], expected: &str) {
        let expected = expected.parse().map_or(ClientAddress::Unknown, ClientAddress::of);
        assert_eq!(client(field, peer, lines), expected, "{lines:?}");
    }

    #[test]
    fn a_peer_that_is_no_trusted_proxy_is_the_client_whatever_it_says() {
        check(ForwardingField::XForwardedFor, "203.0.113.9", &["198.51.100.1"], "203.0.113.9");
        check(ForwardingField::Forwarded, "203.0.113.9", &["for=198.51.100.1"], "203.0.113.9");
    }

    #[test]
    fn the_right_most_untrusted_entry_of_all_lines_is_the_client() {
        use ForwardingField::XForwardedFor as F;
        check(F, PROXY, &["198.51.100.1"], "198.51.100.1");
        check(F, PROXY, &["192.0.2.1, 198.51.100.1, 10.0.0.2"], "198.51.100.1");
        check(F, PROXY, &["192.0.2.1", "198.51.100.1,10.0.0.2"], "198.51.100.1");
        check(F, PROXY, &["198.51.100.1", "10.0.0.3 , 10.0.0.2"], "198.51.100.1");
        check(F, PROXY, &["2001:db8::7"], "2001:db8::7");
        check(F, PROXY, &["::ffff:198.51.100.1"], "198.51.100.1");
        check(F, "::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1");
    }

    #[test]
    fn with_trusted_entries_only_the_left_most_is_the_client_and_with_none_the_peer() {
        use ForwardingField::XForwardedFor as F;
        check(F, PROXY, &["10.0.0.9, 10.0.0.2"], "10.0.0.9");
        check(F, PROXY, &[], PROXY);
        check(F, PROXY, &["", "  "], PROXY);
    }

    #[test]
    fn an_entry_on_the_way_that_is_no_plain_address_makes_the_client_unknown() {
        use ForwardingField::XForwardedFor as F;
        for entry in [
            "unknown",
            "_hidden",
            "example.com",
            "198.51.100.1:80",
            "[2001:db8::7]",
            "fe80::1%eth0",
            "198.051.100.1",
            "198.51.100",
            "198.51.100.0/24",
            "1",
            "\"198.51.100.1\"",
            "ä",
        ] {
            check(F, PROXY, &[&format!("192.0.2.1, {entry}, 10.0.0.2")], "?");
            check(F, PROXY, &[&format!("{entry}, 192.0.2.1")], "192.0.2.1");
        }
        check(F, PROXY, &["192.0.2.1, "], "?");
        check(F, PROXY, &["192.0.2.1,,10.0.0.2"], "?");
    }

    #[test]
    fn forwarded_is_read_with_quotes_ports_and_other_parameters() {
        use ForwardingField::Forwarded as F;
        check(F, PROXY, &["for=198.51.100.1"], "198.51.100.1");
        check(F, PROXY, &["For=\"[2001:db8::7]:4711\";proto=https"], "2001:db8::7");
        check(F, PROXY, &["for=192.0.2.1, proto=http;for=198.51.100.1:80;by=10.0.0.1", "for=10.0.0.2"], "198.51.100.1");
        check(F, PROXY, &["for=192.0.2.1, for=unknown"], "?");
        check(F, PROXY, &["for=192.0.2.1, for=_hidden"], "?");
        check(F, PROXY, &["for=192.0.2.1, proto=https"], "?");
        check(F, PROXY, &["for=192.0.2.1, for=198.51.100.1;for=198.51.100.2"], "?");
        check(F, PROXY, &["for=2001:db8::7"], "?");
    }

    #[test]
    fn a_quote_left_open_by_the_client_cannot_hide_what_the_proxy_added() {
        check(ForwardingField::Forwarded, PROXY, &["for=\"192.0.2.1, for=198.51.100.1"], "?");
        check(ForwardingField::Forwarded, PROXY, &["for=\"192.0.2.1", "for=198.51.100.1"], "198.51.100.1");
    }

    #[test]
    fn scheme_and_host_are_what_a_trusted_proxy_said_last() {
        let mut headers = HeaderMap::new();
        headers.append(X_FORWARDED_PROTO, HeaderValue::from_static("http, https"));
        headers.append(X_FORWARDED_HOST, HeaderValue::from_static("api.martis.id"));
        headers.append(FORWARDED, HeaderValue::from_static("for=1.2.3.4;proto=http;host=\"a:80\", for=1.2.3.4;proto=gopher"));
        let proxy = ClientAddress::of(PROXY.parse().unwrap());
        assert_eq!(rules(ForwardingField::XForwardedFor).said(proxy, &headers), (Some("https"), Some("api.martis.id")));
        assert_eq!(rules(ForwardingField::Forwarded).said(proxy, &headers), (None, None));
        assert_eq!(rules(ForwardingField::XForwardedFor).said(ClientAddress::Unknown, &headers), (None, None));
    }

    proptest! {
        #[test]
        fn no_line_makes_an_address_that_the_last_trusted_hop_did_not_name(junk in "[ -~]{0,60}") {
            for field in [ForwardingField::XForwardedFor, ForwardingField::Forwarded] {
                let added = if field == ForwardingField::Forwarded { "for=198.51.100.1" } else { "198.51.100.1" };
                let seen = client(field, PROXY, &[&junk, added]);
                prop_assert_eq!(seen, ClientAddress::of("198.51.100.1".parse().unwrap()));
            }
        }
    }
}
