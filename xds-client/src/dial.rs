//! From settings to a connection and a stream on it. Token and roots are read anew each time: both are renewed by others.

use std::path::Path;

use http::{HeaderName, HeaderValue};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use crate::failure::Failure;
use crate::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, METHOD};
use crate::settings::{BearerToken, Roots, Security, Settings};

/// Flow-control window of the stream, in bytes: a first answer of some megabytes need not wait for round trips.
const STREAM_WINDOW: u32 = 4 << 20;

/// Flow-control window of the connection, in bytes. More than the stream's, so that it never waits for it.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A connection, and the headers for the call on it.
pub(crate) struct Dialled {
    channel: Channel,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// An open stream.
pub(crate) type Responses = Streaming<DeltaDiscoveryResponse>;

/// Connects and authenticates the other end.
pub(crate) async fn dial(settings: &Settings) -> Result<Dialled, Failure> {
    let headers = headers(settings).await?;
    let endpoint = endpoint(settings).await?;
    let address = &settings.address;
    resolve(address).await?;
    match tokio::time::timeout(settings.connect_timeout, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(Dialled { channel, headers }),
        Ok(Err(error)) => Err(Failure::from_transport(address, &error)),
        Err(_) => Err(Failure::ConnectTimeout { address: address.clone(), within: settings.connect_timeout }),
    }
}

/// Begins the call; `requests` holds the first ones already, since the other end may not answer before it has read them.
pub(crate) async fn open(
    dialled: Dialled,
    settings: &Settings,
    requests: mpsc::Receiver<DeltaDiscoveryRequest>,
) -> Result<Responses, Failure> {
    let address = &settings.address;
    let mut call = Request::new(ReceiverStream::new(requests));
    *call.metadata_mut() = MetadataMap::from_headers(dialled.headers.into_iter().collect());
    let mut client =
        tonic::client::Grpc::new(dialled.channel).max_decoding_message_size(settings.message_limit_bytes);
    let answered = async {
        client.ready().await.map_err(|error| Failure::from_transport(address, &error))?;
        let codec = ProstCodec::default();
        let response = client.streaming(call, http::uri::PathAndQuery::from_static(METHOD), codec).await;
        response.map_err(|status| Failure::from_status(address, &status))
    };
    match tokio::time::timeout(settings.answer_timeout, answered).await {
        Ok(answered) => Ok(answered?.into_inner()),
        Err(_) => Err(Failure::Unanswered { address: address.clone(), within: settings.answer_timeout }),
    }
}

/// Looks the name up first: the transport does it again, but does not say which of its steps failed.
async fn resolve(address: &str) -> Result<(), Failure> {
    let failed = |source| Failure::Resolve { address: address.to_owned(), source };
    let mut found = tokio::net::lookup_host(address).await.map_err(failed)?;
    match found.next() {
        Some(_) => Ok(()),
        None => Err(failed(std::io::ErrorKind::NotFound.into())),
    }
}

async fn headers(settings: &Settings) -> Result<Vec<(HeaderName, HeaderValue)>, Failure> {
    // Checked when the client was made; a header that cannot be sent is left out rather than sent otherwise.
    let mut headers = settings.checked_headers().unwrap_or_default();
    if let Some(token) = &settings.token {
        headers.push((http::header::AUTHORIZATION, bearer(token).await?));
    }
    Ok(headers)
}

async fn bearer(token: &BearerToken) -> Result<HeaderValue, Failure> {
    let (from, text) = match token {
        BearerToken::Literal(text) => ("the token given as text".to_owned(), text.clone()),
        BearerToken::File(path) => {
            let read = tokio::fs::read_to_string(path).await;
            let text = read.map_err(|source| Failure::Token { path: path.clone(), source })?;
            (path.display().to_string(), text)
        }
    };
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::NotAToken { from, why: "it is empty" });
    }
    let mut value = HeaderValue::try_from(format!("Bearer {text}"))
        .map_err(|_| Failure::NotAToken { from, why: "it has characters that no token has" })?;
    value.set_sensitive(true);
    Ok(value)
}

async fn endpoint(settings: &Settings) -> Result<Endpoint, Failure> {
    let of_settings = |error| Failure::from_transport(&settings.address, &error);
    let endpoint = Endpoint::from_shared(settings.uri())
        .map_err(of_settings)?
        .connect_timeout(settings.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(settings.keepalive_interval)
        .keep_alive_timeout(settings.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let Security::Tls { roots, server_name } = &settings.security else { return Ok(endpoint) };
    let mut tls = ClientTlsConfig::new().trust_anchors(read_roots(roots).await?.roots);
    if let Some(name) = server_name {
        tls = tls.domain_name(name);
    }
    endpoint.tls_config(tls).map_err(of_settings)
}

async fn read_roots(roots: &Roots) -> Result<RootCertStore, Failure> {
    let pem = match roots {
        Roots::Pem(pem) => pem.clone().into_bytes(),
        Roots::File(path) => read(path).await?,
    };
    let none = |why: String| Failure::NoRoots { from: roots.to_string(), why };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| none(error.to_string()))?;
    let mut store = RootCertStore::empty();
    let (usable, ignored) = store.add_parsable_certificates(certificates);
    if usable == 0 {
        return Err(none(format!("{ignored} of {ignored} certificates in it are unusable")));
    }
    if ignored > 0 {
        tracing::warn!(%roots, ignored, "certificates among the roots are unusable");
    }
    Ok(store)
}

async fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    tokio::fs::read(path).await.map_err(|source| Failure::Roots { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said<T>(outcome: impl Future<Output = Result<T, Failure>>) -> String {
        match outcome.await {
            Ok(_) => panic!("it worked"),
            Err(failure) => format!("{failure}; fix: {}", failure.fix()),
        }
    }

    #[tokio::test]
    async fn a_token_is_read_anew_and_without_its_newline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for token in ["one", "two"] {
            std::fs::write(&path, format!("{token}\n")).unwrap();
            let value = bearer(&BearerToken::File(path.clone())).await.unwrap();
            assert_eq!(value.to_str().unwrap(), format!("Bearer {token}"));
            assert!(value.is_sensitive());
        }
    }

    #[tokio::test]
    async fn a_file_that_is_no_token_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let text = said(bearer(&BearerToken::File(gone))).await;
        assert!(text.contains("gone cannot be read; fix: mount"), "{text}");
        let path = folder.path().join("token");
        for (content, why) in [(" \n", "it is empty"), ("half\na secret", "characters that no token has")] {
            std::fs::write(&path, content).unwrap();
            let text = said(bearer(&BearerToken::File(path.clone()))).await;
            assert!(text.contains(why) && text.contains("token") && !text.contains("secret"), "{text}");
        }
    }

    #[tokio::test]
    async fn roots_without_a_certificate_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        let text = said(read_roots(&Roots::File(path.clone()))).await;
        assert!(text.contains("roots.pem cannot be read; fix: give a PEM file"), "{text}");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for content in ["", "no pem", broken] {
            std::fs::write(&path, content).unwrap();
            let text = said(read_roots(&Roots::File(path.clone()))).await;
            assert!(text.contains("holds no certificate that can be a root"), "{content}: {text}");
        }
    }
}
