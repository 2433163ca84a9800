//! A chunked body (RFC 9112 section 7.1), counted through byte by byte.
//!
//! hyper decodes the same bytes again. This scan only has to know where the body ends, and to stop before the first byte
//! that two readers could take differently: white space around a size, a bare CR or LF, a size of 17 digits.
//! The trailer section behind the last chunk is not here: it is scanned like a head.

use super::head::{TOKEN, VALUE, is};
use super::{BodyViolation, Bounds};

/// How far a scan came, and how many bytes it found good.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) good: usize,
    pub(super) then: Then,
}

/// What follows the good bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// More of the chunks, not here yet.
    More,
    /// The trailer section: the last chunk is over.
    Trailers,
    /// A fault.
    Violated(BodyViolation),
}

/// The state of a scan.
#[derive(Debug)]
pub(super) struct ChunkScan {
    part: Part,
    counted: bool,
    digits: u8,
    /// Of the chunk at hand: its size, later what is left of its data.
    left: u64,
    /// The sum of all sizes.
    total: u64,
    extension_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Size,
    SizeLineFeed,
    Data,
    DataEnd,
    DataLineFeed,
    ExtensionName { empty: bool },
    ExtensionValue,
    ExtensionToken,
    ExtensionQuoted,
    ExtensionEscaped,
    ExtensionEnd,
}

/// 16 hexadecimal digits are 64 bits.
const MOST_DIGITS: u8 = 16;
/// Of all extensions of one body together, each `;` included. hyper itself gives up at 16 KiB.
const MOST_EXTENSION_BYTES: usize = 16 * 1024 - 1;

impl ChunkScan {
    /// A scan from the first chunk's size on. `counted`: `limits.body_bytes` applies.
    pub(super) fn new(counted: bool) -> Self {
        Self { part: Part::Size, counted, digits: 0, left: 0, total: 0, extension_bytes: 0 }
    }

    /// Goes on behind the last good byte.
    pub(super) fn scan(&mut self, bytes: &[u8], bounds: &Bounds) -> Counted {
        let mut good = 0;
        while let Some(byte) = bytes.get(good) {
            if let Part::Data = self.part {
                good += self.data(bytes.len() - good);
                continue;
            }
            match self.step(*byte, bounds) {
                Ok(Some(then)) => return Counted { good: good + 1, then },
                Ok(None) => good += 1,
                Err(violation) => return Counted { good, then: Then::Violated(violation) },
            }
        }
        Counted { good, then: Then::More }
    }

    fn data(&mut self, here: usize) -> usize {
        let taken = usize::try_from(self.left).map_or(here, |left| left.min(here));
        self.left -= taken as u64;
        if self.left == 0 {
            self.part = Part::DataEnd;
        }
        taken
    }

    /// Judges one byte that is not data; `Some` if the chunks end with it.
    fn step(&mut self, byte: u8, bounds: &Bounds) -> Result<Option<Then>, BodyViolation> {
        self.part = match (self.part, byte) {
            (Part::Size, _) => self.size(byte, bounds)?,
            (Part::SizeLineFeed, b'\n') if self.left == 0 => return Ok(Some(Then::Trailers)),
            (Part::SizeLineFeed, b'\n') => Part::Data,
            (Part::DataEnd, b'\r') => Part::DataLineFeed,
            (Part::DataLineFeed, b'\n') => {
                self.digits = 0;
                Part::Size
            }
            (Part::SizeLineFeed | Part::DataEnd | Part::DataLineFeed | Part::Data, _) => return Err(BodyViolation::ChunkEnd),
            (extension, _) => self.extension(extension, byte)?,
        };
        Ok(None)
    }

    fn size(&mut self, byte: u8, bounds: &Bounds) -> Result<Part, BodyViolation> {
        match (byte, char::from(byte).to_digit(16)) {
            (_, Some(digit)) if self.digits < MOST_DIGITS => {
                self.digits += 1;
                self.left = self.left << 4 | u64::from(digit);
                Ok(Part::Size)
            }
            (b'\r' | b';', _) if self.digits > 0 => {
                self.add(bounds)?;
                if byte == b';' { self.extension_begins() } else { Ok(Part::SizeLineFeed) }
            }
            _ => Err(BodyViolation::ChunkSize),
        }
    }

    fn add(&mut self, bounds: &Bounds) -> Result<(), BodyViolation> {
        self.total = self.total.saturating_add(self.left);
        if self.counted && self.total > bounds.body_bytes { Err(BodyViolation::TooLarge) } else { Ok(()) }
    }

    /// RFC 9112 section 7.1.1 without the white space that its grammar tolerates for the sake of old senders.
    fn extension(&mut self, part: Part, byte: u8) -> Result<Part, BodyViolation> {
        let next = match (part, byte) {
            (Part::ExtensionName { empty: false } | Part::ExtensionToken | Part::ExtensionEnd, b'\r') => return Ok(Part::SizeLineFeed),
            (Part::ExtensionName { empty: false } | Part::ExtensionToken | Part::ExtensionEnd, b';') => return self.extension_begins(),
            (Part::ExtensionName { empty: false }, b'=') => Part::ExtensionValue,
            (Part::ExtensionName { .. }, _) if is(byte, TOKEN) => Part::ExtensionName { empty: false },
            (Part::ExtensionValue, b'"') => Part::ExtensionQuoted,
            (Part::ExtensionValue | Part::ExtensionToken, _) if is(byte, TOKEN) => Part::ExtensionToken,
            (Part::ExtensionQuoted, b'"') => Part::ExtensionEnd,
            (Part::ExtensionQuoted, b'\\') => Part::ExtensionEscaped,
            (Part::ExtensionQuoted | Part::ExtensionEscaped, _) if is(byte, VALUE) => Part::ExtensionQuoted,
            _ => return Err(BodyViolation::ChunkExtension),
        };
        self.count_extension_byte()?;
        Ok(next)
    }

