//! One request head, checked byte by byte, strictly by RFC 9112, in one pass that can stop and go on anywhere.
//!
//! The scan never looks back: what it has seen it knows, so a head that drips in costs no more than one that comes whole,
//! and the verdict does not depend on where the network cut it: the first wrong byte decides. Trailer sections are the same
//! lines with another beginning, and are scanned by the same code.
//!
//! Not here: what a target, a Host or an Authorization *mean*. They only have to be such that nobody can read them in two ways.

use hyper::{Method, Uri};

use super::{Bounds, Violation};

/// How far a scan came.
#[derive(Debug)]
pub(super) enum Scanned {
    /// All bytes are good so far; the end is not among them.
    Incomplete,
    /// The head ends before byte `end`.
    Complete { end: usize, body: Body, upgrade: bool },
    /// Not a head that anybody else should see.
    Refused(Violation),
}

/// The body that a head announces (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(u64),
    /// `counted`: `limits.body_bytes` applies to it.
    Chunked {
        counted: bool,
    },
}

/// The state of a scan. Positions count from the first byte behind the message before.
#[derive(Debug)]
pub(super) struct HeadScan {
    part: Part,
    /// The next byte to look at.
    at: usize,
    /// Where the current method, target, version, name or value began.
    mark: usize,
    line: RequestLine,
    field: Field,
    fields: usize,
    facts: Facts,
    trailer: bool,
}

#[derive(Debug, Default)]
struct RequestLine {
    method: (usize, usize),
    target: usize,
    http_10: bool,
    empty_line_before: bool,
}

/// What the fields said that framing depends on.
#[derive(Debug, Default)]
struct Facts {
    host: bool,
    content_length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    content_type: bool,
    grpc: bool,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Start,
    EmptyLine,
    Method,
    Target,
    Path,
    Query,
    OtherTarget,
    Version,
    RequestLineEnd,
    LineFeed,
    FieldStart,
    Name,
    Value,
    LastLineFeed,
}

/// The fields that framing depends on, and the one that must not have a double.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Host,
    ContentLength,
    TransferEncoding,
    Upgrade,
    ContentType,
    Authorization,
    Other,
}

/// One step of a scan that did not find a fault.
enum Step {
    On,
    More,
    End,
}

/// What hyper stores a field's name in cannot be longer.
const LONGEST_NAME: usize = 65_535;
const VERSION: &[u8; 8] = b"HTTP/1.1";

impl HeadScan {
    /// A scan of a whole head.
    pub(super) fn new() -> Self {
        Self::beginning(Part::Start, false)
    }

    /// A scan of a trailer section (RFC 9112 section 7.1.2).
    pub(super) fn of_trailers() -> Self {
        Self::beginning(Part::FieldStart, true)
    }

    fn beginning(part: Part, trailer: bool) -> Self {
        Self { part, at: 0, mark: 0, line: RequestLine::default(), field: Field::Other, fields: 0, facts: Facts::default(), trailer }
    }

    /// Whether the first byte of the request line was seen. An empty line before it is not a beginning.
    pub(super) fn started(&self) -> bool {
        !matches!(self.part, Part::Start | Part::EmptyLine)
    }

    /// Goes on where the last call stopped. `bytes` begins where it began then, and may be longer.
    pub(super) fn scan(&mut self, bytes: &[u8], bounds: &Bounds) -> Scanned {
        let (most, whole) = match bytes.get(..bounds.head_bytes) {
            Some(most) => (most, false),
            None => (bytes, true),
        };
        loop {
            match self.step(most, bounds) {
                Ok(Step::On) => {}
                Ok(Step::More) if whole => return Scanned::Incomplete,
                Ok(Step::More) => return Scanned::Refused(Violation::HeadTooLong),
                Ok(Step::End) => return self.complete(bounds),
                Err(violation) => return Scanned::Refused(violation),
            }
        }
    }

    /// The method, if the scan came past it and it has at most `most` bytes.
    pub(super) fn method(&self, bytes: &[u8], most: usize) -> Option<Method> {
        let (from, to) = self.line.method;
        let method = bytes.get(from..to).filter(|method| method.len() <= most)?;
        Method::from_bytes(method).ok()
    }

