//! One line: what it may say, and the key that it gives.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};

use crate::access::address::IpRestrictions;
use crate::access::key::{AccountId, Environment, KeyId, LifeState};
use crate::access::permission::PermissionName;
use crate::access::secret::{Digest, Hint, LONGEST, PresentedSecret, hide_secrets};
use crate::access::time::Timestamp;
use crate::keyring::actor::Actor;
use crate::keyring::check::{self, Problems};
use crate::keyring::list::no_account;
use crate::keyring::view::IpRestrictionsView;
use crate::keyring::{Keyring, KeyringError};
use crate::store::KeyRow;

/// What a secret must have behind its prefix, in characters: a shorter one can be guessed, and a prefix alone is none.
const SHORTEST_REST: usize = 16;

/// The fields that a line may have. Every one that an export writes is among them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object of fields")]
struct RawLine<'a> {
    #[serde(borrow)]
    secret: Option<SecretText<'a>>,
    digest: Option<String>,
    id: Option<String>,
    account: Option<String>,
    account_name: Option<String>,
    name: Option<String>,
    environment: Option<String>,
    hint: Option<String>,
    status: Option<String>,
    permissions: Option<PermissionsText>,
    ip_restrictions: Option<IpRestrictionsView>,
    created_at: Option<String>,
    created_by: Option<String>,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    replaces: Option<String>,
    replaced_by: Option<String>,
    #[serde(rename = "last_used")]
    _last_used: Option<IgnoredAny>,
}

/// A line as it was read, the secret hashed.
pub(super) struct Parsed {
    digest: Result<Hashed, Vec<(&'static str, String)>>,
    raw: RawLine<'static>,
}

struct Hashed {
    digest: Digest,
    /// Those of the secret, if it was one.
    of_secret: Option<(Environment, Hint)>,
}

/// A key to import. Its id is made up if the line has none.
pub(super) struct Given {
    pub(super) id: Option<KeyId>,
    pub(super) row: KeyRow,
}

/// Reads a line and hashes its secret, which ends here.
pub(super) fn parse(text: &[u8]) -> Result<Parsed, Vec<String>> {
    let mut raw: RawLine<'_> = serde_json::from_slice(text).map_err(|error| vec![without_values(&error)])?;
    let secret = raw.secret.take();
    let digest = match (&secret, &raw.digest) {
        (Some(SecretText(secret)), None) => hash(secret).map_err(|detail| vec![("secret", detail)]),
        (None, Some(digest)) => {
            let parsed = Digest::parse_hex(digest).map(|digest| Hashed { digest, of_secret: None });
            parsed.map_err(|detail| vec![("digest", detail)])
        }
        (Some(_), Some(_)) => Err(vec![("secret", "give either the secret or its digest".to_owned())]),
        (None, None) => Err(vec![("digest", "missing: give the digest, or the secret itself".to_owned())]),
    };
    let raw = RawLine { secret: None, ..raw };
    Ok(Parsed { digest, raw })
}

/// Turns what lines say into keys; remembers accounts, of which there are fewer than lines.
pub(super) struct Checker<'a> {
    keyring: &'a Keyring,
    created_by: String,
    now: Timestamp,
    accounts: HashMap<String, Option<AccountId>>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(keyring: &'a Keyring, actor: &Actor) -> Self {
        Self { keyring, created_by: actor.to_string(), now: keyring.clock().now(), accounts: HashMap::new() }
    }

    /// The key that a line gives, or all that is wrong with it.
    pub(super) async fn check(&mut self, parsed: Parsed) -> Result<Result<Given, Vec<String>>, KeyringError> {
        let account = match (&parsed.raw.account, &parsed.raw.account_name) {
            (None, None) => Err("missing: give the name or the id of an account".to_owned()),
            (given, named) => self.account(given.as_deref(), named.as_deref()).await?,
        };
        let mut problems = Problems::default();
        let given = self.key(parsed, account, &mut problems);
        let details: Vec<String> = problems.into_vec().iter().map(ToString::to_string).collect();
        Ok(given.filter(|_| details.is_empty()).ok_or(details))
    }

