//! The Kubernetes API as far as the tests write and read it: JSON objects over HTTPS, a few milliseconds a call.

use super::objects;
use super::state::{HUB, State};
use crate::http::{Client, Reply, empty, full};
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use http::{Method, Request};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Port of the API server.
pub(super) const PORT: u16 = 6443;

/// Pause between two looks at an object.
const PAUSE: Duration = Duration::from_millis(25);

/// Who owns the fields that the tests write (server-side apply).
const MANAGER: &str = "lab";

/// A client with the rights of an administrator.
#[derive(Clone)]
pub struct Api {
    tls: TlsConnector,
    token: Arc<str>,
}

impl Api {
    /// A client of the lab's API server.
    pub fn new(state: &State) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(state.authority.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), token: state.token.as_str().into() })
    }

    /// Sends one request; any status is an answer.
    pub async fn send(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> Result<Reply> {
        let tcp = wait::within("the API server", TcpStream::connect((HUB, PORT))).await??;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(std::net::IpAddr::from(HUB).into());
        let client = Client::http1(self.tls.connect(name, tcp).await?).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "kubernetes.default.svc")
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", kind)
            .header("accept", "application/json");
        client.send(request.body(body.map_or_else(empty, |body| full(body.to_string())))?).await
    }

    async fn call(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> Result<Value> {
        // Futures of TLS connections are large, and many calls are made within one test's future.
        let reply = Box::pin(self.send(method.clone(), path, kind, body)).await?;
        let told = reply.text();
        ensure!(reply.status.is_success(), "{method} {path}: {} {told}", reply.status);
        serde_json::from_str(&told).with_context(|| format!("{method} {path}: {told}"))
    }

    /// The object at `path`.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, "application/json", None).await
    }

    /// The object at `path`, if there is one.
    pub async fn find(&self, path: &str) -> Result<Option<Value>> {
        let reply = Box::pin(self.send(Method::GET, path, "application/json", None)).await?;
        match reply.status.as_u16() {
            200 => Ok(Some(reply.json()?)),
            404 => Ok(None),
            status => bail!("GET {path}: {status} {}", reply.text()),
        }
    }

    /// Waits until the object at `path` is there and `wanted` finds something in it.
    pub async fn until<T>(&self, path: &str, what: &str, wanted: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let mut last = None;
        let looked = wait::within(what, async {
            loop {
                last = self.find(path).await?;
                match last.as_ref().and_then(&wanted) {
                    Some(found) => return anyhow::Ok(found),
                    None => tokio::time::sleep(PAUSE).await,
                }
            }
        });
        looked.await.with_context(|| path.to_owned())?
    }

    /// Posts `body` to `path`.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(Method::POST, path, "application/json", Some(body)).await
    }

    /// Creates an object that is not there yet.
    pub async fn create(&self, object: &Value) -> Result<Value> {
        let (folder, _) = place(object)?;
        self.post(&folder, object).await
    }

    /// Creates an object or makes it say this (server-side apply).
    pub async fn apply(&self, object: &Value) -> Result<Value> {
        let (folder, name) = place(object)?;
        let path = format!("{folder}/{name}?fieldManager={MANAGER}&force=true");
        self.call(Method::PATCH, &path, "application/apply-patch+yaml", Some(object)).await
    }

    /// Applies every document of a YAML text.
    pub async fn apply_yaml(&self, text: &str) -> Result<()> {
        for object in objects::documents(text)? {
            self.apply(&object).await?;
        }
        Ok(())
    }

    /// Changes some fields of the object at `path` (JSON merge patch, RFC 7396).
    pub async fn patch(&self, path: &str, change: &Value) -> Result<Value> {
        self.call(Method::PATCH, path, "application/merge-patch+json", Some(change)).await
    }

    /// Deletes the object at `path` at once, without waiting for a kubelet.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.delete_in(path, Duration::ZERO).await
    }

    /// Asks for the object at `path` to be deleted: a pod stays for `grace`, marked as going, until a kubelet (here
    /// [`Self::delete`]) says that it has ended.
    pub async fn delete_in(&self, path: &str, grace: Duration) -> Result<()> {
        let options =
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace.as_secs()});
        self.call(Method::DELETE, path, "application/json", Some(&options)).await?;
        Ok(())
    }

    /// A token of a ServiceAccount for `audience`, bound to a pod if one is named (TokenRequest).
    pub async fn token(
        &self,
        namespace: &str,
        service_account: &str,
        audience: Option<&str>,
        pod: Option<(&str, &str)>,
    ) -> Result<String> {
        let bound =
            pod.map(|(name, uid)| json!({"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}));
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": audience.into_iter().collect::<Vec<_>>(), "expirationSeconds": 43200, "boundObjectRef": bound},
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token");
        let answer = self.post(&path, &request).await?;
        let token =
            answer.pointer("/status/token").and_then(Value::as_str).context("no token in the answer")?;
        Ok(token.to_owned())
    }
}

/// The collection and the name of an object, by the conventions of the Kubernetes API. An object that names no
/// namespace is taken to be of the whole cluster.
fn place(object: &Value) -> Result<(String, String)> {
    let text = |pointer: &str| objects::text(object, pointer);
    let (version, kind, name) = (text("/apiVersion")?, text("/kind")?, text("/metadata/name")?);
    let root = if version.contains('/') { "apis" } else { "api" };
    let within = text("/metadata/namespace").map(|name| format!("namespaces/{name}/")).unwrap_or_default();
    Ok((format!("/{root}/{version}/{within}{}", plural(kind)), name.to_owned()))
}

fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    let vowel_before_y = ["ay", "ey", "oy"].iter().any(|end| kind.ends_with(end));
    match kind.strip_suffix('y') {
        Some(stem) if !vowel_before_y => format!("{stem}ies"),
        _ if kind == "endpoints" => kind,
        _ if kind.ends_with('s') => format!("{kind}es"),
        _ => format!("{kind}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_lie_where_the_api_puts_them() {
        let rows = [
            ("v1", "Pod", Some("app"), "/api/v1/namespaces/app/pods"),
            ("v1", "Namespace", None, "/api/v1/namespaces"),
            (
                "gateway.networking.k8s.io/v1",
                "Gateway",
                Some("app"),
                "/apis/gateway.networking.k8s.io/v1/namespaces/app/gateways",
            ),
            (
                "gateway.networking.k8s.io/v1",
                "GatewayClass",
                None,
                "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
            ),
            (
                "telemetry.istio.io/v1",
                "Telemetry",
                Some("a"),
                "/apis/telemetry.istio.io/v1/namespaces/a/telemetries",
            ),
            (
                "networking.istio.io/v1",
                "ServiceEntry",
                Some("a"),
                "/apis/networking.istio.io/v1/namespaces/a/serviceentries",
            ),
        ];
        for (version, kind, namespace, path) in rows {
            let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": namespace}});
            assert_eq!(place(&object).unwrap(), (path.to_owned(), "x".to_owned()));
        }
        assert!(place(&json!({"kind": "Pod"})).is_err());
    }
}
