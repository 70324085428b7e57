//! Random connections of opaque bytes, told apart by who opens them where, and by the server name of a ClientHello.

use super::callers::CALLERS;
use anyhow::Result;
use proptest::prelude::*;
use proptest::sample::select;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::sync::Arc;

/// A connection, and how it begins.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    /// Index in [`CALLERS`].
    pub(crate) client: usize,
    pub(crate) port: u16,
    pub(crate) first: First,
}

/// The first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// No TLS.
    Bytes(&'static [u8]),
    /// A ClientHello of TLS.
    Hello {
        /// The server name in it.
        name: Option<&'static str>,
    },
}

pub(crate) fn stream() -> impl Strategy<Value = Opened> {
    let plain = [&b"\0\0\0\x08\x04\xd2\x16\x2f"[..], b"SSH-2.0-test\r\n", b"\x17\x03\x03\0\x01x"];
    let names = [
        "app.example",
        "x.app.example",
        "APP.example",
        "other.example",
        "app.test",
        "example",
        "appxexample",
    ];
    let first = prop_oneof![
        1 => select(plain.to_vec()).prop_map(First::Bytes),
        1 => Just(First::Hello { name: None }),
        4 => select(names.to_vec()).prop_map(|name| First::Hello { name: Some(name) }),
    ];
    (0..CALLERS.len(), select(&[80_u16, 8080][..]), first).prop_map(|(client, port, first)| Opened {
        client,
        port,
        first,
    })
}

impl First {
    /// As they are sent. The random parts of a ClientHello are new each time.
    pub(crate) fn bytes(self) -> Result<Vec<u8>> {
        let name = match self {
            Self::Bytes(bytes) => return Ok(bytes.to_vec()),
            Self::Hello { name } => name,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.enable_sni = name.is_some();
        let name = ServerName::try_from(name.unwrap_or("none.example"))?;
        let mut client = ClientConnection::new(Arc::new(config), name)?;
        let mut hello = Vec::new();
        client.write_tls(&mut hello)?;
        Ok(hello)
    }
}