    /// The account of this name or id; if there is none, the one that `account_name` names.
    async fn account(&mut self, given: Option<&str>, named: Option<&str>) -> Result<Result<AccountId, String>, KeyringError> {
        for text in [given, named].into_iter().flatten() {
            let found = match self.accounts.get(text) {
                Some(found) => *found,
                None => {
                    let found = self.keyring.find_account(text).await?.map(|account| account.id);
                    self.accounts.insert(text.to_owned(), found);
                    found
                }
            };
            if let Some(found) = found {
                return Ok(Ok(found));
            }
        }
        Ok(Err(format!("{}: make it first", no_account(given.or(named).unwrap_or_default()))))
    }

    /// None if something is wrong, which is noted then.
    fn key(&self, parsed: Parsed, account: Result<AccountId, String>, problems: &mut Problems) -> Option<Given> {
        let Parsed { digest, raw } = parsed;
        let digest = digest.map_err(|wrong| wrong.into_iter().for_each(|(field, detail)| problems.add(field, detail))).ok();
        let account = problems.take("account", account);
        let name = raw.name.as_deref().ok_or_else(|| "missing".to_owned()).and_then(check::name);
        let name = problems.take("name", name);
        let environment = problems.take("environment", environment(raw.environment.as_deref(), digest.as_ref()));
        let hint = environment.and_then(|environment| problems.take("hint", hint(raw.hint.as_deref(), environment, digest.as_ref())));
        let asked = match &raw.permissions {
            None | Some(PermissionsText::Full) => None,
            Some(PermissionsText::List(names)) => Some(names.as_slice()),
        };
        let permissions = problems.permissions(asked, self.known());
        let ip_restrictions = match &raw.ip_restrictions {
            Some(asked) => problems.ip_restrictions(asked),
            None => Some(IpRestrictions::default()),
        };
        let created_at = problems.take("created_at", past(raw.created_at.as_deref(), self.now));
        let expires_at = problems.take("expires_at", raw.expires_at.as_deref().map(Timestamp::parse_rfc3339).transpose());
        let state = problems.take("status", state(raw.status.as_deref(), expires_at, self.now));
        let revoked_at = problems.take("revoked_at", past(raw.revoked_at.as_deref(), self.now));
        let created_by = raw.created_by.as_deref().map_or_else(|| Ok(self.created_by.clone()), check::maker);
        let created_by = problems.take("created_by", created_by);
        let [id, replaces, replaced_by] = [("id", &raw.id), ("replaces", &raw.replaces), ("replaced_by", &raw.replaced_by)]
            .map(|(field, text)| problems.take(field, text.as_deref().map(KeyId::parse).transpose()));
        let id = id?;
        let row = KeyRow {
            id: id.unwrap_or_else(|| KeyId::from_bytes([0; 16])),
            digest: digest?.digest,
            account: account?,
            name: name?,
            environment: environment?,
            hint: hint?,
            permissions: permissions?,
            ip_restrictions: ip_restrictions?,
            created_at: created_at?,
            created_by: created_by?,
            expires_at: expires_at?,
            state: state?,
            revoked_at: revoked_at.filter(|_| state == Some(LifeState::Revoked)),
            replaces: replaces?,
            replaced_by: replaced_by?,
            revision: 0,
        };
        Some(Given { id, row })
    }

    fn known(&self) -> &[PermissionName] {
        &self.keyring.permissions
    }
}

fn hash(secret: &str) -> Result<Hashed, String> {
    let presented = PresentedSecret::new(secret.as_bytes());
    let sendable = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    match presented.environment() {
        None => Err(format!("a secret begins with `sk_live_` or `sk_test_` and has at most {LONGEST} characters")),
        Some(_) if !secret.bytes().all(sendable) => Err("a secret has visible ASCII characters only, and no comma".to_owned()),
        Some(environment) if secret.len() < environment.prefix().len() + SHORTEST_REST => {
            Err(format!("a secret has at least {SHORTEST_REST} characters behind `{}`", environment.prefix()))
        }
        Some(environment) => {
            let of_secret = Some((environment, Hint::of(environment, secret.as_bytes())));
            Ok(Hashed { digest: presented.digest(), of_secret })
        }
    }
}

