//! What would become of a request, and why: answered by the gate itself and by nothing that knows its rules a second time.
//!
//! The gate is asked with a witness that notes each rule that was met; the rule behind the last one is the one that refused.
//! This file only puts the notes into words. It asks as a node that has just heard from the store: whether one lags behind is
//! told by its `/readyz`, not here.

use std::net::IpAddr;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use hyper::{Method, Uri};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Keyring, KeyringError};
use crate::access::address::{ClientAddress, IpRestrictions, IpRule};
use crate::access::decide::{Permit, Rule, Witness, decide};
use crate::access::denial::Denial;
use crate::access::key::{AccountId, Environment, KeyId, LifeState};
use crate::access::path;
use crate::access::permission::Permissions;
use crate::access::secret::{Digest, PresentedSecret, hide_secrets};
use crate::access::time::Timestamp;
use crate::gate::{Gate, Head, HeadRule, HeadWitness, Refused};
use crate::index::{IndexReader, IndexWriter, new_index};
use crate::store::{AccountRow, KeyRow};

/// A request that nobody has sent yet.
#[derive(Debug)]
pub struct Question {
    pub method: Method,
    pub url: Url,
    pub from: ClientAddress,
    pub credential: Credential,
}

/// What the request comes with.
#[derive(Debug)]
pub enum Credential {
    /// The secret of this key, which nobody needs to know.
    Key(KeyId),
    Secret(BearerSecret),
}

/// A whole secret, as the field that a request brings it in; wiped when dropped.
pub struct BearerSecret {
    field: HeaderValue,
    digest: Digest,
    environment: Option<Environment>,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// `forwarded`, or the code of the refusal.
    pub decision: &'static str,
    /// Of the gateway's own reply; none if the upstream replies.
    pub status: Option<u16>,
    pub detail: String,
    pub method: String,
    pub url: String,
    pub client_address: Option<IpAddr>,
    /// Of the URL's host; none if no environment is served there.
    pub environment: Option<&'static str>,
    /// Where the request goes.
    pub upstream: Option<String>,
    pub key_id: Option<KeyId>,
    pub account: Option<AccountId>,
    /// In the order of the decision; the last one is the one that refused, if it is not met.
    pub steps: Vec<Step>,
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Step {
    pub rule: &'static str,
    pub met: bool,
    pub detail: String,
}

/// The URL of a request, without a fragment: no client sends one.
#[derive(Clone, Debug)]
pub struct Url {
    text: String,
    /// As the gate is shown it, or why no server may accept it.
    parsed: Result<Uri, &'static str>,
}

impl Url {
    /// # Errors
    /// A sentence that says what one looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "this is no URL: write one like https://api.martis.id/api/v1/payments/charges".to_owned();
        let text = text.split_once('#').map_or(text, |(text, _)| text);
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(wrong)?;
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() {
            return Err(wrong());
        }
        let parsed = match (text.parse::<Uri>(), fault(target)) {
            (Ok(uri), _) => Ok(uri),
            (Err(_), Some(fault)) => Err(fault),
            (Err(_), None) => return Err(wrong()),
        };
        Ok(Self { text: text.to_owned(), parsed })
    }
}

/// What would be wrong with a target that no library parses.
fn fault(target: &str) -> Option<&'static str> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path::check(path.as_bytes()).err().map(path::PathFault::detail);
    path.or_else(|| (!path::query_is_plain(query.as_bytes())).then_some("The query has a character that is not visible ASCII."))
}

/// Parses a method, which is upper case in all that HTTP knows.
///
/// # Errors
/// A sentence that says what one looks like.
pub fn parse_method(text: &str) -> Result<Method, String> {
    let upper = text.bytes().all(|byte| !byte.is_ascii_lowercase());
    Method::from_bytes(text.as_bytes()).ok().filter(|_| upper).ok_or_else(|| "methods are upper case, such as GET or POST".to_owned())
}

impl BearerSecret {
    /// # Errors
    /// A sentence if no field of a request can hold it.
    pub fn new(secret: &[u8]) -> Result<Self, String> {
        let mut field = Zeroizing::new(Vec::with_capacity(b"Bearer ".len() + secret.len()));
        field.extend_from_slice(b"Bearer ");
        field.extend_from_slice(secret);
        let field = HeaderValue::from_maybe_shared(Bytes::from_owner(field)).map_err(|_| "a secret is one line of visible characters")?;
        let presented = PresentedSecret::new(secret);
        Ok(Self { field, digest: presented.digest(), environment: presented.environment() })
    }
}

impl std::fmt::Debug for BearerSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BearerSecret(..)")
    }
}

