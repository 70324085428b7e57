//! Our certificate and roots as Envoy's secrets (`envoy.admin.v3.SecretsConfigDump`). Never the key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certs::X509Svid;
use serde_json::{Value, json};

use super::timestamp;

/// What Envoy has in the place of a key.
const REDACTED: &[u8] = b"[redacted]";
const LINE: usize = 64;

/// The certificate under Istio's names, `default` and `ROOTCA`; nothing while there is none.
pub(super) fn secrets(svid: Option<&X509Svid>) -> Value {
    let inline = |bytes: &[u8]| json!({"inline_bytes": STANDARD.encode(bytes)});
    let secrets = svid.map_or_else(Vec::new, |svid| {
        let chain = pem(svid.chain().iter().map(AsRef::as_ref));
        let roots = pem(svid.roots().iter().map(AsRef::as_ref));
        vec![
            secret(
                "default",
                svid,
                "tls_certificate",
                json!({"certificate_chain": inline(chain.as_bytes()), "private_key": inline(REDACTED)}),
            ),
            secret("ROOTCA", svid, "validation_context", json!({"trusted_ca": inline(roots.as_bytes())})),
        ]
    });
    json!({
        "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
        "dynamic_active_secrets": secrets,
    })
}

fn secret(name: &str, svid: &X509Svid, kind: &str, content: Value) -> Value {
    json!({
        "name": name,
        "version_info": svid.serial(),
        "last_updated": timestamp(svid.not_before()),
        "secret": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": name,
            kind: content,
        },
    })
}

/// Certificates as text (RFC 7468 §5).
fn pem<'a>(certificates: impl Iterator<Item = &'a [u8]>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        let mut rest = encoded.as_str();
        while let Some((line, after)) = rest.split_at_checked(LINE) {
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        if !rest.is_empty() {
            text.push_str(rest);
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_and_the_roots_are_shown_and_the_key_is_not() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap())];
        let certificate = params.self_signed(&key).unwrap().pem().replace("\r\n", "\n");
        let private = key.serialize_pem();
        let bytes = certificate.as_bytes();
        let svid = X509Svid::from_pem(bytes, private.as_bytes(), bytes).unwrap();
        let shown = secrets(Some(&svid));
        let decoded = |pointer: &str| {
            let text = shown.pointer(pointer).and_then(Value::as_str).expect(pointer);
            String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
        };
        let chain = "/dynamic_active_secrets/0/secret/tls_certificate";
        assert_eq!(decoded(&format!("{chain}/certificate_chain/inline_bytes")), certificate);
        assert_eq!(decoded(&format!("{chain}/private_key/inline_bytes")), "[redacted]");
        let roots = "/dynamic_active_secrets/1/secret/validation_context/trusted_ca/inline_bytes";
        assert_eq!(decoded(roots), certificate);
        assert_eq!(secrets(None)["dynamic_active_secrets"], json!([]));
    }
}