fn environment(given: Option<&str>, hashed: Option<&Hashed>) -> Result<Environment, String> {
    let of_secret = hashed.and_then(|hashed| hashed.of_secret.as_ref()).map(|(environment, _)| *environment);
    match (given.map(check::environment).transpose()?, of_secret) {
        (Some(given), Some(of_secret)) if given != of_secret => Err(format!("the secret is one of {of_secret}")),
        (Some(environment), _) | (None, Some(environment)) => Ok(environment),
        (None, None) => Err("missing: `production` or `sandbox`".to_owned()),
    }
}

/// The hint of the secret, else the one that is given, else one that shows nothing.
fn hint(given: Option<&str>, environment: Environment, hashed: Option<&Hashed>) -> Result<Hint, String> {
    if let Some((_, hint)) = hashed.and_then(|hashed| hashed.of_secret.as_ref()) {
        return Ok(hint.clone());
    }
    let Some(given) = given else { return Ok(Hint::unknown(environment)) };
    let hint = Hint::parse(given)?;
    if given.starts_with(environment.prefix()) { Ok(hint) } else { Err(format!("of another environment than {environment}")) }
}

/// `expires_at` is None if it is wrong, and Some(None) if there is none.
fn state(status: Option<&str>, expires_at: Option<Option<Timestamp>>, now: Timestamp) -> Result<LifeState, String> {
    match status {
        None | Some("active") => Ok(LifeState::Active),
        Some("paused") => Ok(LifeState::Paused),
        Some("revoked") => Ok(LifeState::Revoked),
        Some("expired") => match expires_at {
            Some(None) => Err("`expired` needs `expires_at`".to_owned()),
            // Time alone ends a key: it would pass until then.
            Some(Some(end)) if end > now => Err(format!("`expired`, but `expires_at` is still to come: {end}")),
            Some(Some(_)) | None => Ok(LifeState::Active),
        },
        Some(other) => {
            let shown = hide_secrets(other);
            Err(format!("`{}` is no status: `active`, `paused`, `expired` or `revoked`", shown.escape_debug()))
        }
    }
}

/// A time that is not in the future; now if none is given.
fn past(text: Option<&str>, now: Timestamp) -> Result<Timestamp, String> {
    match text.map(Timestamp::parse_rfc3339).transpose()? {
        Some(time) if time > now => Err(format!("{time} is still to come")),
        given => Ok(given.unwrap_or(now)),
    }
}

/// What is wrong with the JSON, without what it holds: that may be a secret.
fn without_values(error: &serde_json::Error) -> String {
    if error.is_syntax() || error.is_eof() {
        return format!("no JSON object: look at column {}", error.column());
    }
    let message = error.to_string();
    let kind = ["invalid type", "invalid value", "invalid length"].into_iter().find(|kind| message.starts_with(kind));
    let expected = message.rfind(", expected ").and_then(|at| message.get(at..));
    match (kind, expected) {
        (Some(kind), Some(expected)) => format!("{kind}{expected}"),
        _ => hide_secrets(&message).into_owned(),
    }
}

/// A secret, borrowed from the line: nothing is copied that somebody would have to wipe.
struct SecretText<'a>(&'a str);

impl<'de: 'a, 'a> Deserialize<'de> for SecretText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;

        impl<'de> Visitor<'de> for Borrowed {
            type Value = SecretText<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret as text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(SecretText(text))
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
                Err(E::custom("secret: write it without backslashes"))
            }
        }

        deserializer.deserialize_str(Borrowed)
    }
}

/// `"full"`, or a list of names.
enum PermissionsText {
    Full,
    List(Vec<String>),
}

impl<'de> Deserialize<'de> for PermissionsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FullOrList;

        impl<'de> Visitor<'de> for FullOrList {
            type Value = PermissionsText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"full\" or a list of permissions")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                if text == "full" { Ok(PermissionsText::Full) } else { Err(E::invalid_type(serde::de::Unexpected::Other("text"), &self)) }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(PermissionsText::List(names))
            }
        }

        deserializer.deserialize_any(FullOrList)
    }
}
