//! JSON written by hand into a byte buffer, for the two logs: no tree, no allocation, and every text from outside escaped, cut
//! to a length and freed of secrets on its way in. Deliberately absent: reading JSON, nesting and arrays.

use std::fmt::Display;
use std::io::Write;
use std::net::IpAddr;

use super::hiding::split_at_secret;

/// Stands where a text was cut.
const CUT: &str = "…";

/// One flat object that is being written at the end of a buffer.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    separator: u8,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        Self { out, separator: b'{' }
    }

    /// A text of our own: escaped, but neither cut nor searched for secrets.
    #[inline]
    pub(super) fn text(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return self.null(name) };
        let out = self.name(name);
        out.push(b'"');
        escape(out, value);
        out.push(b'"');
    }

    /// A text that somebody outside chose: escaped, secrets written as their hints, cut after `limit` bytes.
    #[inline]
    pub(super) fn outside_text(&mut self, name: &str, value: Option<&[u8]>, limit: usize) {
        let Some(value) = value else { return self.null(name) };
        let out = self.name(name);
        out.push(b'"');
        write_outside_text(out, value, limit);
        out.push(b'"');
    }

    #[inline]
    pub(super) fn address(&mut self, name: &str, value: Option<IpAddr>) {
        let Some(value) = value else { return self.null(name) };
        let out = self.name(name);
        out.push(b'"');
        write_address(out, value);
        out.push(b'"');
    }

    /// A value whose text needs no escaping, between quotes.
    pub(super) fn plain(&mut self, name: &str, value: impl Display) {
        // Writing to a vector cannot fail.
        let _ = write!(self.name(name), "\"{value}\"");
    }

    /// Bytes that need no escaping, between quotes.
    #[inline]
    pub(super) fn plain_bytes(&mut self, name: &str, value: Option<&[u8]>) {
        let Some(value) = value else { return self.null(name) };
        let out = self.name(name);
        out.push(b'"');
        out.extend_from_slice(value);
        out.push(b'"');
    }

    #[inline]
    pub(super) fn number(&mut self, name: &str, value: Option<u64>) {
        let Some(value) = value else { return self.null(name) };
        write_number(self.name(name), value);
    }

    /// Something that is JSON as it stands: `true`, `-1.5`.
    pub(super) fn literal(&mut self, name: &str, value: impl Display) {
        let _ = write!(self.name(name), "{value}");
    }

    #[inline]
    pub(super) fn null(&mut self, name: &str) {
        self.name(name).extend_from_slice(b"null");
    }

    /// Writes the name of a field, which needs no escaping, and hands out the buffer for its value.
    // Inlined, so that each of the fixed names becomes a move of a known length.
    #[inline(always)]
    pub(super) fn name(&mut self, name: &str) -> &mut Vec<u8> {
        self.out.extend_from_slice(&[self.separator, b'"']);
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.separator = b',';
        self.out
    }

    /// Ends the object and its line.
    pub(super) fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }
}

/// Writes an IP address. The usual ones by hand: two stand in each line of the access log.
pub(super) fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                write_number(out, u64::from(octet));
            }
        }
        // Writing to a vector cannot fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

/// Writes a whole number in decimal: a third of what the formatting machinery takes, and a line has up to six.
pub(super) fn write_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let mut rest = number;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        used += 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.split_at(digits.len() - used).1);
}

fn write_outside_text(out: &mut Vec<u8>, text: &[u8], limit: usize) {
    let mut room = limit;
    let mut rest = text;
    while let Some((before, hint, behind)) = split_at_secret(rest) {
        if !escape_within(out, before, &mut room) {
            return;
        }
        escape(out, hint.as_str());
        room = room.saturating_sub(hint.as_str().len());
        rest = behind;
    }
    escape_within(out, rest, &mut room);
}

/// Writes what there is room for; says whether that was all.
fn escape_within(out: &mut Vec<u8>, text: &[u8], room: &mut usize) -> bool {
    let (shown, cut) = text.split_at(floor_of_character(text, *room));
    // Nearly every text is nothing but plain characters.
    if shown.iter().all(|&byte| is_plain(byte)) {
        out.extend_from_slice(shown);
    } else {
        escape_bytes(out, shown);
    }
    *room -= shown.len();
    if !cut.is_empty() {
        out.extend_from_slice(CUT.as_bytes());
    }
    cut.is_empty()
}