impl Keyring {
    /// Says what would become of a request. `gate` makes the gate that the configuration describes over the index that it is
    /// handed; `upstreams` are the names of the configured upstreams.
    ///
    /// # Errors
    /// A key that does not exist; a store that does not answer.
    pub async fn explain(
        &self,
        question: &Question,
        gate: impl FnOnce(IndexReader) -> Gate,
        upstreams: &[&str],
    ) -> Result<Explanation, KeyringError> {
        let revision = self.store().position().await?.revision;
        let key = match &question.credential {
            Credential::Key(id) => Some(self.store().key(*id).await?.ok_or_else(|| no_such_key(*id))?),
            Credential::Secret(secret) => self.store().key_with_digest(&secret.digest).await?,
        };
        let account = match &key {
            Some(key) => self.store().account(key.account).await?,
            None => None,
        };
        let now = self.clock().now();
        let gate = gate(index_of(key.as_ref(), account.as_ref(), revision, now));
        let case = Case { question, upstreams, key: key.as_ref(), account: account.as_ref(), revision };
        Ok(case.explain(&gate, now))
    }
}

/// What a node would hold in memory of this one key: a look-up in it finds what a look-up among all would.
fn index_of(key: Option<&KeyRow>, account: Option<&AccountRow>, revision: u64, now: Timestamp) -> IndexReader {
    let (mut writer, reader) = new_index(None);
    let mut load = IndexWriter::load(1);
    if let Some(account) = account {
        load.account(account.indexed());
    }
    if let Some(key) = key {
        load.key(key.indexed());
    }
    writer.swap(load, revision, now);
    reader
}

/// A rule of the decision table, whoever judges it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Row {
    Head(HeadRule),
    Key(Rule),
}

/// All rules, in the order in which they are judged, with the names that people and programs see.
const ROWS: [(Row, &str); 12] = [
    (Row::Head(HeadRule::Framing), "framing"),
    (Row::Head(HeadRule::Method), "method"),
    (Row::Head(HeadRule::Host), "host"),
    (Row::Head(HeadRule::Credential), "credential"),
    (Row::Head(HeadRule::Prefix), "prefix"),
    (Row::Head(HeadRule::Ready), "ready"),
    (Row::Key(Rule::Known), "known"),
    (Row::Key(Rule::Environment), "environment"),
    (Row::Key(Rule::Status), "status"),
    (Row::Key(Rule::Address), "ip_restrictions"),
    (Row::Key(Rule::Account), "account"),
    (Row::Key(Rule::Permission), "permissions"),
];

/// The notes of a decision.
#[derive(Default)]
struct Trail(Vec<Row>);

impl Witness for Trail {
    fn met(&mut self, rule: Rule) {
        self.0.push(Row::Key(rule));
    }
}

impl HeadWitness for Trail {
    fn met_by_head(&mut self, rule: HeadRule) {
        self.0.push(Row::Head(rule));
    }
}

/// A request and all that is known about it.
struct Case<'a> {
    question: &'a Question,
    upstreams: &'a [&'a str],
    key: Option<&'a KeyRow>,
    account: Option<&'a AccountRow>,
    revision: u64,
}

