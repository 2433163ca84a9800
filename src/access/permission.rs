//! Permissions: names of the form `resource:action`, and what a key has of them.

use std::fmt;

/// A name such as `payments.charges:write`: of `a-z 0-9 . _ -`, one colon inside, at most 100 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PermissionName(Box<str>);

impl PermissionName {
    /// # Errors
    /// A sentence that says what one looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let part = |part: &str| !part.is_empty() && part.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        let valid = text.len() <= 100 && text.split_once(':').is_some_and(|(resource, action)| part(resource) && part(action));
        valid.then(|| Self(text.into())).ok_or_else(|| {
            format!(
                "`{}` is no permission: one is `resource:action` of a-z, 0-9, `.`, `_` and `-`, such as `payments.charges:write`",
                super::secret::hide_secrets(text).escape_debug()
            )
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PermissionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PermissionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a key may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Permissions {
    Full,
    /// Only the routes that these name.
    List(PermissionList),
}

/// At least one name; sorted, none twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PermissionList(Box<[PermissionName]>);

impl Permissions {
    /// A list of names in any order; no names at all is [`Permissions::Full`] nowhere, so it is none here either.
    pub fn list(mut names: Vec<PermissionName>) -> Option<Self> {
        names.sort();
        names.dedup();
        (!names.is_empty()).then(|| Self::List(PermissionList(names.into())))
    }

    /// The names, if this is a list.
    pub fn names(&self) -> Option<&[PermissionName]> {
        match self {
            Self::Full => None,
            Self::List(list) => Some(&list.0),
        }
    }

    /// Whether a route that needs `needed` is open. A route that no permission names is open to full access alone.
    pub fn allow(&self, needed: Option<&PermissionName>) -> bool {
        match self {
            Self::Full => true,
            Self::List(list) => needed.is_some_and(|needed| list.0.binary_search(needed).is_ok()),
        }
    }
}

impl fmt::Display for Permissions {
    /// `full`, or the names, sorted, separated by one space: the form that upstreams are sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(names) = self.names() else { return f.write_str("full") };
        for (place, name) in names.iter().enumerate() {
            if place > 0 {
                f.write_str(" ")?;
            }
            f.write_str(name.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PermissionName {
        PermissionName::parse(text).unwrap()
    }

    #[test]
    fn names_have_a_resource_and_an_action() {
        for good in ["payments.charges:write", "a:b", "x-1_2.y:read-all"] {
            assert_eq!(name(good).as_str(), good);
        }
        for bad in ["", "a", ":", "a:", ":b", "a:b:c", "A:b", "a b:c", "a:*", &format!("a:{}", "b".repeat(99))] {
            assert!(PermissionName::parse(bad).unwrap_err().contains("resource:action"), "{bad}");
        }
    }

    #[test]
    fn a_list_is_shown_sorted_and_without_repeats() {
        let list = Permissions::list(vec![name("b:write"), name("a:read"), name("b:write")]).unwrap();
        assert_eq!(list.to_string(), "a:read b:write");
        assert_eq!(Permissions::Full.to_string(), "full");
        assert_eq!(Permissions::list(vec![]), None);
    }

    #[test]
    fn a_list_opens_what_it_names_and_nothing_that_no_permission_names() {
        let list = Permissions::list(vec![name("a:read")]).unwrap();
        assert!(list.allow(Some(&name("a:read"))));
        assert!(!list.allow(Some(&name("a:write"))));
        assert!(!list.allow(None));
        assert!(Permissions::Full.allow(None));
    }
}