/// The last place at or before `limit` that does not split a character.
fn floor_of_character(text: &[u8], limit: usize) -> usize {
    if limit >= text.len() {
        return text.len();
    }
    let continues = |&place: &usize| text.get(place).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    // A character has at most three continuing bytes; bytes that are no UTF-8 may be split anywhere.
    (limit.saturating_sub(3)..=limit).rev().find(|place| !continues(place)).unwrap_or(limit)
}

fn escape_bytes(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        escape(out, chunk.valid());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
}

fn escape(out: &mut Vec<u8>, text: &str) {
    let mut rest = text;
    while let Some((plain, special)) = rest.bytes().position(|byte| !is_plain(byte)).and_then(|at| rest.split_at_checked(at)) {
        out.extend_from_slice(plain.as_bytes());
        let mut characters = special.chars();
        if let Some(character) = characters.next() {
            escape_character(out, character);
        }
        rest = characters.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn escape_character(out: &mut Vec<u8>, character: char) {
    let _ = match character {
        '"' | '\\' => write!(out, "\\{character}"),
        // JSON asks for this below U+0020 only; the others (U+007F to U+009F) would be obeyed by a terminal that shows the log.
        _ if character.is_control() => write!(out, "\\u{:04x}", u32::from(character)),
        _ => write!(out, "{character}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The text that a reader of the log gets for `text`.
    fn shown(text: &[u8], limit: usize) -> String {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        object.outside_text("it", Some(text), limit);
        object.end();
        let object: serde_json::Value = serde_json::from_slice(&out).unwrap();
        object["it"].as_str().unwrap().to_owned()
    }

    fn secret_with(end: &str) -> String {
        format!("sk_live_{}{end}", "x".repeat(34))
    }

    #[test]
    fn quotes_and_control_characters_are_escaped() {
        let mut out = Vec::new();
        escape(&mut out, "a\"b\\c\n\u{1b}[31m\u{7f}\u{9b}ä");
        assert_eq!(String::from_utf8(out).unwrap(), "a\\\"b\\\\c\\u000a\\u001b[31m\\u007f\\u009bä");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(shown(b"/\xff\xfe/\xc3", 100), "/\u{fffd}\u{fffd}/\u{fffd}");
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters_and_marked() {
        assert_eq!(shown("abcdef".as_bytes(), 6), "abcdef");
        assert_eq!(shown("abcdefg".as_bytes(), 6), "abcdef…");
        assert_eq!(shown("abcdeäöü".as_bytes(), 6), "abcde…");
    }

    #[test]
    fn a_secret_is_written_as_its_hint() {
        assert_eq!(shown(format!("/a/{}/b", secret_with("wxyz")).as_bytes(), 100), "/a/sk_live_…wxyz/b");
        assert_eq!(shown(format!("{}/{}", secret_with("aaaa"), secret_with("bbbb")).as_bytes(), 100), "sk_live_…aaaa/sk_live_…bbbb");
    }

    #[test]
    fn a_cut_never_shows_the_middle_of_a_secret() {
        let text = format!("/{}", secret_with("wxyz"));
        for limit in 0..text.len() {
            assert!(!shown(text.as_bytes(), limit).contains("xx"), "cut at {limit}");
        }
    }

    proptest! {
        #[test]
        fn every_text_without_a_secret_comes_back_as_it_was(text: String) {
            prop_assert_eq!(shown(text.as_bytes(), 100_000), text);
        }

        #[test]
        fn any_bytes_become_json_of_a_bounded_length(bytes in prop::collection::vec(any::<u8>(), 0..400), limit in 0_usize..300) {
            let mut out = Vec::new();
            write_outside_text(&mut out, &bytes, limit);
            prop_assert!(out.len() <= 6 * limit + "sk_live_…wxyz".len() + CUT.len());
            shown(&bytes, limit);
        }

        #[test]
        fn a_secret_never_appears_wherever_it_stands(before in "[a-w/%_]{0,20}", behind in "[/?&;][a-w/%]{0,20}", limit in 0_usize..100) {
            let text = format!("{before}/{}{behind}", secret_with("wxyz"));
            prop_assert!(!shown(text.as_bytes(), limit).contains("xxxxx"));
        }

        #[test]
        fn numbers_are_written_in_decimal(number: u64) {
            let mut out = Vec::new();
            write_number(&mut out, number);
            prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