    /// The target without its query, as far as it was found good and at most `most` bytes of it.
    pub(super) fn target<'b>(&self, bytes: &'b [u8], most: usize) -> Option<&'b str> {
        if self.line.target == 0 {
            return None;
        }
        let seen = bytes.get(self.line.target..self.at)?;
        let end = run(seen, 0, SHOWN).min(most);
        std::str::from_utf8(seen.get(..end)?).ok()
    }

    fn step(&mut self, bytes: &[u8], bounds: &Bounds) -> Result<Step, Violation> {
        match self.part {
            Part::Start => self.start(bytes),
            Part::EmptyLine => self.empty_line(bytes),
            Part::Method => self.method_part(bytes),
            Part::Target => self.target_start(bytes),
            Part::Path => self.target_part(bytes, PATH, bounds),
            Part::Query => self.target_part(bytes, QUERY, bounds),
            Part::OtherTarget => self.target_part(bytes, TARGET, bounds),
            Part::Version => self.version(bytes),
            Part::RequestLineEnd => self.request_line_end(bytes),
            Part::LineFeed => self.line_feed(bytes, Part::FieldStart),
            Part::FieldStart => self.field_start(bytes, bounds),
            Part::Name => self.name(bytes),
            Part::Value => self.value(bytes),
            Part::LastLineFeed => self.last_line_feed(bytes),
        }
    }

    /// Takes the byte at hand and begins `part` behind it.
    fn begin(&mut self, part: Part) -> Step {
        self.at += 1;
        self.mark = self.at;
        self.part = part;
        Step::On
    }

    /// RFC 9112 section 2.2: one empty line before a request is skipped, as old clients send it behind a body.
    fn start(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        match bytes.get(self.at) {
            None => Ok(Step::More),
            Some(b'\r') if self.line.empty_line_before => Err(Violation::EmptyLines),
            Some(b'\r') => Ok(self.begin(Part::EmptyLine)),
            Some(b'\n') => Err(Violation::LineEnd),
            Some(_) => {
                self.line.method.0 = self.at;
                self.part = Part::Method;
                Ok(Step::On)
            }
        }
    }

    fn empty_line(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        self.line.empty_line_before = true;
        self.line_feed(bytes, Part::Start)
    }

    fn method_part(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        self.at = run(bytes, self.at, TOKEN);
        match bytes.get(self.at) {
            None => Ok(Step::More),
            Some(b' ') if self.at > self.mark => {
                self.line.method.1 = self.at;
                self.line.target = self.at + 1;
                Ok(self.begin(Part::Target))
            }
            Some(b' ' | b'\r' | b'\n') => Err(Violation::RequestLine),
            Some(_) => Err(Violation::MethodByte),
        }
    }

    fn target_start(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        self.part = match bytes.get(self.at) {
            None => return Ok(Step::More),
            Some(b'/') => Part::Path,
            Some(b' ' | b'\r' | b'\n') => return Err(Violation::RequestLine),
            Some(_) => Part::OtherTarget,
        };
        Ok(Step::On)
    }

    fn target_part(&mut self, bytes: &[u8], class: u8, bounds: &Bounds) -> Result<Step, Violation> {
        let end = run(bytes, self.at, class);
        if end - self.mark > bounds.uri_bytes {
            self.at = self.mark.saturating_add(bounds.uri_bytes);
            return Err(Violation::UriTooLong);
        }
        self.at = end;
        match bytes.get(end) {
            None => Ok(Step::More),
            Some(b' ') => {
                self.whole_target(bytes)?;
                Ok(self.begin(Part::Version))
            }
            Some(b'?') if class == PATH => {
                self.part = Part::Query;
                self.at += 1;
                Ok(Step::On)
            }
            Some(b'#') => Err(Violation::Fragment),
            Some(b'\r' | b'\n') => Err(Violation::RequestLine),
            Some(_) => Err(Violation::TargetByte),
        }
    }

    /// A target that is no path is rare. It must be one that hyper can parse, so its own parser is asked.
    fn whole_target(&self, bytes: &[u8]) -> Result<(), Violation> {
        if !matches!(self.part, Part::OtherTarget) {
            return Ok(());
        }
        match Uri::try_from(bytes.get(self.mark..self.at).unwrap_or_default()) {
            Ok(_) => Ok(()),
            Err(_) => Err(Violation::TargetForm),
        }
    }

    /// RFC 9112 section 2.3: with case, one digit each. What we serve has the major version 1.
    fn version(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        let seen = bytes.get(self.mark..).unwrap_or_default();
        let seen = seen.get(..VERSION.len()).unwrap_or(seen);
        let (digit, before) = match seen.split_at_checked(VERSION.len() - 1) {
            Some((before, [digit])) => (Some(*digit), before),
            _ => (None, seen),
        };
        if !VERSION.starts_with(before) {
            return Err(Violation::Version);
        }
        match digit {
            None => return Ok(Step::More),
            Some(b'1') => {}
            Some(b'0') => self.line.http_10 = true,
            Some(_) => return Err(Violation::Version),
        }
        self.at = self.mark + VERSION.len();
        self.part = Part::RequestLineEnd;
        Ok(Step::On)
    }

    fn request_line_end(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        match bytes.get(self.at) {
            None => Ok(Step::More),
            Some(b'\r') => Ok(self.begin(Part::LineFeed)),
            Some(b'\n') => Err(Violation::LineEnd),
            Some(b' ') => Err(Violation::RequestLine),
            Some(_) => Err(Violation::Version),
        }
    }

    fn line_feed(&mut self, bytes: &[u8], next: Part) -> Result<Step, Violation> {
        match bytes.get(self.at) {
            None => Ok(Step::More),
            Some(b'\n') => Ok(self.begin(next)),
            Some(_) => Err(Violation::LineEnd),
        }
    }

    fn last_line_feed(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        match self.line_feed(bytes, Part::Start)? {
            Step::On => Ok(Step::End),
            other => Ok(other),
        }
    }

    fn field_start(&mut self, bytes: &[u8], bounds: &Bounds) -> Result<Step, Violation> {
        match bytes.get(self.at) {
            None => Ok(Step::More),
            Some(b'\r') => Ok(self.begin(Part::LastLineFeed)),
            Some(b'\n') => Err(Violation::LineEnd),
            Some(b' ' | b'\t') => Err(Violation::Folding),
            Some(_) if self.fields >= bounds.head_fields => Err(Violation::TooManyFields),
            Some(_) => {
                self.fields += 1;
                self.mark = self.at;
                self.part = Part::Name;
                // Straight on, here and below: that a whole field is one step saves a seventh of the time.
                self.name(bytes)
            }
        }
    }

    fn name(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        self.at = run(bytes, self.at, TOKEN);
        if self.at - self.mark > LONGEST_NAME {
            return Err(Violation::HeadTooLong);
        }
        match bytes.get(self.at) {
            None => Ok(Step::More),
            Some(b':') => {
                self.field = Field::named(bytes.get(self.mark..self.at).unwrap_or_default(), self.trailer)?;
                self.begin(Part::Value);
                self.value(bytes)
            }
            Some(b' ' | b'\t') => Err(Violation::SpaceBeforeColon),
            Some(_) => Err(Violation::FieldName),
        }
    }

    fn value(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        self.at = value_run(bytes, self.at);
        match bytes.get(self.at) {
            None => Ok(Step::More),
            Some(b'\r') => {
                let value = bytes.get(self.mark..self.at).unwrap_or_default();
                self.facts.note(self.field, value)?;
                self.begin(Part::LineFeed);
                self.line_feed(bytes, Part::FieldStart)
            }
            Some(b'\n') => Err(Violation::LineEnd),
            Some(_) => Err(Violation::FieldValue),
        }
    }

    /// The rules that only a whole head can break (RFC 9112 sections 3.2, 6.1 and 6.3).
    fn complete(&self, bounds: &Bounds) -> Scanned {
        let facts = &self.facts;
        if self.trailer {
            return Scanned::Complete { end: self.at, body: Body::None, upgrade: false };
        }
        if !facts.host {
            return Scanned::Refused(Violation::HostMissing);
        }
        let body = match (facts.chunked, facts.content_length) {
            (true, _) if self.line.http_10 => return Scanned::Refused(Violation::TransferEncodingInHttp10),
            (true, Some(_)) => return Scanned::Refused(Violation::TwoFramings),
            (true, None) => Body::Chunked { counted: !facts.grpc },
            (false, Some(length)) if length > bounds.body_bytes && !facts.grpc => {
                return Scanned::Refused(Violation::BodyTooLarge);
            }
            (false, None | Some(0)) => Body::None,
            (false, Some(length)) => Body::Length(length),
        };
        // RFC 9110 section 7.8: HTTP/1.0 cannot upgrade. A request with a body is served as any other, never upgraded.
        let upgrade = facts.upgrade && !self.line.http_10 && body == Body::None;
        Scanned::Complete { end: self.at, body, upgrade }
    }
}

