//! Paths: which are ambiguous and therefore refused, so that what is permitted is what is forwarded.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathFault {
    NotRooted,
    EmptySegment,
    DotSegment,
    EncodedSeparator,
    EncodedControl,
    BrokenEncoding,
    ForbiddenByte,
}

impl PathFault {
    pub const fn detail(self) -> &'static str {
        match self {
            Self::NotRooted => "The path must begin with a slash.",
            Self::EmptySegment => "The path has an empty segment (`//`).",
            Self::DotSegment => "The path has a segment `.` or `..`.",
            Self::EncodedSeparator => "The path has an encoded slash or backslash.",
            Self::EncodedControl => "The path has an encoded control character.",
            Self::BrokenEncoding => "The path has an incomplete percent-encoding.",
            Self::ForbiddenByte => "The path has a character that RFC 3986 does not allow there.",
        }
    }
}

/// Checks a path as it was sent, without its query (RFC 3986, section 3.3, and stricter: whatever two servers may read
/// differently is refused).
///
/// # Errors
/// The first fault from the left.
pub fn check(path: &[u8]) -> Result<(), PathFault> {
    if is_plain(path) {
        return Ok(());
    }
    let Some((b'/', rest)) = path.split_first() else { return Err(PathFault::NotRooted) };
    let mut segments = rest.split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err(PathFault::EmptySegment);
        }
        check_segment(segment)?;
    }
    Ok(())
}

/// Whether a path has nothing in it that could need a closer look, as most have not: every request passes here.
fn is_plain(path: &[u8]) -> bool {
    let mut before = b' ';
    path.first() == Some(&b'/')
        && path.iter().all(|&byte| {
            let fine = if byte == b'/' { before != b'/' } else { PLAIN.get(usize::from(byte)).is_some_and(|plain| *plain) };
            before = byte;
            fine
        })
}

/// Bytes that mean nothing but themselves wherever they stand in a path.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < plain.len() {
        plain[byte] = is_path_byte(byte as u8) && byte as u8 != b'.' && byte as u8 != b';';
        byte += 1;
    }
    plain
};

fn check_segment(segment: &[u8]) -> Result<(), PathFault> {
    // How many dots stand before the first `;`, as long as nothing else does.
    let mut dots = Some(0_u8);
    let mut parameters = false;
    let mut bytes = segment.iter();
    while let Some(&byte) = bytes.next() {
        let decoded = match byte {
            b'%' => decode(bytes.next(), bytes.next())?,
            _ if is_path_byte(byte) => byte,
            _ => return Err(PathFault::ForbiddenByte),
        };
        parameters = parameters || decoded == b';';
        if !parameters {
            dots = if decoded == b'.' { dots.map(|dots| dots.saturating_add(1)) } else { None };
        }
    }
    if matches!(dots, Some(1 | 2)) { Err(PathFault::DotSegment) } else { Ok(()) }
}

fn decode(high: Option<&u8>, low: Option<&u8>) -> Result<u8, PathFault> {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let (Some(high), Some(low)) = (digit(high), digit(low)) else { return Err(PathFault::BrokenEncoding) };
    match u8::try_from(high * 16 + low) {
        Ok(b'/' | b'\\') => Err(PathFault::EncodedSeparator),
        Ok(0..=0x1F | 0x7F) => Err(PathFault::EncodedControl),
        Ok(byte) => Ok(byte),
        Err(_) => Err(PathFault::BrokenEncoding),
    }
}

/// pchar of RFC 3986 but for percent-encodings.
const fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// A checked segment with its percent-encoded unreserved characters decoded once (RFC 3986, section 6.2.2.2), and the
/// other encodings in upper case, so that one resource has one name.
pub fn normalized(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let mut normal = String::with_capacity(segment.len());
    let mut characters = segment.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            normal.push(character);
            continue;
        }
        let digits: String = characters.by_ref().take(2).collect();
        match u8::from_str_radix(&digits, 16) {
            Ok(byte) if is_unreserved(byte) => normal.push(char::from(byte)),
            _ => {
                normal.push('%');
                normal.push_str(&digits.to_ascii_uppercase());
            }
        }
    }
    Cow::Owned(normal)
}

/// Whether a query, without its question mark, has only bytes that pass on as they are: visible ASCII but `#`.
pub fn query_is_plain(query: &[u8]) -> bool {
    query.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'#')
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathFault::*;

    #[test]
    fn plain_paths_pass() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/a/b.c/..d/...",
            "/a;v=1/b",
            "/a%20b/%C3%A4",
            "/%7Euser",
            "/a:b@c!$&'()*+,;=",
            "/.well-known/x",
            "/a/;",
            "/%252e%252e/x",
        ] {
            assert_eq!(check(path.as_bytes()), Ok(()), "{path}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        let table = [
            ("", NotRooted),
            ("*", NotRooted),
            ("a", NotRooted),
            ("//", EmptySegment),
            ("/a//b", EmptySegment),
            ("/.", DotSegment),
            ("/..", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/./b", DotSegment),
            ("/%2e", DotSegment),
            ("/%2E%2e/b", DotSegment),
            ("/.%2e/b", DotSegment),
            ("/..;/b", DotSegment),
            ("/.;x=1", DotSegment),
            ("/..%3bx/b", DotSegment),
            ("/a%2Fb", EncodedSeparator),
            ("/a%2fb", EncodedSeparator),
            ("/a%5Cb", EncodedSeparator),
            ("/a%00", EncodedControl),
            ("/a%0d%0a", EncodedControl),
            ("/a%7F", EncodedControl),
            ("/a%", BrokenEncoding),
            ("/a%4", BrokenEncoding),
            ("/a%zz", BrokenEncoding),
            ("/a%u0041", BrokenEncoding),
            ("/a\\b", ForbiddenByte),
            ("/a#b", ForbiddenByte),
            ("/a b", ForbiddenByte),
            ("/a\"b", ForbiddenByte),
            ("/a[b]", ForbiddenByte),
            ("/a|b", ForbiddenByte),
            ("/ä", ForbiddenByte),
            ("/a\0", ForbiddenByte),
        ];
        for (path, fault) in table {
            assert_eq!(check(path.as_bytes()), Err(fault), "{path}");
        }
    }

    #[test]
    fn only_unreserved_characters_are_decoded_and_only_once() {
        assert_eq!(normalized("%63harges"), "charges");
        assert_eq!(normalized("a%3ab"), "a%3Ab");
        assert_eq!(normalized("%2563"), "%2563");
        assert!(matches!(normalized("plain"), Cow::Borrowed("plain")));
    }

    #[test]
    fn a_query_may_have_any_visible_character_but_the_hash() {
        assert!(query_is_plain(b"a=/../b&c=%00\\|[]\"<>"));
        assert!(!query_is_plain(b"a#b"));
        assert!(!query_is_plain(b"a b"));
        assert!(!query_is_plain("ä".as_bytes()));
    }
}
