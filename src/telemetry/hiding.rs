//! Finds secrets in what goes into a log, so that their hints are written in their place.
//!
//! Stricter than [`crate::access::secret::hide_secrets`], because these texts are chosen by clients: a secret is recognised
//! with any of its characters percent-encoded, however often, and one of another make may consist of more than letters and
//! digits.

use std::borrow::Cow;

use zeroize::Zeroizing;

use crate::access::key::Environment;
use crate::access::secret::Hint;

/// The text with everything that looks like a secret cut down to its hint.
pub(super) fn hide(text: &[u8]) -> Cow<'_, [u8]> {
    let mut shown = Vec::new();
    let mut rest = text;
    while let Some((before, hint, behind)) = split_at_secret(rest) {
        shown.extend_from_slice(before);
        shown.extend_from_slice(hint.as_str().as_bytes());
        rest = behind;
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.extend_from_slice(rest);
    Cow::Owned(shown)
}

/// The text before the first thing that looks like a secret, the hint of that, and the text behind it.
/// Allocates only if there is one.
pub(super) fn split_at_secret(text: &[u8]) -> Option<(&[u8], Hint, &[u8])> {
    if !may_hold_secret(text) {
        return None;
    }
    memchr::memchr2_iter(b's', b'%', text).find_map(|at| {
        let (before, from) = text.split_at(at);
        let environment = prefix_of(from)?;
        let (secret, behind) = decode_secret(from);
        // A bare prefix is none, nor is a hint: it has `…` behind the prefix.
        let is_secret = secret.len() > environment.prefix().len();
        is_secret.then(|| (before, Hint::of(environment, &secret), behind))
    })
}

/// A quick look that spares nearly every text the slow one.
fn may_hold_secret(text: &[u8]) -> bool {
    let ends_with_sk = |at| text.split_at(at).0.ends_with(b"sk");
    memchr::memchr(b'%', text).is_some() || memchr::memchr_iter(b'_', text).any(ends_with_sk)
}

/// The text up to where a secret would end, decoded, and the text behind it.
fn decode_secret(text: &[u8]) -> (Zeroizing<Vec<u8>>, &[u8]) {
    // Room for all of it: growing would leave a copy behind that nobody wipes.
    let mut secret = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let Some((byte, behind)) = decode_first(rest).filter(|_| !ends_secret(rest)) {
        secret.push(byte);
        rest = behind;
    }
    (secret, rest)
}

/// The environment whose prefix the text begins with.
fn prefix_of(text: &[u8]) -> Option<Environment> {
    Environment::ALL.into_iter().find(|environment| {
        let behind = environment
            .prefix()
            .bytes()
            .try_fold(text, |rest, expected| decode_first(rest).filter(|(byte, _)| *byte == expected).map(|(_, behind)| behind));
        behind.is_some()
    })
}

/// Whether the text begins with a byte that stands between a secret and what follows it. An encoded one does not count: it is
/// part of a segment, so perhaps of a secret.
fn ends_secret(text: &[u8]) -> bool {
    text.first().is_none_or(|byte| matches!(byte, b'/' | b'?' | b'#' | b'&' | b';' | b',' | b'"' | b'\'' | b'<' | b'>' | 0..=b' ' | 127..))
}

/// The first byte, percent-decoded as often as it was encoded (`%5F`, `%255F`), and the text behind it.
fn decode_first(text: &[u8]) -> Option<(u8, &[u8])> {
    let (&first, behind) = text.split_first()?;
    let mut code = behind;
    while let [b'2', b'5', inner @ ..] = code
        && decode_hex(inner).is_some()
    {
        code = inner;
    }
    Some(decode_hex(code).filter(|_| first == b'%').unwrap_or((first, behind)))
}

fn decode_hex(text: &[u8]) -> Option<(u8, &[u8])> {
    let [high, low, behind @ ..] = text else { return None };
    let digit = |character: &u8| char::from(*character).to_digit(16);
    let byte = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
    Some((byte, behind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(String::from_utf8_lossy(&hide(text.as_bytes())), expected);
    }

    fn body() -> String {
        "x".repeat(34)
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let body = body();
        check(&format!("/a/sk_live_{body}wxyz/b?sk_test_{body}abcd"), "/a/sk_live_…wxyz/b?sk_test_…abcd");
        check("/sk_test_short", "/sk_test_…");
        check("Some(\"sk_live_short\")", "Some(\"sk_live_…\")");
    }

    #[test]
    fn a_secret_of_another_make_is_hidden_as_a_whole() {
        check(&format!("/sk_live_{}-_.~+=%2Fabcdwxyz/b", body()), "/sk_live_…wxyz/b");
    }

    #[test]
    fn percent_encoding_lets_no_secret_through() {
        for prefix in ["sk%5Flive_", "sk_live%5f", "%73k_live_", "sk%255Flive%25255f", "%73%6B%5F%6c%69%76%65%5F"] {
            check(&format!("/{prefix}{}wxy%7a", body()), "/sk_live_…wxyz");
        }
    }

    #[test]
    fn what_is_no_secret_stays_as_it_is() {
        for text in ["", "/100%/%zz/%5", "/%25/%252", "task_live", "/sk_live_/sk_test_", "sk_live_…wxyz", "sk_test_…"] {
            check(text, text);
        }
    }

    proptest! {
        #[test]
        fn hiding_twice_changes_nothing_more(text in "(sk_live_|sk_test_|[a-z0-9%/_]|…|é){0,12}") {
            let once = hide(text.as_bytes());
            prop_assert_eq!(&hide(&once), &once);
        }

        #[test]
        fn no_secret_is_left_whatever_stands_around_it(before in ".{0,20}", behind in ".{0,20}") {
            let text = format!("{before}sk_live_{}{behind}", body());
            prop_assert!(!hide(text.as_bytes()).windows(5).any(|window| window == b"xxxxx"));
        }

        #[test]
        fn any_bytes_are_searched_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            hide(&bytes);
        }
    }
}
