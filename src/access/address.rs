//! Addresses: what a restriction may say, and whether a client meets it. A rule that does not parse never becomes "allow",
//! and a client whose address is not known meets no rule.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The most entries that one list may have.
pub const MOST_RULES: usize = 100;

/// Where a request came from, IPv4-mapped IPv6 unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClientAddress {
    Known(IpAddr),
    /// Named by something that is no plain address. Meets no restriction.
    Unknown,
}

impl ClientAddress {
    pub fn of(address: IpAddr) -> Self {
        Self::Known(address.to_canonical())
    }

    pub const fn known(self) -> Option<IpAddr> {
        match self {
            Self::Known(address) => Some(address),
            Self::Unknown => None,
        }
    }
}

/// One entry of a list: an address or a CIDR range, host bits cleared, IPv4-mapped unmapped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IpRule(IpNet);

impl IpRule {
    /// Parses `203.0.113.7`, `203.0.113.0/24`, `2001:db8::/32`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the entry.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shown = || super::secret::hide_secrets(text).escape_debug().to_string();
        let net = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text
                .parse::<IpNet>()
                .map_err(|_| format!("`{}` is neither an address nor a range such as 203.0.113.0/24 or 2001:db8::/32", shown()))?,
        };
        let net = unmapped(net.trunc());
        if net.prefix_len() == 0 {
            return Err(format!("`{}` is every address: switch the restrictions off instead", shown()));
        }
        Ok(Self(net))
    }

    pub const fn net(self) -> IpNet {
        self.0
    }
}

impl fmt::Display for IpRule {
    /// A range of one address is shown as the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { write!(f, "{}", self.0.addr()) } else { write!(f, "{}", self.0) }
    }
}

fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(length)) => Ipv4Net::new(v4, length).map_or(net, IpNet::V4),
        _ => net,
    }
}

/// What a key's owner set: a switch, and a list that survives switching off.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IpRestrictions {
    enabled: bool,
    allowed: Vec<IpRule>,
}

impl IpRestrictions {
    /// Parses a switch and a list; duplicates are merged, the order is kept.
    ///
    /// # Errors
    /// A sentence for each entry that is wrong, with its place in the list, or one for the whole (no place).
    pub fn parse<T: AsRef<str>>(enabled: bool, entries: &[T]) -> Result<Self, Vec<(Option<usize>, String)>> {
        let mut problems = Vec::new();
        let mut allowed = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            match IpRule::parse(entry.as_ref()) {
                Ok(rule) if allowed.contains(&rule) => {}
                Ok(rule) => allowed.push(rule),
                Err(problem) => problems.push((Some(place), problem)),
            }
        }
        if allowed.len() > MOST_RULES {
            problems.push((None, format!("{} entries are too many: a list has at most {MOST_RULES}", allowed.len())));
        }
        if enabled && entries.is_empty() {
            problems.push((None, "an empty list would refuse everybody: add an address before switching the restrictions on".to_owned()));
        }
        if problems.is_empty() { Ok(Self { enabled, allowed }) } else { Err(problems) }
    }

    /// What a store or a snapshot holds, whatever it is: an empty enabled list refuses everybody.
    pub const fn stored(enabled: bool, allowed: Vec<IpRule>) -> Self {
        Self { enabled, allowed }
    }

    pub const fn enabled(&self) -> bool {
        self.enabled
    }

    pub fn allowed(&self) -> &[IpRule] {
        &self.allowed
    }

    /// The form for the decision.
    pub fn rule(&self) -> AddressRule {
        if self.enabled { AddressRule::Only(AddressSet::new(self.allowed.iter().map(|rule| rule.0))) } else { AddressRule::Anywhere }
    }
}

/// Three states, and not an optional list: anywhere, these, and, as an empty set, nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AddressRule {
    Anywhere,
    Only(AddressSet),
}

impl AddressRule {
    pub fn allows(&self, client: ClientAddress) -> bool {
        match (self, client) {
            (Self::Anywhere, _) => true,
            (Self::Only(set), ClientAddress::Known(address)) => set.contains(address),
            (Self::Only(_), ClientAddress::Unknown) => false,
        }
    }
}

/// First and last addresses.
pub type Ranges<A> = [(A, A)];

/// Addresses as sorted ranges that do not touch; asked by binary search.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AddressSet {
    v4: Box<Ranges<Ipv4Addr>>,
    v6: Box<Ranges<Ipv6Addr>>,
}

impl AddressSet {
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match unmapped(net) {
                IpNet::V4(net) => v4.push(net),
                IpNet::V6(net) => v6.push(net),
            }
        }
        let v4 = Ipv4Net::aggregate(&v4).into_iter().map(|net| (net.network(), net.broadcast())).collect();
        let v6 = Ipv6Net::aggregate(&v6).into_iter().map(|net| (net.network(), net.broadcast())).collect();
        let mut set = Self { v4, v6 };
        set.v4.sort_unstable();
        set.v6.sort_unstable();
        set
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => within(&self.v4, address),
            IpAddr::V6(address) => within(&self.v6, address),
        }
    }

    /// The ranges of each family, first and last address.
    pub fn ranges(&self) -> (&Ranges<Ipv4Addr>, &Ranges<Ipv6Addr>) {
        (&self.v4, &self.v6)
    }

    /// A set from ranges as [`AddressSet::ranges`] gave them; None if they are not sorted or overlap.
    pub fn from_ranges(v4: Vec<(Ipv4Addr, Ipv4Addr)>, v6: Vec<(Ipv6Addr, Ipv6Addr)>) -> Option<Self> {
        (in_order(&v4) && in_order(&v6)).then(|| Self { v4: v4.into(), v6: v6.into() })
    }
}

