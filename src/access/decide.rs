//! The one page that says who may pass.

use std::sync::Arc;

use super::address::ClientAddress;
use super::denial::Denial;
use super::key::{AccountId, Environment, Found, KeyId, Narrowing, Status};
use super::permission::{PermissionName, Permissions};
use super::route::RouteTable;
use super::time::Timestamp;

/// What a request asks, as far as the rules for its key are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'h, 'r> {
    /// The environment of the Host.
    pub environment: Environment,
    /// Where requests for that Host go: its place in the configured list of upstreams.
    pub upstream: usize,
    pub client: ClientAddress,
    pub method: &'h str,
    /// The path as it was sent, checked by [`super::path::check`].
    pub path: &'h str,
    pub routes: &'r RouteTable,
    pub now: Timestamp,
}

/// Whose key it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    pub key: KeyId,
    pub account: AccountId,
}

/// Proof that a request may go upstream. Its fields are private: only [`decide`] can make one, and forwarding takes one.
#[derive(Debug)]
#[must_use = "a permit that nobody uses refuses a request that may pass"]
pub struct Permit {
    holder: Holder,
    environment: Environment,
    upstream: usize,
    narrowing: Option<Arc<Narrowing>>,
}

impl Permit {
    pub const fn holder(&self) -> Holder {
        self.holder
    }

    pub const fn environment(&self) -> Environment {
        self.environment
    }

    /// The place of the upstream in the configured list.
    pub const fn upstream(&self) -> usize {
        self.upstream
    }

    pub fn permissions(&self) -> &Permissions {
        self.narrowing.as_ref().map_or(&Permissions::Full, |narrowing| &narrowing.permissions)
    }
}

/// Why not, and what of it may be told to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal<'r> {
    pub denial: Denial,
    /// Whose key it was, where one was found: for logs.
    pub holder: Option<Holder>,
    /// The permission that the key lacks, where a route names one.
    pub needed: Option<&'r PermissionName>,
}

impl From<Denial> for Refusal<'_> {
    fn from(denial: Denial) -> Self {
        Self { denial, holder: None, needed: None }
    }
}

/// The rules of the decision table that look at the key, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    Known,
    Environment,
    Status,
    Address,
    Account,
    Permission,
}

/// Is told of each rule that was met, so that a decision can be explained by the code that made it. `()` listens to nothing
/// and costs nothing.
pub trait Witness {
    fn met(&mut self, rule: Rule);
}

impl Witness for () {
    #[inline]
    fn met(&mut self, _: Rule) {}
}

