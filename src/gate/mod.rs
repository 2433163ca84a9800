//! From the parsed head of a request to a [`Permit`] or a refusal: rows 1 to 11 of the decision table, in their order.
//!
//! No I/O, no `async`, no lock but the index's own, no allocation. Rows 1 to 6 are judged here from the head alone; what needs
//! the key is judged by [`access::decide`](crate::access::decide), within the look-up. Deliberately absent: what HTTP/1 hides
//! from anybody who sees only parsed heads; that is refused before, by `proxy::http1_guard`.

pub mod client_ip;
mod credential;
mod framing;
mod host;
pub mod reply;

use hyper::{HeaderMap, Method, Uri};

pub use self::client_ip::ClientAddressRules;
pub use self::framing::{HeadLimits, Violation};
pub use self::host::{HostTable, Served};
use crate::access::address::ClientAddress;
use crate::access::decide::{Ask, Holder, Permit, Refusal, Witness, decide};
use crate::access::denial::Denial;
use crate::access::key::Environment;
use crate::access::permission::PermissionName;
use crate::access::route::RouteTable;
use crate::access::time::Timestamp;
use crate::index::IndexReader;

/// The head of a request, borrowed from its parsed form.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    /// The `:protocol` of an extended CONNECT (RFC 8441).
    pub protocol: Option<&'a str>,
    /// Whether it came over HTTP/1, and so past the guard, which has judged fields and sizes already.
    pub guarded: bool,
    /// Who is at the other end of the connection; a PROXY header has been taken into account.
    pub peer: ClientAddress,
}

/// What the gate found out, whatever it decided.
#[derive(Debug)]
pub struct Judgement<'r> {
    pub client: ClientAddress,
    /// The environment of the Host, if the Host is known.
    pub environment: Option<Environment>,
    pub verdict: Result<Permit, Refused<'r>>,
}

/// Why not, with what the reply says of it.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'r> {
    pub denial: Denial,
    pub holder: Option<Holder>,
    /// The permission that the key lacks, where a route names one.
    pub needed: Option<&'r PermissionName>,
    /// A sentence that is more exact than the denial's own.
    pub detail: Option<&'static str>,
}

impl From<Denial> for Refused<'_> {
    fn from(denial: Denial) -> Self {
        Self { denial, holder: None, needed: None, detail: None }
    }
}

impl From<Violation> for Refused<'_> {
    fn from(violation: Violation) -> Self {
        Self { denial: violation.denial, holder: None, needed: None, detail: Some(violation.detail) }
    }
}

impl<'r> From<Refusal<'r>> for Refused<'r> {
    fn from(refusal: Refusal<'r>) -> Self {
        Self { denial: refusal.denial, holder: refusal.holder, needed: refusal.needed, detail: None }
    }
}

/// The rows of the decision table that look at the head alone; the rest are [`crate::access::decide::Rule`]s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeadRule {
    Framing,
    Method,
    Host,
    Credential,
    Prefix,
    Ready,
}

/// Is told of each rule that a request met, so that a decision can be explained by the code that makes it.
pub trait HeadWitness: Witness {
    fn met_by_head(&mut self, rule: HeadRule);
}

impl HeadWitness for () {
    #[inline]
    fn met_by_head(&mut self, _: HeadRule) {}
}

/// Everything that a decision takes besides the request. One for each worker; all it shares is the index.
#[derive(Debug)]
pub struct Gate {
    pub hosts: HostTable,
    pub routes: RouteTable,
    pub addresses: ClientAddressRules,
    pub limits: HeadLimits,
    pub index: IndexReader,
}

impl Gate {
    /// Decides. The first row of the decision table that applies refuses.
    pub fn judge<'r>(&'r self, head: &Head<'_>, now: Timestamp, witness: &mut impl HeadWitness) -> Judgement<'r> {
        let client = self.addresses.client(head.peer, head.headers);
        let mut environment = None;
        let verdict = self.admit(head, client, now, witness).and_then(|ask| {
            environment = Some(ask.environment);
            self.ask_for_key(head, &ask, witness)
        });
        Judgement { client, environment, verdict }
    }

    /// Rows 1 to 3: the request is well framed, of a served method, and for a known host.
    ///
    /// # Errors
    /// The refusal of the first that it is not.
    pub fn admit<'h, 'r>(
        &'r self,
        head: &Head<'h>,
        client: ClientAddress,
        now: Timestamp,
        witness: &mut impl HeadWitness,
    ) -> Result<Ask<'h, 'r>, Refused<'r>> {
        let host = framing::check(head, &self.limits)?;
        witness.met_by_head(HeadRule::Framing);

        let method = match *head.method {
            Method::TRACE => return Err(Denial::MethodNotAllowed.into()),
            // RFC 8441: a WebSocket's CONNECT asks for what a GET asks for.
            Method::CONNECT if head.protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket")) => "GET",
            Method::CONNECT => return Err(Denial::MethodNotAllowed.into()),
            ref method => method.as_str(),
        };
        witness.met_by_head(HeadRule::Method);

        let served = self.hosts.find(host).ok_or(Denial::UnknownHost)?;
        witness.met_by_head(HeadRule::Host);

        let (environment, upstream) = (served.environment, served.upstream);
        Ok(Ask { environment, upstream, client, method, path: head.uri.path(), routes: &self.routes, now })
    }

    /// Rows 4 to 11: there is one credential, of this environment, and its key may pass.
    fn ask_for_key<'r>(&self, head: &Head<'_>, ask: &Ask<'_, 'r>, witness: &mut impl HeadWitness) -> Result<Permit, Refused<'r>> {
        let secret = credential::presented(head.headers)?;
        witness.met_by_head(HeadRule::Credential);

        let prefix = secret.environment();
        if prefix.is_some_and(|prefix| prefix != ask.environment) {
            return Err(Denial::EnvironmentMismatch.into());
        }
        witness.met_by_head(HeadRule::Prefix);

        if !self.index.may_serve(ask.now) {
            return Err(Denial::GatewayNotReady.into());
        }
        witness.met_by_head(HeadRule::Ready);

        // What has no prefix is looked up all the same: it must take no less time than a secret that is nobody's.
        let decision = self.index.look_up(&secret.digest(), |found| decide(ask, found.filter(|_| prefix.is_some()), witness));
        Ok(decision?)
    }
}
