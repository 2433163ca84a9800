//! What people and programs write, checked field by field: all that is wrong is collected, nothing stops at the first.

use super::error::{FieldProblem, KeyringError};
use super::view::IpRestrictionsView;
use crate::access::address::IpRestrictions;
use crate::access::key::{AccountId, Environment};
use crate::access::permission::{PermissionName, Permissions};
use crate::access::secret::hide_secrets;
use crate::access::time::Timestamp;

/// The longest name of a key or an account, in characters.
const LONGEST_NAME: usize = 100;
/// Of what an import says of somebody who made a key elsewhere.
const LONGEST_MAKER: usize = 400;

/// What was found wrong so far.
#[derive(Default)]
pub(super) struct Problems(Vec<FieldProblem>);

impl Problems {
    pub(super) fn add(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldProblem { field: field.into(), detail: detail.into() });
    }

    /// The value, or None and a note of what is wrong.
    pub(super) fn take<T>(&mut self, field: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|detail| self.add(field, detail)).ok()
    }

    pub(super) fn into_vec(self) -> Vec<FieldProblem> {
        self.0
    }

    /// Everything that was noted; for whoever misses a value, since then something was.
    pub(super) fn into_error(self) -> KeyringError {
        KeyringError::Invalid(self.0)
    }

    /// # Errors
    /// Everything that was noted, if anything was.
    pub(super) fn none(self) -> Result<(), KeyringError> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into_error()) }
    }

    pub(super) fn ip_restrictions(&mut self, asked: &IpRestrictionsView) -> Option<IpRestrictions> {
        let problems = match IpRestrictions::parse(asked.enabled, &asked.allowed) {
            Ok(restrictions) => return Some(restrictions),
            Err(problems) => problems,
        };
        for (place, detail) in problems {
            match place {
                Some(place) => self.add(format!("ip_restrictions.allowed[{place}]"), detail),
                None => self.add("ip_restrictions.allowed", detail),
            }
        }
        None
    }

    /// Full access if none are given; else names that the configuration knows.
    pub(super) fn permissions(&mut self, asked: Option<&[String]>, known: &[PermissionName]) -> Option<Permissions> {
        let Some(asked) = asked else { return Some(Permissions::Full) };
        let mut names = Vec::with_capacity(asked.len());
        for (place, text) in asked.iter().enumerate() {
            match PermissionName::parse(text).and_then(|name| named(name, known)) {
                Ok(name) => names.push(name),
                Err(detail) => self.add(format!("permissions[{place}]"), detail),
            }
        }
        if asked.is_empty() {
            self.add("permissions", "an empty list would allow nothing: name a permission, or leave the list out for full access");
        }
        (names.len() == asked.len()).then(|| Permissions::list(names)).flatten()
    }
}

/// A name of 1 to 100 characters, without the spaces around it.
pub(super) fn name(text: &str) -> Result<String, String> {
    short(text, LONGEST_NAME)
}

/// Who made a key, in whatever words.
pub(super) fn maker(text: &str) -> Result<String, String> {
    short(text, LONGEST_MAKER)
}

/// The name of an account: one that cannot be taken for an id, since either is accepted where an account is asked for.
pub(super) fn account_name(text: &str) -> Result<String, String> {
    let name = name(text)?;
    if name.starts_with(AccountId::PREFIX) {
        return Err(format!("the name of an account does not begin with `{}`, as ids do", AccountId::PREFIX));
    }
    Ok(name)
}

pub(super) fn environment(text: &str) -> Result<Environment, String> {
    text.parse()
}

/// A time that is still to come.
pub(super) fn future(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let time = Timestamp::parse_rfc3339(text)?;
    if time > now { Ok(time) } else { Err(format!("{time} is over: a key expires in the future or, without this, never")) }
}

fn short(text: &str, longest: usize) -> Result<String, String> {
    let text = text.trim();
    let length = text.chars().count();
    if length == 0 || length > longest {
        return Err(format!("this has {length} characters, where 1 to {longest} are right"));
    }
    if text.chars().any(char::is_control) {
        return Err("there are control characters in this".to_owned());
    }
    if hide_secrets(text) != text {
        return Err("this looks like a secret, which must not be written here".to_owned());
    }
    Ok(text.to_owned())
}

fn named(name: PermissionName, known: &[PermissionName]) -> Result<PermissionName, String> {
    if known.contains(&name) {
        return Ok(name);
    }
    let near = |known: &&PermissionName| strsim::damerau_levenshtein(known.as_str(), name.as_str()) <= 3;
    Err(match known.iter().find(near) {
        Some(near) => format!("the configuration names no permission `{name}`: did you mean `{near}`?"),
        None => format!("the configuration names no permission `{name}`: add it under [[permissions]]"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_have_one_to_a_hundred_characters() {
        assert_eq!(name("  Web shop \n").unwrap(), "Web shop");
        assert_eq!(name(&"ü".repeat(100)).unwrap().chars().count(), 100);
        for wrong in ["", "   ", &"a".repeat(101), "a\u{0}b", "a\nb", "\u{85}a\u{9b}"] {
            assert!(name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_secret_pasted_as_a_name_is_refused_and_not_repeated() {
        let refusal = name(&format!("sk_live_{}", "Z".repeat(38))).unwrap_err();
        assert!(!refusal.contains('Z'));
    }

    #[test]
    fn the_name_of_an_account_cannot_look_like_an_id() {
        assert!(account_name("acct_of_bob").is_err());
        assert!(account_name("Bob's account").is_ok());
    }

    #[test]
    fn a_permission_that_is_not_configured_is_refused_with_the_nearest_one() {
        let known = [PermissionName::parse("payments.charges:write").unwrap()];
        let mut problems = Problems::default();
        let asked = ["payments.charge:write", "nope", "users:read"].map(ToOwned::to_owned);
        assert_eq!(problems.permissions(Some(&asked), &known), None);
        let problems = problems.into_vec();
        assert!(problems[0].detail.contains("did you mean `payments.charges:write`?"));
        assert_eq!(
            problems.iter().map(|problem| problem.field.as_str()).collect::<Vec<_>>(),
            ["permissions[0]", "permissions[1]", "permissions[2]"]
        );
    }

    #[test]
    fn no_list_is_full_access_and_an_empty_list_is_refused() {
        let mut problems = Problems::default();
        assert_eq!(problems.permissions(None, &[]), Some(Permissions::Full));
        assert_eq!(problems.permissions(Some(&[]), &[]), None);
        assert!(problems.none().is_err());
    }

    #[test]
    fn an_expiry_lies_in_the_future() {
        let now = Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap();
        assert!(future("2026-11-22T12:00:00Z", now).is_err());
        assert!(future("2026-11-22T12:00:00.001Z", now).is_ok());
    }
}