fn within<A: Ord + Copy>(ranges: &[(A, A)], address: A) -> bool {
    let behind = ranges.partition_point(|&(first, _)| first <= address);
    behind.checked_sub(1).and_then(|place| ranges.get(place)).is_some_and(|&(_, last)| address <= last)
}

fn in_order<A: Ord>(ranges: &[(A, A)]) -> bool {
    ranges.iter().all(|(first, last)| first <= last) && ranges.is_sorted_by(|(_, last), (next, _)| last < next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(rules: &[&str], client: &str, allowed: bool) {
        let restrictions = IpRestrictions::parse(true, rules).unwrap();
        let client = ClientAddress::of(client.parse().unwrap());
        assert_eq!(restrictions.rule().allows(client), allowed, "{rules:?} {client:?}");
    }

    #[test]
    fn ranges_have_their_first_and_last_address_and_no_more() {
        check(&["203.0.113.0/24"], "203.0.113.0", true);
        check(&["203.0.113.0/24"], "203.0.113.255", true);
        check(&["203.0.113.0/24"], "203.0.112.255", false);
        check(&["203.0.113.0/24"], "203.0.114.0", false);
        check(&["2001:db8::/32"], "2001:db8:ffff::1", true);
        check(&["2001:db8::/32"], "2001:db9::", false);
        check(&["10.0.0.5", "10.0.0.7", "10.0.0.6"], "10.0.0.6", true);
        check(&["10.0.0.0/8", "10.1.0.0/16"], "10.200.0.1", true);
    }

    #[test]
    fn an_ipv4_mapped_client_meets_ipv4_rules_and_an_ipv4_client_mapped_rules() {
        check(&["10.0.0.0/8"], "::ffff:10.1.2.3", true);
        check(&["::ffff:10.0.0.0/104"], "10.1.2.3", true);
        check(&["::ffff:10.0.0.0/104"], "11.1.2.3", false);
    }

    #[test]
    fn an_unknown_client_meets_no_restriction() {
        let restrictions = IpRestrictions::parse(true, &["128.0.0.0/1", "0.0.0.0/1"]).unwrap();
        assert!(!restrictions.rule().allows(ClientAddress::Unknown));
        assert!(AddressRule::Anywhere.allows(ClientAddress::Unknown));
    }

    #[test]
    fn an_empty_enabled_list_refuses_everybody() {
        let rule = IpRestrictions::stored(true, vec![]).rule();
        assert!(!rule.allows(ClientAddress::of("10.0.0.1".parse().unwrap())));
    }

    #[test]
    fn host_bits_are_cleared_duplicates_merged_and_single_addresses_shown_plainly() {
        let restrictions =
            IpRestrictions::parse(true, &["10.0.0.5/8", "10.0.0.0/8", "::ffff:192.0.2.1", "192.0.2.1/32", "2001:db8::1/128"]).unwrap();
        let shown: Vec<String> = restrictions.allowed().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "192.0.2.1", "2001:db8::1"]);
    }

    #[test]
    fn every_wrong_entry_is_named_with_its_place() {
        let wrong = ["10.0.0.0/8", "0.0.0.0/0", "::/0", "::ffff:0.0.0.0/96", "10.0.0.0/33", "example.com", "010.0.0.1", "fe80::1%eth0", ""];
        let problems = IpRestrictions::parse(true, &wrong).unwrap_err();
        let places: Vec<_> = problems.iter().map(|(place, _)| place.unwrap()).collect();
        assert_eq!(places, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn switching_on_an_empty_list_and_a_list_too_long_are_refused() {
        assert_eq!(IpRestrictions::parse::<&str>(true, &[]).unwrap_err().len(), 1);
        assert!(IpRestrictions::parse::<&str>(false, &[]).is_ok());
        let entries: Vec<String> = (0..=100).map(|last| format!("10.0.0.{last}")).collect();
        assert!(IpRestrictions::parse(false, &entries).unwrap_err()[0].1.contains("at most 100"));
        assert!(IpRestrictions::parse(false, &entries[..100]).is_ok());
    }

    proptest! {
        #[test]
        fn a_set_contains_what_one_of_its_ranges_contains(nets in prop::collection::vec((any::<u32>(), 1_u8..=32), 0..20), probe: u32, near in 0_usize..20) {
            let nets: Vec<IpNet> = nets.into_iter().map(|(bits, length)| IpNet::V4(Ipv4Net::new(bits.into(), length).unwrap()).trunc()).collect();
            let set = AddressSet::new(nets.iter().copied());
            let edge = nets.get(near).map_or(IpAddr::V4(probe.into()), |net| net.broadcast());
            for address in [IpAddr::V4(probe.into()), edge] {
                prop_assert_eq!(set.contains(address), nets.iter().any(|net| net.contains(&address)));
            }
        }

        #[test]
        fn no_text_panics_the_parser(text in ".{0,60}") {
            let _ = IpRule::parse(&text);
        }
    }
}