    fn extension_begins(&mut self) -> Result<Part, BodyViolation> {
        self.count_extension_byte()?;
        Ok(Part::ExtensionName { empty: true })
    }

    fn count_extension_byte(&mut self) -> Result<(), BodyViolation> {
        self.extension_bytes += 1;
        if self.extension_bytes > MOST_EXTENSION_BYTES { Err(BodyViolation::ChunkExtension) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { head_bytes: 1000, head_fields: 10, uri_bytes: 100, body_bytes: 64 };

    fn scan(bytes: &[u8]) -> Counted {
        ChunkScan::new(true).scan(bytes, &BOUNDS)
    }

    #[track_caller]
    fn accepted(chunks: &str) {
        assert_eq!(scan(chunks.as_bytes()), Counted { good: chunks.len(), then: Then::Trailers }, "{chunks:?}");
    }

    #[track_caller]
    fn refused(chunks: &str, violation: BodyViolation) {
        assert_eq!(scan(chunks.as_bytes()).then, Then::Violated(violation), "{chunks:?}");
    }

    #[test]
    fn chunks_as_the_grammar_has_them_are_accepted() {
        accepted("0\r\n");
        accepted("000\r\n");
        accepted("5\r\nhello\r\n0\r\n");
        accepted("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n");
        accepted("0000000000000001\r\nx\r\n0\r\n");
        accepted("2\r\n\r\n\r\n0\r\n");
        accepted("1;a\r\nx\r\n0;b=c;d=\"e f\\\"g\t\"\r\n");
        accepted("1;ieof\r\nx\r\n0;sig=0123abcdef!#$\r\n");
        accepted("0;q=\"\"\r\n");
    }

    #[test]
    fn a_size_is_1_to_16_hexadecimal_digits_and_nothing_else() {
        for size in ["", " 1", "1 ", "\t1", "1\t", "+1", "-1", "0x1", "g", "1_0", "1,0", "00000000000000001", "1\u{0}", "1 ;a", "1h"] {
            refused(&format!("{size}\r\nx\r\n0\r\n\r\n"), BodyViolation::ChunkSize);
        }
        refused("1\nx\r\n0\r\n", BodyViolation::ChunkSize);
        refused("1\r\nx\r\n\r\n", BodyViolation::ChunkSize);
    }

    #[test]
    fn a_chunk_ends_where_its_size_says_with_cr_lf() {
        refused("1\rx", BodyViolation::ChunkEnd);
        refused("1\r\nxy\r\n0\r\n", BodyViolation::ChunkEnd);
        refused("1\r\nx\n0\r\n", BodyViolation::ChunkEnd);
        refused("1\r\nx\r0\r\n", BodyViolation::ChunkEnd);
        refused("1\r\nx0\r\n", BodyViolation::ChunkEnd);
        refused("2\r\nx\r\n0\r\n", BodyViolation::ChunkEnd);
        refused("0\r\r\n", BodyViolation::ChunkEnd);
    }

    #[test]
    fn an_extension_has_the_form_of_one_and_no_white_space_around() {
        for extension in [
            ";",
            ";;a",
            ";a;",
            "; a",
            ";a ",
            ";a =b",
            ";a= b",
            ";=b",
            ";a=",
            ";a=\"b",
            ";a=\"b\"c",
            ";a=b\"",
            ";a=b=c",
            ";a,b",
            ";\u{0}",
            ";a=\"\u{1}\"",
            ";a=\"\n\"",
            ";a\n",
            ";é",
            ";a=\"\\\r\"",
        ] {
            refused(&format!("1{extension}\r\nx\r\n0\r\n"), BodyViolation::ChunkExtension);
        }
        refused("1;a\rx", BodyViolation::ChunkEnd);
    }

    #[test]
    fn extensions_are_bounded_over_the_whole_body() {
        let chunk = format!("1;{}\r\nx\r\n", "a".repeat(1023));
        let fifteen = chunk.repeat(15);
        accepted(&format!("{fifteen}1;{}\r\nx\r\n0\r\n", "a".repeat(1022)));
        refused(&format!("{fifteen}1;{}\r\nx\r\n0\r\n", "a".repeat(1023)), BodyViolation::ChunkExtension);
    }

    #[test]
    fn a_body_may_not_grow_over_its_bound() {
        let data = "x".repeat(32);
        accepted(&format!("20\r\n{data}\r\n20\r\n{data}\r\n0\r\n"));
        refused(&format!("20\r\n{data}\r\n21\r\n{data}x\r\n0\r\n"), BodyViolation::TooLarge);
        refused("ffffffffffffffff\r\n", BodyViolation::TooLarge);
        let uncounted = ChunkScan::new(false).scan(b"ffffffffffffffff\r\nx", &BOUNDS);
        assert_eq!(uncounted, Counted { good: 19, then: Then::More });
    }

    proptest! {
        #[test]
        fn what_the_network_cuts_is_read_as_if_it_were_whole(bytes in "([0-3](;[a=\"]{0,3})?\r\n[a-c]{0,3}\r\n){0,4}[ -~\r\n]{0,6}", cut in 0usize..60) {
            let bytes = bytes.as_bytes();
            let whole = scan(bytes);
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let mut scan = ChunkScan::new(true);
            let mut pieces = scan.scan(first, &BOUNDS);
            if pieces.then == Then::More {
                prop_assert_eq!(pieces.good, first.len());
                let rest = scan.scan(second, &BOUNDS);
                pieces = Counted { good: pieces.good + rest.good, then: rest.then };
            }
            prop_assert_eq!(pieces, whole);
        }
    }
}