impl Facts {
    fn note(&mut self, field: Field, value: &[u8]) -> Result<(), Violation> {
        match field {
            Field::Other | Field::Authorization => {}
            Field::Host if self.host => return Err(Violation::HostRepeated),
            Field::Host => self.host = true,
            Field::ContentLength if self.content_length.is_some() => return Err(Violation::ContentLengthRepeated),
            Field::ContentLength => self.content_length = Some(length(value.trim_ascii())?),
            Field::TransferEncoding if self.chunked => return Err(Violation::TransferEncodingRepeated),
            Field::TransferEncoding if value.trim_ascii().eq_ignore_ascii_case(b"chunked") => self.chunked = true,
            Field::TransferEncoding => return Err(Violation::TransferEncodingOdd),
            Field::Upgrade => self.upgrade = true,
            // Only the first counts, as for everybody who asks a map of fields for one value.
            Field::ContentType if self.content_type => {}
            Field::ContentType => {
                self.content_type = true;
                self.grpc = is_grpc(value.trim_ascii());
            }
        }
        Ok(())
    }
}

impl Field {
    /// Names have no case (RFC 9110 section 5.1). Servers that hand fields on as variables read punctuation as `_`, so a name
    /// that differs in nothing else is refused rather than left to their taste. A trailer must not frame or route
    /// (RFC 9110 section 6.5.1).
    #[inline]
    fn named(name: &[u8], trailer: bool) -> Result<Self, Violation> {
        match name.len() {
            0 => Err(Violation::FieldName),
            4 => Self::Host.guarded(name, b"host", trailer),
            7 if same(name, b"upgrade") => Ok(Self::Upgrade),
            12 if same(name, b"content-type") => Ok(Self::ContentType),
            13 => Self::Authorization.guarded(name, b"authorization", trailer),
            14 => Self::ContentLength.guarded(name, b"content-length", trailer),
            17 => Self::TransferEncoding.guarded(name, b"transfer-encoding", trailer),
            _ => Ok(Self::Other),
        }
    }