/// Decides whether a request may go upstream with the key that its secret was found to be, if any. The first rule that is not
/// met refuses.
///
/// # Errors
/// The refusal, for rows 6 to 11 of the decision table.
pub fn decide<'r>(ask: &Ask<'_, 'r>, found: Option<Found<'_>>, witness: &mut impl Witness) -> Result<Permit, Refusal<'r>> {
    let Some(Found { record: key, account_suspended }) = found else { return Err(Denial::InvalidApiKey.into()) };
    witness.met(Rule::Known);

    let holder = Holder { key: key.id, account: key.account };
    let refuse = |denial| Err(Refusal { denial, holder: Some(holder), needed: None });
    if key.life.environment() != ask.environment {
        return refuse(Denial::EnvironmentMismatch);
    }
    witness.met(Rule::Environment);

    match key.life.status(ask.now) {
        Status::Active => witness.met(Rule::Status),
        Status::Revoked => return refuse(Denial::RevokedApiKey),
        Status::Expired => return refuse(Denial::ExpiredApiKey),
        Status::Paused => return refuse(Denial::PausedApiKey),
    }

    let narrowing = key.narrowing.as_deref();
    if narrowing.is_some_and(|narrowing| !narrowing.addresses.allows(ask.client)) {
        return refuse(Denial::IpNotAllowed);
    }
    witness.met(Rule::Address);

    if account_suspended {
        return refuse(Denial::AccountSuspended);
    }
    witness.met(Rule::Account);

    // Most keys have full access: no route is looked up for them.
    if let Some(list) = narrowing.map(|narrowing| &narrowing.permissions).filter(|list| **list != Permissions::Full) {
        let needed = ask.routes.permission(ask.method, ask.path);
        if !list.allow(needed) {
            return Err(Refusal { denial: Denial::InsufficientPermissions, holder: Some(holder), needed });
        }
    }
    witness.met(Rule::Permission);

    Ok(Permit { holder, environment: ask.environment, upstream: ask.upstream, narrowing: key.narrowing.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::address::IpRestrictions;
    use crate::access::key::{KeyRecord, Life, LifeState};
    use crate::access::route::Route;

    struct Case {
        environment: Environment,
        state: LifeState,
        expires: Option<i64>,
        allowed: Option<Vec<&'static str>>,
        suspended: bool,
        permission: Option<&'static str>,
    }

    fn a_key() -> Case {
        Case {
            environment: Environment::Production,
            state: LifeState::Active,
            expires: None,
            allowed: None,
            suspended: false,
            permission: None,
        }
    }

    impl Case {
        fn record(&self) -> KeyRecord {
            let name = |text: &str| PermissionName::parse(text).unwrap();
            let permissions = self.permission.map_or(Some(Permissions::Full), |text| Permissions::list(vec![name(text)])).unwrap();
            let restrictions = IpRestrictions::parse(self.allowed.is_some(), self.allowed.as_deref().unwrap_or_default()).unwrap();
            KeyRecord {
                id: KeyId::from_bytes([1; 16]),
                account: AccountId::from_bytes([2; 16]),
                life: Life::new(self.environment, self.state, self.expires.map(Timestamp::from_millis)),
                narrowing: Narrowing::of(permissions, restrictions.rule()),
            }
        }

        /// What `POST /charges` from 203.0.113.7 at the moment 100 gets; the route needs `charges:write`.
        #[track_caller]
        fn gets(&self, expected: Option<Denial>) {
            let mut routes = RouteTable::default();
            routes.add(&Route::parse("POST /charges").unwrap(), &PermissionName::parse("charges:write").unwrap()).unwrap();
            let ask = Ask {
                environment: Environment::Production,
                upstream: 0,
                client: ClientAddress::of("203.0.113.7".parse().unwrap()),
                method: "POST",
                path: "/charges",
                routes: &routes,
                now: Timestamp::from_millis(100),
            };
            let got = decide(&ask, Some(Found { record: &self.record(), account_suspended: self.suspended }), &mut ())
                .err()
                .map(|refusal| refusal.denial);
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn a_plain_active_key_passes() {
        a_key().gets(None);
    }

    #[test]
    fn each_rule_refuses_with_its_own_denial() {
        Case { environment: Environment::Sandbox, ..a_key() }.gets(Some(Denial::EnvironmentMismatch));
        Case { state: LifeState::Revoked, ..a_key() }.gets(Some(Denial::RevokedApiKey));
        Case { expires: Some(100), ..a_key() }.gets(Some(Denial::ExpiredApiKey));
        Case { expires: Some(101), ..a_key() }.gets(None);
        Case { state: LifeState::Paused, ..a_key() }.gets(Some(Denial::PausedApiKey));
        Case { allowed: Some(vec!["203.0.113.8"]), ..a_key() }.gets(Some(Denial::IpNotAllowed));
        Case { allowed: Some(vec!["203.0.113.0/24"]), ..a_key() }.gets(None);
        Case { suspended: true, ..a_key() }.gets(Some(Denial::AccountSuspended));
        Case { permission: Some("charges:read"), ..a_key() }.gets(Some(Denial::InsufficientPermissions));
        Case { permission: Some("charges:write"), ..a_key() }.gets(None);
    }

    #[test]
    fn the_first_rule_that_is_not_met_refuses() {
        let mut case = Case {
            environment: Environment::Sandbox,
            state: LifeState::Revoked,
            expires: Some(1),
            allowed: Some(vec!["10.0.0.1"]),
            suspended: true,
            permission: Some("charges:read"),
        };
        case.gets(Some(Denial::EnvironmentMismatch));
        case.environment = Environment::Production;
        case.gets(Some(Denial::RevokedApiKey));
        case.state = LifeState::Paused;
        case.gets(Some(Denial::ExpiredApiKey));
        case.expires = None;
        case.gets(Some(Denial::PausedApiKey));
        case.state = LifeState::Active;
        case.gets(Some(Denial::IpNotAllowed));
        case.allowed = None;
        case.gets(Some(Denial::AccountSuspended));
        case.suspended = false;
        case.gets(Some(Denial::InsufficientPermissions));
        case.permission = None;
        case.gets(None);
    }
}
