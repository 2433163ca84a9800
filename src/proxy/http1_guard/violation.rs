//! What the bytes of an HTTP/1 client can be refused for: two closed lists, each entry with its sentence.
//!
//! The sentences are shown to clients. They hold nothing that the client sent.

use std::error::Error;
use std::io;

use thiserror::Error;

/// What is wrong with a request's head. RFC 9112 unless another one is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// More than one empty line before a request line (section 2.2).
    EmptyLines,
    /// CR without LF, or LF without CR (section 2.2).
    LineEnd,
    /// Not `method SP target SP version` with exactly one space between them (section 3).
    RequestLine,
    /// A byte that no token has, in the method (section 3.1).
    MethodByte,
    /// A byte in the target that no URI has (section 3.2).
    TargetByte,
    /// `#` in the target (section 3.2; RFC 3986 section 3.5).
    Fragment,
    /// A target in none of the four forms (section 3.2).
    TargetForm,
    /// A version other than HTTP/1.0 and HTTP/1.1, the preface of HTTP/2 among them (section 2.3).
    Version,
    /// White space at the beginning of a line: folding, or a line before the first field (sections 2.2 and 5.2).
    Folding,
    /// An empty name, a byte that no token has in it, or a line without a colon (section 5).
    FieldName,
    /// White space between a field's name and its colon (section 5.1).
    SpaceBeforeColon,
    /// NUL or another control character in a value (RFC 9110 section 5.5).
    FieldValue,
    /// A name that an origin may take for a framing or credential field, though it is not equal to it.
    LookAlike,
    /// No Host (section 3.2).
    HostMissing,
    /// More than one Host (section 3.2).
    HostRepeated,
    /// More than one Content-Length (section 6.3).
    ContentLengthRepeated,
    /// A Content-Length that is not 1 to 19 digits (RFC 9110 section 8.6).
    ContentLengthOdd,
    /// More than one Transfer-Encoding (section 6.1).
    TransferEncodingRepeated,
    /// A Transfer-Encoding that is not exactly `chunked` (section 6.1).
    TransferEncodingOdd,
    /// Transfer-Encoding in HTTP/1.0 (section 6.1).
    TransferEncodingInHttp10,
    /// Both Content-Length and Transfer-Encoding (section 6.3).
    TwoFramings,
    /// The target is longer than `limits.uri_bytes` (section 3).
    UriTooLong,
    /// The head is longer than `limits.head_bytes` (RFC 6585 section 5).
    HeadTooLong,
    /// More fields than `limits.head_fields` (RFC 6585 section 5).
    TooManyFields,
    /// A declared length over `limits.body_bytes` (RFC 9110 section 15.5.14).
    BodyTooLarge,
}

/// Which refusal of the contract a violation leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ViolationKind {
    /// 400 `bad_request`.
    BadRequest,
    /// 414 `uri_too_long`.
    UriTooLong,
    /// 431 `headers_too_large`.
    HeadersTooLarge,
    /// 413 `body_too_large`.
    BodyTooLarge,
}

impl Violation {
    /// The refusal that this one is answered with.
    pub fn kind(self) -> ViolationKind {
        match self {
            Self::EmptyLines
            | Self::LineEnd
            | Self::RequestLine
            | Self::MethodByte
            | Self::TargetByte
            | Self::Fragment
            | Self::TargetForm
            | Self::Version
            | Self::Folding
            | Self::FieldName
            | Self::SpaceBeforeColon
            | Self::FieldValue
            | Self::LookAlike
            | Self::HostMissing
            | Self::HostRepeated
            | Self::ContentLengthRepeated
            | Self::ContentLengthOdd
            | Self::TransferEncodingRepeated
            | Self::TransferEncodingOdd
            | Self::TransferEncodingInHttp10
            | Self::TwoFramings => ViolationKind::BadRequest,
            Self::UriTooLong => ViolationKind::UriTooLong,
            Self::HeadTooLong | Self::TooManyFields => ViolationKind::HeadersTooLarge,
            Self::BodyTooLarge => ViolationKind::BodyTooLarge,
        }
    }