    #[inline]
    fn guarded<const N: usize>(self, name: &[u8], whole: &[u8; N], trailer: bool) -> Result<Self, Violation> {
        if same(name, whole) {
            return if trailer { Err(Violation::FieldName) } else { Ok(self) };
        }
        let alike = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*b == b'-' && !a.is_ascii_alphanumeric());
        if name.iter().zip(whole).all(alike) { Err(Violation::LookAlike) } else { Ok(Self::Other) }
    }
}

/// Whether a token is a lower-case name but for case. Of tokens no others than a letter's two cases, and no other than `-`
/// itself, are alike once the bit that tells cases apart is set; so all bytes can be compared at once.
#[inline]
fn same<const N: usize>(token: &[u8], name: &[u8; N]) -> bool {
    let differs = |token: &[u8; N]| token.iter().zip(name).fold(0, |sum, (a, b)| sum | ((a | 0x20) ^ b)) != 0;
    token.len() == N && token.first_chunk().is_some_and(|token| !differs(token))
}

/// RFC 9110 section 8.6, with a bound: 19 digits always fit.
fn length(value: &[u8]) -> Result<u64, Violation> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Violation::ContentLengthOdd);
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// `application/grpc` alone or with `+` or `;` behind it: calls that may be open for ever, whose bytes are not counted.
fn is_grpc(value: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    match value.split_at_checked(GRPC.len()) {
        Some((start, rest)) => start.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// RFC 9110 section 5.6.2.
pub(super) const TOKEN: u8 = 1;
/// What hyper's URI type takes in a path: more than RFC 3986 allows. Who judges paths refuses the rest.
const PATH: u8 = 2;
/// The same for a query.
const QUERY: u8 = 4;
/// Any visible ASCII character but `#`.
const TARGET: u8 = 8;
/// RFC 9110 section 5.5: visible, space, tab, and the bytes above ASCII that old clients send.
pub(super) const VALUE: u8 = 16;
/// The part of a target that may be shown: without the query.
const SHOWN: u8 = 32;

static CLASSES: [u8; 256] = classes();

#[allow(clippy::indexing_slicing, reason = "computed while compiling, where a wrong index is an error")]
const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let byte = i as u8;
        let mut class = 0;
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
        {
            class |= TOKEN;
        }
        if byte.is_ascii_graphic() && byte != b'#' {
            class |= TARGET;
            if !matches!(byte, b'<' | b'>' | b'?' | b'`') {
                class |= PATH;
            }
            if !matches!(byte, b'"' | b'<' | b'>') {
                class |= QUERY;
            }
        }
        if byte.is_ascii_graphic() && byte != b'?' {
            class |= SHOWN;
        }
        if byte == b'\t' || (byte >= b' ' && byte != 0x7f) {
            class |= VALUE;
        }
        table[i] = class;
        i += 1;
    }
    table
}

