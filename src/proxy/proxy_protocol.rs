//! The PROXY protocol, versions 1 and 2: what a load balancer says about the client before the client's first byte.
//!
//! The reader takes exactly the bytes of the header and none behind them, so that TLS or HTTP can begin on the same stream.
//! It reads the text of version 1 in the smallest pieces that could still be missing, as streams cannot be peeked at here.
//!
//! Whether a peer may say anything at all is for its caller to know, as is how long it may take. TLVs of version 2 are skipped
//! unread, the CRC-32C among them: TCP has its own checksum, and the peer is trusted or not heard.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a header said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Where the connection comes from.
    pub source: Source,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From there. An IPv4-mapped address is left as it was sent.
    Address(SocketAddr),
    /// From the peer of the socket itself: LOCAL (the proxy's health check, for one), UNKNOWN or UNSPEC.
    Local,
    /// Through a Unix socket of the proxy: nobody knows from where.
    UnixOrUnknown,
}

/// Why a header could not be read. The connection is of no use then.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// The first bytes are those of neither version.
    #[error("the connection does not begin with a PROXY header")]
    NotAHeader,
    /// The stream ended before the header did.
    #[error("the connection ended within the PROXY header")]
    Truncated,
    /// A version 1 line of more than 107 bytes, or a version 2 header of more than 4096.
    #[error("the PROXY header is too long")]
    TooLong,
    /// Version 1, but not `PROXY`, a family, two addresses and two ports, with one space between them and CR LF behind.
    #[error("the PROXY line is malformed")]
    Line,
    /// The signature of version 2 followed by another version or an unknown command.
    #[error("the PROXY header has a version or command that is not known")]
    Command,
    /// A version 2 header of a family or transport that is not known, or of datagrams.
    #[error("the PROXY header is not about a stream of a known family")]
    Family,
    /// A version 2 header that has no room for the addresses of its family.
    #[error("the PROXY header is too short for its addresses")]
    TooShort,
    /// The stream failed.
    #[error("read the PROXY header")]
    Io(#[from] io::Error),
}

/// Reads the header at the beginning of a stream, to its last byte and not further. Whatever follows an error is of no use.
///
/// # Errors
/// [`ProxyError`] if there is no header, or one that this version of the protocol does not allow.
pub async fn read_header<R: AsyncRead + Unpin>(stream: &mut R) -> Result<ProxyHeader, ProxyError> {
    let mut start = Start::default();
    while start.len < START {
        start.read(stream, START - start.len).await?;
        if start.is_version_1()? && start.line_ended() {
            break;
        }
    }
    if start.is_version_1()? { rest_of_line(stream, start).await } else { rest_of_version_2(stream, start).await }
}

/// The longest line of version 1, CR LF included.
const LONGEST_LINE: usize = 107;
/// `PROXY UNKNOWN` and CR LF: no header is shorter.
const START: usize = 15;
const SIGNATURE_1: &[u8] = b"PROXY ";
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, two bytes of length.
const FIXED_2: usize = 16;
/// More than any balancer says in TLVs.
const LONGEST_REST_2: usize = 4096 - FIXED_2;

/// What was read so far.
struct Start {
    buffer: [u8; LONGEST_LINE],
    len: usize,
}

impl Default for Start {
    fn default() -> Self {
        Self { buffer: [0; LONGEST_LINE], len: 0 }
    }
}

impl Start {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    /// Reads at least one byte and at most `most`.
    async fn read<R: AsyncRead + Unpin>(&mut self, stream: &mut R, most: usize) -> Result<(), ProxyError> {
        let rest = self.buffer.get_mut(self.len..).unwrap_or_default();
        let most = most.min(rest.len());
        let space = rest.get_mut(..most).unwrap_or_default();
        if space.is_empty() {
            return Err(ProxyError::TooLong);
        }
        match stream.read(space).await? {
            0 => Err(ProxyError::Truncated),
            read => {
                self.len += read;
                Ok(())
            }
        }
    }

    fn is_version_1(&self) -> Result<bool, ProxyError> {
        let begins = |signature: &[u8]| self.bytes().iter().zip(signature).all(|(byte, expected)| byte == expected);
        match (begins(SIGNATURE_1), begins(SIGNATURE_2)) {
            (true, _) => Ok(true),
            (false, true) => Ok(false),
            (false, false) => Err(ProxyError::NotAHeader),
        }
    }

    fn line_ended(&self) -> bool {
        self.bytes().contains(&b'\n')
    }