    /// One sentence for the client's developer.
    pub fn detail(self) -> &'static str {
        match self {
            Self::EmptyLines => "More than one empty line stands before the request line.",
            Self::LineEnd => "A line ends with a bare CR or a bare LF; lines end with CR LF.",
            Self::RequestLine => "The request line is not a method, a target and a version with one space between them.",
            Self::MethodByte => "The method holds a character that methods cannot have.",
            Self::TargetByte => "The request target holds a character that must be percent-encoded.",
            Self::Fragment => "The request target has a fragment (#).",
            Self::TargetForm => "The request target is neither a path nor a whole URI.",
            Self::Version => "The version of the request line is neither HTTP/1.1 nor HTTP/1.0.",
            Self::Folding => "A header line begins with white space; folded lines are not accepted.",
            Self::FieldName => "A header line has no colon, an empty name, or a character that names cannot have.",
            Self::SpaceBeforeColon => "White space stands between a header's name and its colon.",
            Self::FieldValue => "A header's value holds a control character.",
            Self::LookAlike => "A header's name differs only in punctuation from one that frames or authorizes requests.",
            Self::HostMissing => "The request has no Host.",
            Self::HostRepeated => "The request has more than one Host.",
            Self::ContentLengthRepeated => "The request has more than one Content-Length.",
            Self::ContentLengthOdd => "Content-Length is not a plain decimal number of at most 19 digits.",
            Self::TransferEncodingRepeated => "The request has more than one Transfer-Encoding.",
            Self::TransferEncodingOdd => "Transfer-Encoding is not exactly `chunked`.",
            Self::TransferEncodingInHttp10 => "HTTP/1.0 has no Transfer-Encoding.",
            Self::TwoFramings => "The request has both Content-Length and Transfer-Encoding.",
            Self::UriTooLong => "The request target is longer than this gateway accepts.",
            Self::HeadTooLong => "The request's header section is larger than this gateway accepts.",
            Self::TooManyFields => "The request has more header fields than this gateway accepts.",
            Self::BodyTooLarge => "The declared length of the body is larger than this gateway accepts.",
        }
    }
}

/// What is wrong with a request's body. Reading the body fails with it: see [`BodyViolation::of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{}", self.detail())]
pub enum BodyViolation {
    /// A chunk's size is not 1 to 16 hexadecimal digits at once followed by `;` or CR LF (section 7.1).
    ChunkSize,
    /// A chunk extension that the grammar does not know, with white space around, or too many of them (section 7.1.1).
    ChunkExtension,
    /// A chunk's data or its size line does not end with CR LF where it must (section 7.1).
    ChunkEnd,
    /// A trailer section with a malformed field, or a larger one than a head may be (section 7.1.2).
    Trailer(Violation),
    /// The body grew over `limits.body_bytes`.
    TooLarge,
}

impl BodyViolation {
    /// The refusal that this one is answered with, as long as no reply has begun.
    pub fn kind(self) -> ViolationKind {
        match self {
            Self::ChunkSize | Self::ChunkExtension | Self::ChunkEnd | Self::Trailer(_) => ViolationKind::BadRequest,
            Self::TooLarge => ViolationKind::BodyTooLarge,
        }
    }

    /// One sentence for the client's developer.
    pub fn detail(self) -> &'static str {
        match self {
            Self::ChunkSize => "A chunk's size is not 1 to 16 hexadecimal digits.",
            Self::ChunkExtension => "A chunk's extension is malformed or too long.",
            Self::ChunkEnd => "A chunk does not end with CR LF where its size says.",
            Self::Trailer(_) => "The trailer section is malformed or too large.",
            Self::TooLarge => "The body is larger than this gateway accepts.",
        }
    }

    /// Finds the violation in the error that reading a body gave, or `None` if the body failed for another reason: the
    /// client went away, for one.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            // `io::Error::source` is the source of what it wraps, not what it wraps: that is asked for by `get_ref`.
            let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(found) = wrapped.and_then(|inner| inner.downcast_ref::<Self>()) {
                return Some(*found);
            }
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(*found);
            }
            next = error.source();
        }
        None
    }
}

impl From<BodyViolation> for io::Error {
    fn from(violation: BodyViolation) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, violation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_violation_is_found_under_the_errors_around_it() {
        #[derive(Debug, Error)]
        #[error("read the body")]
        struct Outer(#[source] io::Error);

        let error = Outer(BodyViolation::ChunkEnd.into());
        assert_eq!(BodyViolation::of(&error), Some(BodyViolation::ChunkEnd));
        assert_eq!(BodyViolation::of(&BodyViolation::TooLarge), Some(BodyViolation::TooLarge));
        assert_eq!(BodyViolation::of(&Outer(io::ErrorKind::UnexpectedEof.into())), None);
    }
}