/// Whether a byte is of a class.
#[inline]
pub(super) fn is(byte: u8, class: u8) -> bool {
    #[allow(clippy::indexing_slicing, reason = "the table has an entry for each byte")]
    let classes = CLASSES[usize::from(byte)];
    classes & class != 0
}

/// The first position from `from` on whose byte is not of a class, or the length.
#[inline]
fn run(bytes: &[u8], from: usize, class: u8) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.iter().position(|byte| !is(*byte, class)).map_or(bytes.len(), |found| from + found)
}

/// [`run`] for [`VALUE`], eight bytes at a time: values are most of a head.
#[inline]
fn value_run(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let found = first_control(u64::from_le_bytes(*eight));
        at += found;
        if found < 8 {
            if bytes.get(at) != Some(&b'\t') {
                return at;
            }
            at += 1;
        }
    }
    run(bytes, at, VALUE)
}

/// The position of the first byte of a little-endian word that is below 0x20 or 0x7f; 8 if there is none.
#[inline]
fn first_control(word: u64) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The subtraction borrows into a byte's high bit where the byte is smaller. A borrow that runs on can only mark bytes
    // behind a true one, so the first mark is right.
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = word ^ (ONES * 0x7f);
    let is_delete = delete.wrapping_sub(ONES) & !delete;
    ((below_space | is_delete) & (ONES << 7)).trailing_zeros() as usize / 8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn eight_bytes_at_a_time_find_what_one_at_a_time_finds(
            bytes in proptest::collection::vec(prop_oneof![8 => 0x20u8..0x7f, 1 => any::<u8>(), 1 => Just(b'\t'), 1 => Just(0x7f)], 0..64),
            from in 0usize..64,
        ) {
            let from = from.min(bytes.len());
            prop_assert_eq!(value_run(&bytes, from), run(&bytes, from, VALUE));
        }

        #[test]
        fn names_are_the_same_but_for_case(token in "[cC][oO_]n[tT]ent[-._~M][tT]yp[eE%]|[!#$%&'*+.^_`|~0-9a-zA-Z-]{12}") {
            prop_assert_eq!(same(token.as_bytes(), b"content-type"), token.eq_ignore_ascii_case("content-type"));
        }

        #[test]
        fn a_path_or_query_passes_if_and_only_if_hyper_can_carry_it(target in "/[!-~]{0,12}(\\?[!-~]{0,12})?") {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let bounds = Bounds { head_bytes: 1000, head_fields: 10, uri_bytes: 100, body_bytes: 0 };
            let passes = matches!(HeadScan::new().scan(head.as_bytes(), &bounds), Scanned::Complete { .. });
            // hyper drops a fragment without a word.
            prop_assert_eq!(passes, !target.contains('#') && target.parse::<Uri>().is_ok());
        }
    }
}