    /// How many bytes a line of version 1 still needs at the least: what is missing of its six words, and CR LF.
    fn line_lacks(&self) -> usize {
        const SPACES: usize = 5;
        if self.bytes().ends_with(b"\r") {
            return 1;
        }
        if self.bytes().starts_with(b"PROXY UNKNOWN") {
            return 2;
        }
        let spaces = self.bytes().iter().filter(|byte| **byte == b' ').count();
        2 * SPACES.saturating_sub(spaces) + usize::from(self.bytes().ends_with(b" ")) + 2
    }
}

async fn rest_of_line<R: AsyncRead + Unpin>(stream: &mut R, mut line: Start) -> Result<ProxyHeader, ProxyError> {
    while !line.line_ended() {
        let lacks = line.line_lacks();
        line.read(stream, lacks).await?;
    }
    version_1(line.bytes())
}

fn version_1(line: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let line = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok()).ok_or(ProxyError::Line)?;
    // Behind UNKNOWN anything may stand, and it means nothing.
    if line == "PROXY UNKNOWN" || line.starts_with("PROXY UNKNOWN ") {
        return Ok(ProxyHeader { source: Source::Local });
    }
    let mut words = line.split(' ');
    let mut word = || words.next().ok_or(ProxyError::Line);
    let (_proxy, family, source, destination, source_port, destination_port) = (word()?, word()?, word()?, word()?, word()?, word()?);
    let address = address(family, source)?;
    self::address(family, destination)?;
    port(destination_port)?;
    match words.next() {
        None => Ok(ProxyHeader { source: Source::Address(SocketAddr::new(address, port(source_port)?)) }),
        Some(_) => Err(ProxyError::Line),
    }
}

/// The standard library's own strictness is the protocol's: four decimal parts without leading zeros; no zones.
fn address(family: &str, text: &str) -> Result<IpAddr, ProxyError> {
    let address = match family {
        "TCP4" => Ipv4Addr::from_str(text).map(IpAddr::V4),
        "TCP6" => Ipv6Addr::from_str(text).map(IpAddr::V6),
        _ => return Err(ProxyError::Line),
    };
    address.map_err(|_| ProxyError::Line)
}

/// Digits only and no leading zero: `u16::from_str` alone would take `+1` and `01`.
fn port(text: &str) -> Result<u16, ProxyError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(ProxyError::Line)
}

