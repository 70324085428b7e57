//! PROXY protocol v2 as ztunnel writes it in front of a sandwiched waypoint (HAProxy's PROXY protocol specification §2.2).
//!
//! TLV 0xD0 holds the source's SPIFFE id. It is believed because of who wrote it, so read it on loopback only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length.
const FIXED: usize = 16;

/// Longest header accepted after the fixed part, in bytes: addresses, and a SPIFFE id of 2 KiB with room to spare.
pub const MAX_LENGTH: usize = 4096;

const COMMAND_LOCAL: u8 = 0x20;
const COMMAND_PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const TLV_IDENTITY: u8 = 0xD0;

/// What a header says of the connection behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client's address.
    pub source: SocketAddr,
    /// Where the client wanted to go.
    pub destination: SocketAddr,
    /// The client's SPIFFE id (TLV 0xD0), as text that is only known to be UTF-8.
    pub identity: Option<String>,
}

/// Why there is no header. Close the connection: its first bytes are gone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream failed or ended.
    #[error("the connection failed before its PROXY header was read")]
    Io(#[from] io::Error),
    /// Not the bytes of a header; the text tells which part.
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
    /// Command LOCAL: the proxy's own health check, which carries no addresses to serve.
    #[error("a LOCAL PROXY header names no client")]
    Local,
}

/// Reads a header and nothing after it. The caller sets the deadline. Not cancel safe: bytes read are lost.
///
/// # Errors
/// The stream failed, the header is malformed or longer than [`MAX_LENGTH`], or it is LOCAL.
pub async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<Header, Error> {
    let mut fixed = [0; FIXED];
    io.read_exact(&mut fixed).await?;
    let (command, family, length) = parse_fixed(&fixed)?;
    let mut rest = vec![0; length];
    io.read_exact(&mut rest).await?;
    parse_rest(command, family, &rest)
}

/// Parses a whole header at the start of `bytes`; also tells how long it was.
///
/// # Errors
/// As [`read`]; bytes that are missing are [`Error::Malformed`].
pub fn parse(bytes: &[u8]) -> Result<(Header, usize), Error> {
    let (fixed, rest) = bytes.split_first_chunk::<FIXED>().ok_or(Error::Malformed("too short"))?;
    let (command, family, length) = parse_fixed(fixed)?;
    let rest = rest.get(..length).ok_or(Error::Malformed("shorter than its length"))?;
    Ok((parse_rest(command, family, rest)?, FIXED + length))
}

/// Writes a PROXY header. Addresses of two families are both written as IPv6, the IPv4 one mapped.
///
/// An identity that does not fit [`MAX_LENGTH`] (a SPIFFE id does, SPIFFE-ID §2.3) gives a header that [`read`] refuses.
#[must_use]
pub fn encode(header: &Header) -> Vec<u8> {
    let mut rest = Vec::with_capacity(256);
    let family = match (header.source.ip(), header.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            rest.extend(source.octets());
            rest.extend(destination.octets());
            TCP4
        }
        (source, destination) => {
            rest.extend(to_v6(source).octets());
            rest.extend(to_v6(destination).octets());
            TCP6
        }
    };
    rest.extend(header.source.port().to_be_bytes());
    rest.extend(header.destination.port().to_be_bytes());
    if let Some(identity) = &header.identity {
        rest.push(TLV_IDENTITY);
        rest.extend(length_bytes(identity.len()));
        rest.extend(identity.bytes());
    }
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([COMMAND_PROXY, family]);
    bytes.extend(length_bytes(rest.len()));
    bytes.extend(rest);
    bytes
}

