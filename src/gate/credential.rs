//! The one credential of a request: `Authorization: Bearer …` (RFC 6750, section 2.1) and nothing else.

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

use crate::access::denial::Denial;
use crate::access::secret::PresentedSecret;

/// Rows 4 and 5.
///
/// # Errors
/// `InvalidRequest` for several fields or several values, `MissingApiKey` for none.
pub(super) fn presented(headers: &HeaderMap) -> Result<PresentedSecret<'_>, Denial> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let field = fields.next().ok_or(Denial::MissingApiKey)?;
    if fields.next().is_some() {
        return Err(Denial::InvalidRequest);
    }
    let (scheme, rest) = field.as_bytes().split_at_checked("Bearer ".len()).ok_or(Denial::MissingApiKey)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(Denial::MissingApiKey);
    }
    let secret = trim(rest);
    if secret.contains(&b',') {
        return Err(Denial::InvalidRequest);
    }
    if secret.is_empty() { Err(Denial::MissingApiKey) } else { Ok(PresentedSecret::new(secret)) }
}

/// Without spaces and tabs at either end.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::secret::Digest;
    use hyper::header::HeaderValue;

    #[track_caller]
    fn check(fields: &[&str], expected: Result<&str, Denial>) {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(AUTHORIZATION, HeaderValue::from_str(field).unwrap());
        }
        let found = presented(&headers).map(|secret| secret.digest());
        assert_eq!(found, expected.map(|secret| Digest::of(secret.as_bytes())), "{fields:?}");
    }

    #[test]
    fn the_scheme_is_read_without_case_and_the_secret_without_the_space_around_it() {
        check(&["Bearer sk_x"], Ok("sk_x"));
        check(&["bEARER   sk_x"], Ok("sk_x"));
        check(&["Bearer \t sk_x \t"], Ok("sk_x"));
        check(&["Bearer sk x"], Ok("sk x"));
    }

    #[test]
    fn nothing_to_look_up_is_a_missing_key() {
        for field in ["", "Bearer", "Bearer ", "Bearer  \t ", "Basic c2s6", "Bearersk_x", "Bearer\tsk_x", "sk_live_x", "Token sk_x"] {
            check(&[field], Err(Denial::MissingApiKey));
        }
        check(&[], Err(Denial::MissingApiKey));
    }

    #[test]
    fn two_credentials_are_no_credential() {
        check(&["Bearer sk_x", "Bearer sk_x"], Err(Denial::InvalidRequest));
        check(&["Bearer sk_x", "Basic c2s6"], Err(Denial::InvalidRequest));
        check(&["Bearer sk_x, Bearer sk_y"], Err(Denial::InvalidRequest));
        check(&["Bearer ,"], Err(Denial::InvalidRequest));
    }
}