async fn rest_of_version_2<R: AsyncRead + Unpin>(stream: &mut R, mut fixed: Start) -> Result<ProxyHeader, ProxyError> {
    while fixed.len < FIXED_2 {
        let lacks = FIXED_2 - fixed.len;
        fixed.read(stream, lacks).await?;
    }
    let [.., command, family, high, low] = *fixed.bytes() else { return Err(ProxyError::NotAHeader) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_REST_2 {
        return Err(ProxyError::TooLong);
    }
    let (source, taken) = match (command, family) {
        // What a LOCAL header says of families and addresses is to be skipped.
        (0x20, _) | (0x21, 0x00) => (Source::Local, 0),
        (0x21, 0x11) => {
            read_addresses::<_, 12>(stream, length, |[a, b, c, d, _, _, _, _, high, low, ..]| {
                Source::Address((Ipv4Addr::new(*a, *b, *c, *d), u16::from_be_bytes([*high, *low])).into())
            })
            .await?
        }
        (0x21, 0x21) => {
            read_addresses::<_, 36>(stream, length, |[address @ .., high, low, _, _]| {
                let source = address.first_chunk::<16>().copied().unwrap_or_default();
                Source::Address((Ipv6Addr::from(source), u16::from_be_bytes([*high, *low])).into())
            })
            .await?
        }
        (0x21, 0x31) => read_addresses::<_, 216>(stream, length, |_| Source::UnixOrUnknown).await?,
        (0x21, _) => return Err(ProxyError::Family),
        _ => return Err(ProxyError::Command),
    };
    skip(stream, length - taken).await?;
    Ok(ProxyHeader { source })
}

/// Reads the addresses of a family, which take `N` bytes of `length`, and says how many it took.
async fn read_addresses<R: AsyncRead + Unpin, const N: usize>(
    stream: &mut R,
    length: usize,
    source: impl FnOnce(&[u8; N]) -> Source,
) -> Result<(Source, usize), ProxyError> {
    if length < N {
        return Err(ProxyError::TooShort);
    }
    let mut addresses = [0; N];
    exactly(stream, &mut addresses).await?;
    Ok((source(&addresses), N))
}

async fn skip<R: AsyncRead + Unpin>(stream: &mut R, mut length: usize) -> Result<(), ProxyError> {
    let mut scratch = [0; 256];
    while length > 0 {
        let now = length.min(scratch.len());
        exactly(stream, scratch.get_mut(..now).unwrap_or_default()).await?;
        length -= now;
    }
    Ok(())
}

async fn exactly<R: AsyncRead + Unpin>(stream: &mut R, space: &mut [u8]) -> Result<(), ProxyError> {
    match stream.read_exact(space).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ProxyError::Truncated),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    /// Gives at most `most` bytes at a time, and waits for ever at the end.
    struct Dripping<'b> {
        bytes: &'b [u8],
        most: usize,
    }

    impl AsyncRead for Dripping<'_> {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let (now, later) = self.bytes.split_at(self.most.min(self.bytes.len()).min(out.remaining()));
            if now.is_empty() {
                return Poll::Pending;
            }
            out.put_slice(now);
            self.bytes = later;
            Poll::Ready(Ok(()))
        }
    }

    /// What came of some bytes, `None` if more would be needed, and how many were taken.
    fn read(bytes: &[u8], most: usize) -> (Option<Result<Source, ProxyError>>, usize) {
        let mut stream = Dripping { bytes, most };
        let result = match std::pin::pin!(read_header(&mut stream)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result.map(|header| header.source)),
            Poll::Pending => None,
        };
        (result, bytes.len() - stream.bytes.len())
    }

    /// A header followed by a byte of the client, which must be left alone.
    #[track_caller]
    fn accepted(header: &[u8], source: Source) {
        for most in [1, 2, 3, 7, 9999] {
            let (result, taken) = read(&[header, b"C"].concat(), most);
            assert_eq!(result.expect("read whole").expect("a header"), source);
            assert_eq!(taken, header.len());
        }
    }

    #[track_caller]
    fn refused(header: &[u8], error: &str) {
        for most in [1, 9999] {
            let (result, _) = read(header, most);
            assert_eq!(result.expect("read whole").expect_err("refused").to_string(), error, "{}", header.escape_ascii());
        }
    }

    fn address(text: &str) -> Source {
        Source::Address(text.parse().expect("an address"))
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("a length").to_be_bytes();
        [SIGNATURE_2, &[command, family], &length, rest].concat()
    }

    #[test]
    fn a_line_of_version_1_names_the_source() {
        accepted(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", address("192.0.2.1:56324"));
        accepted(b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", address("0.0.0.0:0"));
        accepted(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", address("255.255.255.255:65535"));
        accepted(b"PROXY TCP6 2001:db8::1 :: 56324 443\r\n", address("[2001:db8::1]:56324"));
        accepted(b"PROXY TCP6 :: :: 1 2\r\n", address("[::]:1"));
        accepted(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", address("[::ffff:192.0.2.1]:1"));
        accepted(
            b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            address("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        );
    }

    #[test]
    fn an_unknown_source_is_the_sockets_own_whatever_else_is_said() {
        accepted(b"PROXY UNKNOWN\r\n", Source::Local);
        accepted(b"PROXY UNKNOWN 1.2.3.4 whatever \r\n", Source::Local);
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!(longest.len(), LONGEST_LINE);
        accepted(longest.as_bytes(), Source::Local);
    }

    #[test]
    fn a_line_of_version_1_has_no_liberties() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 1\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 56324 443\r\n",
            "PROXY TCP4\t192.0.2.1 198.51.100.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.2 56324 443\r\n",
            "PROXY TCP4 192.0.2 198.51.100.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100 56324 443\r\n",
            "PROXY TCP4 ::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
            "PROXY TCP6 [::1] ::1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 01 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 00\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 \r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
            "PROXY TCP4\r\n",
            "PROXY \r\n",
            "PROXY UNKNOWN\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.\u{e9} 1 2\r\n",
        ] {
            refused(line.as_bytes(), "the PROXY line is malformed");
        }
        refused(&[&b"PROXY UNKNOWN "[..], &[b'x'; 93], b"\r\n"].concat(), "the PROXY header is too long");
        refused(&[b'P', b'R', b'O', b'X', b'Y', b' ', b'T', b'C', b'P', b'4'].repeat(12), "the PROXY header is too long");
    }

    #[test]
    fn anything_else_is_refused_at_its_first_wrong_byte() {
        let none = "the connection does not begin with a PROXY header";
        for start in ["GET / HTTP/1.1", "X", "\x16\x03\x01", "PROXX", "proxy ", "\r\n\r\n\0\r\nQUIX", "\n", "PROXY\t"] {
            refused(start.as_bytes(), none);
        }
    }

    #[test]
    fn a_stream_that_ends_too_early_is_told() {
        for start in [&b""[..], b"PROX", b"PROXY TCP4 192.0.2.1 198", SIGNATURE_2, &version_2(0x21, 0x11, &[0; 12])[..20]] {
            let mut stream = start;
            let mut future = std::pin::pin!(read_header(&mut stream));
            let result = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(result, Poll::Ready(Err(ProxyError::Truncated))));
        }
    }

    const INET: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb];

    #[test]
    fn version_2_names_the_source() {
        accepted(&version_2(0x21, 0x11, INET), address("192.0.2.1:56324"));
        let mut inet6 = [0; 36];
        inet6[15] = 1;
        inet6[31] = 2;
        inet6[32..].copy_from_slice(&[0xdc, 4, 1, 0xbb]);
        accepted(&version_2(0x21, 0x21, &inet6), address("[::1]:56324"));
        accepted(&version_2(0x21, 0x31, &[b'/'; 216]), Source::UnixOrUnknown);
    }

    #[test]
    fn the_tlvs_of_version_2_are_skipped() {
        let tlvs = [INET, &[4, 0, 1, 0], &[0xea; 1000]].concat();
        accepted(&version_2(0x21, 0x11, &tlvs), address("192.0.2.1:56324"));
        accepted(&version_2(0x21, 0x11, &[INET, &[0; 4068]].concat()), address("192.0.2.1:56324"));
        refused(&version_2(0x21, 0x11, &[INET, &[0; 4069]].concat()), "the PROXY header is too long");
    }

    #[test]
    fn what_version_2_leaves_open_is_the_sockets_own() {
        accepted(&version_2(0x20, 0x00, b""), Source::Local);
        accepted(&version_2(0x20, 0x11, INET), Source::Local);
        accepted(&version_2(0x20, 0xff, &[7; 300]), Source::Local);
        accepted(&version_2(0x21, 0x00, b""), Source::Local);
        accepted(&version_2(0x21, 0x00, &[7; 300]), Source::Local);
    }

    #[test]
    fn version_2_is_not_about_datagrams_nor_anything_unknown() {
        for family in [0x12, 0x22, 0x32, 0x01, 0x02, 0x10, 0x13, 0x41, 0xff] {
            refused(&version_2(0x21, family, &[0; 216]), "the PROXY header is not about a stream of a known family");
        }
        for command in [0x00, 0x01, 0x10, 0x11, 0x22, 0x2f, 0x31, 0xff] {
            refused(&version_2(command, 0x11, INET), "the PROXY header has a version or command that is not known");
        }
        for (family, length) in [(0x11, 11), (0x21, 35), (0x31, 215), (0x11, 0)] {
            refused(&version_2(0x21, family, &vec![0; length]), "the PROXY header is too short for its addresses");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_take_more_than_the_bound(
            start in prop_oneof![Just(&b""[..]), Just(SIGNATURE_1), Just(SIGNATURE_2), Just(&b"PROXY TCP4 "[..])],
            rest in vec(any::<u8>(), 0..5000),
            most in 1usize..200,
        ) {
            let bytes = [start, &rest].concat();
            let (_, taken) = read(&bytes, most);
            prop_assert!(taken <= 4096);
        }

        #[test]
        fn what_a_proxy_writes_is_what_is_read(
            source: SocketAddr, port: u16, tlvs in vec(any::<u8>(), 0..50), after in vec(any::<u8>(), 0..50), most in 1usize..99,
        ) {
            let source = SocketAddr::new(source.ip(), source.port());
            let ip = source.ip();
            let family = if ip.is_ipv4() { "TCP4" } else { "TCP6" };
            let line = format!("PROXY {family} {ip} {ip} {} {port}\r\n", source.port()).into_bytes();
            let ports = [source.port().to_be_bytes(), port.to_be_bytes()].concat();
            let binary = match ip {
                IpAddr::V4(ip) => version_2(0x21, 0x11, &[&ip.octets()[..], &ip.octets(), &ports, &tlvs].concat()),
                IpAddr::V6(ip) => version_2(0x21, 0x21, &[&ip.octets()[..], &ip.octets(), &ports, &tlvs].concat()),
            };
            for header in [line, binary] {
                let (result, taken) = read(&[&header[..], &after].concat(), most);
                prop_assert_eq!(result.expect("read whole").expect("a header"), Source::Address(source));
                prop_assert_eq!(taken, header.len());
            }
        }
    }
}