impl Case<'_> {
    fn explain(&self, gate: &Gate, now: Timestamp) -> Explanation {
        let uri = match &self.question.url.parsed {
            Ok(uri) => uri,
            Err(detail) => return self.misframed(detail),
        };
        let mut trail = Trail::default();
        let verdict = self.judge(gate, uri, now, &mut trail);
        let scene =
            Scene { case: self, uri, environment: uri.host().and_then(|host| gate.hosts.find(host)).map(|served| served.environment) };
        let mut steps: Vec<_> = trail.0.iter().map(|row| step(*row, true, scene.met(*row, gate))).collect();
        let mut answer = Explanation { environment: scene.environment.map(Environment::name), ..self.blank() };
        match verdict {
            Ok(permit) => {
                answer.upstream = self.upstreams.get(permit.upstream()).map(|name| (*name).to_owned());
                answer.key_id = Some(permit.holder().key);
                answer.account = Some(permit.holder().account);
                answer.detail = format!("The request goes to the upstream {}.", answer.upstream.as_deref().unwrap_or("of the host"));
            }
            Err(refused) => {
                answer.decision = refused.denial.code();
                answer.status = Some(refused.denial.status());
                answer.key_id = refused.holder.map(|holder| holder.key);
                answer.account = refused.holder.map(|holder| holder.account);
                answer.detail = scene.unmet(&refused);
                steps.extend(ROWS.get(steps.len()).map(|(row, _)| step(*row, false, answer.detail.clone())));
            }
        }
        Explanation { steps, ..answer }
    }

    fn judge<'g>(&self, gate: &'g Gate, uri: &Uri, now: Timestamp, trail: &mut Trail) -> Result<Permit, Refused<'g>> {
        let mut headers = HeaderMap::new();
        if let Credential::Secret(secret) = &self.question.credential {
            headers.insert(AUTHORIZATION, secret.field.clone());
        }
        let head = Head { method: &self.question.method, uri, headers: &headers, protocol: None, guarded: false, peer: self.question.from };
        match (&self.question.credential, self.key) {
            (Credential::Key(_), Some(key)) => {
                let ask = gate.admit(&head, self.question.from, now, trail)?;
                // There is no secret to look at: that it is sent, once, in the right field, is what was asked about. Its prefix is
                // that of the key's environment.
                trail.met_by_head(HeadRule::Credential);
                if key.environment != ask.environment {
                    return Err(Denial::EnvironmentMismatch.into());
                }
                [HeadRule::Prefix, HeadRule::Ready].into_iter().for_each(|rule| trail.met_by_head(rule));
                Ok(gate.index.look_up(&key.digest, |record| decide(&ask, record, trail))?)
            }
            _ => gate.judge(&head, now, trail).verdict,
        }
    }

    fn misframed(&self, detail: &str) -> Explanation {
        let denial = Denial::BadRequest;
        Explanation {
            decision: denial.code(),
            status: Some(denial.status()),
            detail: detail.to_owned(),
            steps: vec![step(Row::Head(HeadRule::Framing), false, detail.to_owned())],
            ..self.blank()
        }
    }

    fn blank(&self) -> Explanation {
        Explanation {
            decision: "forwarded",
            status: None,
            detail: String::new(),
            method: self.question.method.to_string(),
            // People paste what a log or a client shows them.
            url: hide_secrets(&self.question.url.text).into_owned(),
            client_address: self.question.from.known(),
            environment: None,
            upstream: None,
            key_id: None,
            account: None,
            steps: Vec::new(),
        }
    }
}

fn step(row: Row, met: bool, detail: String) -> Step {
    let rule = ROWS.iter().find(|(other, _)| *other == row).map_or("", |(_, name)| name);
    Step { rule, met, detail }
}

/// A case whose URL could be read: what there is to say about each rule.
struct Scene<'a> {
    case: &'a Case<'a>,
    uri: &'a Uri,
    environment: Option<Environment>,
}