fn to_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn length_bytes(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

fn parse_fixed(fixed: &[u8; FIXED]) -> Result<(u8, u8, usize), Error> {
    let [signature @ .., command, family, high, low] = fixed;
    if *signature != SIGNATURE {
        return Err(Error::Malformed("signature"));
    }
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > MAX_LENGTH {
        return Err(Error::Malformed("length above the limit"));
    }
    Ok((*command, *family, length))
}

fn parse_rest(command: u8, family: u8, rest: &[u8]) -> Result<Header, Error> {
    match command {
        COMMAND_PROXY => {}
        COMMAND_LOCAL => return Err(Error::Local),
        _ => return Err(Error::Malformed("version or command")),
    }
    let mut rest = Reader(rest);
    let (source, destination) = match family {
        TCP4 => (IpAddr::V4(rest.array()?.into()), IpAddr::V4(Ipv4Addr::from(rest.array::<4>()?))),
        TCP6 => (IpAddr::V6(rest.array()?.into()), IpAddr::V6(Ipv6Addr::from(rest.array::<16>()?))),
        _ => return Err(Error::Malformed("neither TCP over IPv4 nor over IPv6")),
    };
    let source = SocketAddr::new(source, u16::from_be_bytes(rest.array()?));
    let destination = SocketAddr::new(destination, u16::from_be_bytes(rest.array()?));
    Ok(Header { source, destination, identity: identity(rest)? })
}

/// Reads all TLVs to their end; of two identities neither can be believed.
fn identity(mut tlvs: Reader<'_>) -> Result<Option<String>, Error> {
    let mut identity = None;
    while !tlvs.0.is_empty() {
        let [kind, high, low] = tlvs.array()?;
        let value = tlvs.take(usize::from(u16::from_be_bytes([high, low])))?;
        if kind != TLV_IDENTITY {
            continue;
        }
        let text = std::str::from_utf8(value).map_err(|_| Error::Malformed("identity is not UTF-8"))?;
        if identity.replace(text.to_owned()).is_some() {
            return Err(Error::Malformed("two identities"));
        }
    }
    Ok(identity)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Error::Malformed("ends inside a field"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Error::Malformed("ends inside a field"))?;
        self.0 = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(identity: Option<&str>) -> Header {
        Header {
            source: "10.0.0.1:1234".parse().unwrap(),
            destination: "10.96.0.9:80".parse().unwrap(),
            identity: identity.map(str::to_owned),
        }
    }

    #[test]
    fn a_header_is_the_bytes_of_the_specification() {
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x15".to_vec();
        expected.extend([10, 0, 0, 1, 10, 96, 0, 9, 0x04, 0xD2, 0, 80]);
        expected.extend(b"\xD0\0\x06spiffe");
        assert_eq!(encode(&header(Some("spiffe"))), expected);
        assert_eq!(parse(&expected).unwrap(), (header(Some("spiffe")), expected.len()));
    }

    #[tokio::test]
    async fn reading_leaves_what_follows() {
        let mut bytes = encode(&header(Some("spiffe://td/ns/a/sa/b")));
        bytes.extend(b"GET /");
        let mut io = bytes.as_slice();
        assert_eq!(read(&mut io).await.unwrap(), header(Some("spiffe://td/ns/a/sa/b")));
        assert_eq!(io, b"GET /");
    }

    fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
        let mut bytes = encode(&header(None));
        bytes.extend(tlvs);
        let length = u16::try_from(bytes.len() - FIXED).unwrap();
        bytes[14..16].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    #[test]
    fn other_tlvs_are_passed_over() {
        let bytes = with_tlvs(b"\xD1\0\x04host\x04\0\0\xD0\0\x01a");
        assert_eq!(parse(&bytes).unwrap().0, header(Some("a")));
    }

    #[test]
    fn malformed_headers_are_refused_by_name() {
        let patched = |at: usize, byte: u8| {
            let mut bytes = encode(&header(None));
            bytes[at] = byte;
            bytes
        };
        let table = [
            ("too short", b"\r\n\r\n".to_vec()),
            ("signature", patched(0, b'P')),
            ("version or command", patched(12, 0x11)),
            ("version or command", patched(12, 0x22)),
            ("neither TCP over IPv4 nor over IPv6", patched(13, 0x00)),
            ("neither TCP over IPv4 nor over IPv6", patched(13, 0x12)),
            ("neither TCP over IPv4 nor over IPv6", patched(13, 0x31)),
            ("length above the limit", patched(14, 0x20)),
            ("shorter than its length", patched(15, 13)),
            ("ends inside a field", patched(15, 11)),
            ("ends inside a field", patched(13, TCP6)),
            ("ends inside a field", with_tlvs(b"\xD0\0")),
            ("ends inside a field", with_tlvs(b"\xD0\0\x02a")),
            ("ends inside a field", with_tlvs(b"\xD1\xFF\xFFa")),
            ("identity is not UTF-8", with_tlvs(b"\xD0\0\x01\xFF")),
            ("two identities", with_tlvs(b"\xD0\0\x01a\xD0\0\x01a")),
        ];
        for (fault, bytes) in table {
            match parse(&bytes) {
                Err(Error::Malformed(why)) => assert_eq!(why, fault, "{bytes:?}"),
                other => panic!("{fault}: {other:?}"),
            }
        }
        assert!(matches!(parse(&patched(12, 0x20)), Err(Error::Local)));
    }

    #[tokio::test]
    async fn a_stream_that_ends_early_is_an_error() {
        let bytes = encode(&header(Some("spiffe")));
        for cut in 0..bytes.len() {
            assert!(matches!(read(&mut &bytes[..cut]).await, Err(Error::Io(_))), "{cut}");
        }
    }

    #[test]
    fn an_identity_too_long_for_a_header_is_never_believed_in_part() {
        for length in [MAX_LENGTH, usize::from(u16::MAX) + 1] {
            let bytes = encode(&header(Some(&"a".repeat(length))));
            assert!(matches!(parse(&bytes), Err(Error::Malformed("length above the limit"))));
        }
    }

    fn address(v4: bool) -> BoxedStrategy<SocketAddr> {
        match v4 {
            true => (any::<Ipv4Addr>(), any::<u16>()).prop_map(Into::into).boxed(),
            false => (any::<Ipv6Addr>(), any::<u16>()).prop_map(Into::into).boxed(),
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_parses_to_the_same(
            (source, destination) in any::<bool>().prop_flat_map(|v4| (address(v4), address(v4))),
            identity in proptest::option::of("\\PC{0,200}"),
        ) {
            let header = Header { source, destination, identity };
            let bytes = encode(&header);
            let length = bytes.len();
            prop_assert_eq!(parse(&bytes).unwrap(), (header, length));
        }

        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), whole in any::<bool>()) {
            if whole && bytes.len() >= FIXED {
                bytes[..12].copy_from_slice(&SIGNATURE);
                bytes[12] = COMMAND_PROXY;
                bytes[14] = 0;
            }
            if let Ok((_, length)) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
