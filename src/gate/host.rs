//! Hosts: which environment a Host is of. Policy alone; no Host ever names the address that a request goes to.

use crate::access::key::Environment;

/// What is served under a host name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Served {
    pub environment: Environment,
    /// Its place in the configured list of upstreams.
    pub upstream: usize,
}

/// All host names that are served.
#[derive(Clone, Default, Debug)]
pub struct HostTable {
    /// Few, so that comparing them one by one is faster than any table.
    names: Vec<(Box<str>, Served)>,
    any: Option<Served>,
}

impl HostTable {
    /// Serves `name`, which is in lower case, without port and trailing dot.
    pub fn serve(&mut self, name: &str, served: Served) {
        self.names.push((name.into(), served));
    }

    /// Serves every name that is not served otherwise.
    pub fn serve_any(&mut self, served: Served) {
        self.any = Some(served);
    }

    /// What a host name of a request, without its port, is served as: without regard to case and one trailing dot.
    pub fn find(&self, name: &str) -> Option<Served> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let found = self.names.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, served)| *served).or(self.any)
    }
}

/// The name in a Host or `:authority` (RFC 3986, section 3.2, without userinfo): a name, an IPv4 address or a bracketed IPv6
/// address, and a port that may be missing.
pub(super) fn name_of(authority: &str) -> Option<&str> {
    let (name, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, behind) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            let name = authority.get(..address.len() + 2)?;
            if behind.is_empty() { (name, None) } else { (name, Some(behind.strip_prefix(':')?)) }
        }
        None => match authority.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (authority, None),
        },
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let named = name.starts_with('[') || (!name.is_empty() && name.bytes().all(plain));
    let port = port.is_none_or(|port| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()));
    (named && port).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for (authority, name) in [
            ("api.martis.id", "api.martis.id"),
            ("api.martis.id:443", "api.martis.id"),
            ("api.martis.id:", "api.martis.id"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("[2001:db8::1]:80", "[2001:db8::1]"),
        ] {
            assert_eq!(name_of(authority), Some(name), "{authority}");
        }
    }

    #[test]
    fn what_could_be_read_as_another_host_is_none() {
        for authority in [
            "", ":80", "a@b", "a/b", "a,b", "a?b", "a#b", "a\\b", "a b", "a:b", "a:80:80", "a:123456", "[::1", "[::1]80", "[x]", "a%2eb",
            "ä",
        ] {
            assert_eq!(name_of(authority), None, "{authority}");
        }
    }

    #[test]
    fn names_are_found_without_case_and_trailing_dot_and_the_rest_by_the_star() {
        let production = Served { environment: Environment::Production, upstream: 0 };
        let sandbox = Served { environment: Environment::Sandbox, upstream: 1 };
        let mut hosts = HostTable::default();
        hosts.serve("api.martis.id", production);
        assert_eq!(hosts.find("API.martis.id."), Some(production));
        assert_eq!(hosts.find("api.martis.id.evil"), None);
        hosts.serve_any(sandbox);
        assert_eq!(hosts.find("anything"), Some(sandbox));
        assert_eq!(hosts.find("api.martis.id"), Some(production));
    }
}