impl Scene<'_> {
    /// Of a rule that was met.
    fn met(&self, row: Row, gate: &Gate) -> String {
        match row {
            Row::Head(rule) => self.met_by_head(rule),
            Row::Key(rule) => self.case.key.map_or_else(String::new, |key| self.met_by_key(rule, key, gate)),
        }
    }

    fn met_by_head(&self, rule: HeadRule) -> String {
        match rule {
            HeadRule::Framing => "The target and the Host are well formed.".to_owned(),
            HeadRule::Method => format!("{} is served.", self.case.question.method),
            HeadRule::Host => format!("{} is {}.", self.host(), self.environment()),
            HeadRule::Credential => match &self.case.question.credential {
                Credential::Key(id) => format!("Taken for granted: the secret of {id} is sent as the one Bearer value."),
                Credential::Secret(_) => "The secret is the one Bearer value.".to_owned(),
            },
            HeadRule::Prefix => match &self.case.question.credential {
                Credential::Secret(BearerSecret { environment: None, .. }) => "The prefix is not that of another environment.".to_owned(),
                _ => format!("The secret begins with {}.", self.environment.map_or("its prefix", Environment::prefix)),
            },
            HeadRule::Ready => format!("A node that follows the store decides by revision {}.", self.case.revision),
        }
    }

    fn met_by_key(&self, rule: Rule, key: &KeyRow, gate: &Gate) -> String {
        match rule {
            Rule::Known => format!("It is the key {}, \"{}\", {}, of the account {}.", key.id, key.name, key.hint, self.account()),
            Rule::Environment => format!("The key is for {}.", key.environment),
            Rule::Status => match key.expires_at {
                Some(end) => format!("The key is active and expires at {end}."),
                None => "The key is active and does not expire.".to_owned(),
            },
            Rule::Address => match matching(&key.ip_restrictions, self.case.question.from) {
                Some(rule) => format!("The IP restrictions list {rule}."),
                None => "The IP restrictions are off.".to_owned(),
            },
            Rule::Account => format!("The account {} is not suspended.", self.account()),
            Rule::Permission => {
                let (method, path) = (self.case.question.method.as_str(), self.uri.path());
                match (&key.permissions, gate.routes.permission(method, path)) {
                    (Permissions::Full, _) => "The key has full access.".to_owned(),
                    (_, Some(needed)) => format!("{method} {path} needs {needed}, which the key has."),
                    (_, None) => String::new(),
                }
            }
        }
    }

    /// Of the refusal.
    fn unmet(&self, refused: &Refused<'_>) -> String {
        let said = refused.detail.unwrap_or_else(|| refused.denial.detail());
        match (refused.denial, self.case.key) {
            (Denial::UnknownHost, _) => format!("No environment is served under {}.", self.host()),
            (Denial::InvalidApiKey, _) => "No key has this secret.".to_owned(),
            (Denial::EnvironmentMismatch, Some(key)) => self.mismatch(key.environment),
            (Denial::EnvironmentMismatch, None) => match &self.case.question.credential {
                Credential::Secret(BearerSecret { environment: Some(environment), .. }) => self.mismatch(*environment),
                _ => said.to_owned(),
            },
            (Denial::RevokedApiKey, Some(KeyRow { state: LifeState::Revoked, revoked_at: Some(at), .. })) => {
                format!("The key was revoked at {at}.")
            }
            (Denial::ExpiredApiKey, Some(KeyRow { expires_at: Some(end), .. })) => format!("The key expired at {end}."),
            (Denial::IpNotAllowed, Some(key)) => self.unlisted(&key.ip_restrictions),
            (Denial::AccountSuspended, _) => format!("The account {} is suspended.", self.account()),
            (Denial::InsufficientPermissions, Some(key)) => self.lacking(refused, &key.permissions),
            _ => said.to_owned(),
        }
    }

    fn mismatch(&self, of_the_key: Environment) -> String {
        format!("The key is for {of_the_key}, {} is {}.", self.host(), self.environment())
    }

    fn unlisted(&self, restrictions: &IpRestrictions) -> String {
        let list: Vec<_> = restrictions.allowed().iter().map(ToString::to_string).collect();
        match self.case.question.from.known() {
            Some(_) if list.is_empty() => "The IP restrictions are on and list nothing.".to_owned(),
            Some(client) => format!("{client} is not among the addresses that the IP restrictions list: {}.", list.join(", ")),
            None => "The client address is not known, and the IP restrictions are on.".to_owned(),
        }
    }

    fn lacking(&self, refused: &Refused<'_>, permissions: &Permissions) -> String {
        let (method, path) = (&self.case.question.method, self.uri.path());
        match refused.needed {
            Some(needed) => format!("{method} {path} needs {needed}; the key has {permissions}."),
            None => format!("No permission names {method} {path}: only keys with full access pass there, and the key has {permissions}."),
        }
    }

    fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    fn environment(&self) -> &'static str {
        self.environment.map_or("no environment", Environment::name)
    }

    fn account(&self) -> &str {
        self.case.account.map_or("that it belongs to", |account| account.name.as_str())
    }
}

/// The entry that lets the client pass; none if none has to.
fn matching(restrictions: &IpRestrictions, client: ClientAddress) -> Option<IpRule> {
    let client = client.known()?;
    restrictions.allowed().iter().copied().find(|rule| restrictions.enabled() && rule.net().contains(&client))
}

fn no_such_key(id: KeyId) -> KeyringError {
    KeyringError::NotFound { what: "key", name: id.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_scheme_and_a_host_and_loses_its_fragment() {
        for text in ["https://api.martis.id", "http://api.martis.id:8080/a?b=c", "https://[2001:db8::1]/a#b"] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.text, text.trim_end_matches("#b"));
            assert!(url.parsed.is_ok(), "{text}");
        }
        for text in ["", "/a", "api.martis.id/a", "ftp://a/b", "https://", "https:///a", "https://a b/"] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_target_that_no_server_accepts_is_kept_with_its_fault() {
        assert!(Url::parse("https://a/b c").unwrap().parsed.unwrap_err().contains("path"));
        assert!(Url::parse("https://a/b?c d").unwrap().parsed.unwrap_err().contains("query"));
    }

    #[test]
    fn a_secret_is_neither_shown_nor_put_into_two_fields() {
        assert!(BearerSecret::new(b"sk_live_a\r\nx: y").is_err());
        assert_eq!(format!("{:?}", BearerSecret::new(b"sk_live_a").unwrap()), "BearerSecret(..)");
        let secret = BearerSecret::new(b"sk_live_a").unwrap();
        assert!(!format!("{:?}", Credential::Secret(secret)).contains("live"));
    }
}
