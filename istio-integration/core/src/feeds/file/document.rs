//! A file's text into documents: YAML split and parsed, lists unwrapped, kind and name read.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::decode::{decode, refuse_nulls, strip_nulls};
use super::finding::{Finding, Remarks, Severity};
use super::meta::{self, Meta};

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file, as found under the folder.
    pub file: Arc<Path>,
    /// Which document of the file, counted from 1.
    pub document: usize,
}

/// The kinds that the feed reads, and those whose absence from the result needs a word of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    AuthorizationPolicy,
    EndpointSlice,
    EnvoyFilter,
    Gateway,
    HttpRoute,
    Namespace,
    Node,
    Pod,
    ReferenceGrant,
    RequestAuthentication,
    Service,
    ServiceEntry,
    WorkloadEntry,
}

/// Group, versions and kind of what is read.
const KINDS: [(&str, &[&str], &str, Kind); 13] = [
    ("", &["v1"], "Namespace", Kind::Namespace),
    ("", &["v1"], "Node", Kind::Node),
    ("", &["v1"], "Pod", Kind::Pod),
    ("", &["v1"], "Service", Kind::Service),
    ("discovery.k8s.io", &["v1"], "EndpointSlice", Kind::EndpointSlice),
    ("gateway.networking.k8s.io", &["v1", "v1beta1"], "Gateway", Kind::Gateway),
    ("gateway.networking.k8s.io", &["v1", "v1beta1"], "HTTPRoute", Kind::HttpRoute),
    ("gateway.networking.k8s.io", &["v1", "v1beta1"], "ReferenceGrant", Kind::ReferenceGrant),
    ("networking.istio.io", &["v1alpha3"], "EnvoyFilter", Kind::EnvoyFilter),
    ("networking.istio.io", &["v1", "v1beta1", "v1alpha3"], "ServiceEntry", Kind::ServiceEntry),
    ("networking.istio.io", &["v1", "v1beta1", "v1alpha3"], "WorkloadEntry", Kind::WorkloadEntry),
    ("security.istio.io", &["v1", "v1beta1"], "AuthorizationPolicy", Kind::AuthorizationPolicy),
    ("security.istio.io", &["v1", "v1beta1"], "RequestAuthentication", Kind::RequestAuthentication),
];

/// Kinds that are not read and could be taken to matter: what to say about them.
const UNREAD_KINDS: [(&str, &str, Severity, &str); 16] = [
    ("security.istio.io", "PeerAuthentication", Severity::Note, "is ztunnel's to enforce and ignored here"),
    ("networking.istio.io", "VirtualService", Severity::Warning, "is not read here: write an HTTPRoute"),
    ("networking.istio.io", "DestinationRule", Severity::Warning, "is not read here and has no effect"),
    ("networking.istio.io", "Sidecar", Severity::Note, "concerns sidecars only"),
    ("networking.istio.io", "Gateway", Severity::Note, "is an ingress gateway's, not a waypoint's"),
    ("extensions.istio.io", "WasmPlugin", Severity::Warning, "is not supported: no Wasm runs here"),
    (
        "extensions.istio.io",
        "TrafficExtension",
        Severity::Warning,
        "is not supported: no Wasm or Lua runs here",
    ),
    ("telemetry.istio.io", "Telemetry", Severity::Warning, "is not read here and has no effect"),
    ("gateway.networking.k8s.io", "GRPCRoute", Severity::Warning, "is not read here: write an HTTPRoute"),
    ("gateway.networking.k8s.io", "TCPRoute", Severity::Warning, "is not read here and has no effect"),
    ("gateway.networking.k8s.io", "TLSRoute", Severity::Warning, "is not read here and has no effect"),
    (
        "gateway.networking.k8s.io",
        "BackendTLSPolicy",
        Severity::Warning,
        "is not read here and has no effect",
    ),
    (
        "apps",
        "Deployment",
        Severity::Note,
        "starts nothing here: add the Pods or WorkloadEntries it stands for",
    ),
    (
        "apps",
        "StatefulSet",
        Severity::Note,
        "starts nothing here: add the Pods or WorkloadEntries it stands for",
    ),
    (
        "apps",
        "DaemonSet",
        Severity::Note,
        "starts nothing here: add the Pods or WorkloadEntries it stands for",
    ),
    ("", "Endpoints", Severity::Warning, "is not read here: write an EndpointSlice"),
];

impl Kind {
    fn of(group: &str, kind: &str) -> Option<Self> {
        KINDS.iter().find(|(g, _, k, _)| *g == group && *k == kind).map(|(.., kind)| *kind)
    }

    fn versions(self) -> &'static [&'static str] {
        KINDS.iter().find(|(.., kind)| *kind == self).map_or(&[], |(_, versions, ..)| versions)
    }

    fn has_namespace(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    /// Whether the API server keeps a null out of it (custom resources) or drops it (its own kinds).
    pub(super) fn is_custom(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::Pod | Self::Service | Self::EndpointSlice)
    }
}

/// A typing error in group or kind must not make a policy vanish; the API server would refuse it.
fn may_be_policy(group: &str, kind: &str) -> bool {
    let listed = UNREAD_KINDS.iter().any(|(g, k, ..)| *g == group && *k == kind);
    let policy = |known: Kind| matches!(known, Kind::AuthorizationPolicy | Kind::RequestAuthentication);
    let named = KINDS.iter().any(|(.., name, known)| *name == kind && policy(*known));
    !listed && (group == "security.istio.io" || named)
}

fn unread_kind(group: &str, kind: &str) -> (Severity, String) {
    let row = UNREAD_KINDS.iter().find(|(g, k, ..)| *g == group && *k == kind);
    match row {
        Some((.., severity, message)) => (*severity, (*message).to_owned()),
        None => (Severity::Note, "is not a kind that a waypoint reads".to_owned()),
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(.., kind)| kind == self).map(|(_, _, name, _)| *name);
        f.write_str(name.unwrap_or_default())
    }
}

/// By which a document replaces an earlier version of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ResourceKey {
    pub(super) kind: Kind,
    /// Empty for kinds without one.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl ResourceKey {
    pub(super) fn full_name(&self) -> String {
        if self.namespace.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }

    pub(super) fn finding(
        &self,
        origin: &Origin,
        severity: Severity,
        field: &str,
        message: impl Into<String>,
    ) -> Finding {
        Finding {
            severity,
            file: origin.file.to_path_buf(),
            document: origin.document,
            kind: self.kind.to_string(),
            name: self.full_name(),
            field: (!field.is_empty()).then(|| field.to_owned()),
            message: message.into(),
        }
    }
}

/// One resource as written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    pub(super) origin: Origin,
    pub(super) key: ResourceKey,
    pub(super) meta: Meta,
    /// Everything but `apiVersion`, `kind` and `metadata`.
    pub(super) body: Value,
    /// What reading it this far brought up.
    pub(super) remarks: Remarks,
}

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) documents: Vec<Document>,
    /// Findings about documents that are no [`Document`].
    pub(super) findings: Vec<Finding>,
    /// Documents of which not even kind and name could be read. They may be anything, a policy too.
    pub(super) unreadable: Vec<usize>,
}

impl Contents {
    /// Reads a file's text.
    pub(super) fn read(file: &Arc<Path>, text: &str) -> Self {
        let mut contents = Self::default();
        let mut number = 0;
        for (line, part) in split(text) {
            match parse(part, line) {
                Ok(Value::Null) => {}
                Ok(value) => {
                    number += 1;
                    contents.take(&Origin { file: file.clone(), document: number }, value);
                }
                Err(message) => {
                    number += 1;
                    contents.unreadable(&Origin { file: file.clone(), document: number }, "", message);
                }
            }
        }
        contents
    }

    /// A file that could not be read at all.
    pub(super) fn unread(file: &Arc<Path>, message: String) -> Self {
        let mut contents = Self::default();
        contents.unreadable(&Origin { file: file.clone(), document: 0 }, "", message);
        contents
    }

    fn unreadable(&mut self, origin: &Origin, kind: &str, message: String) {
        self.unreadable.push(origin.document);
        self.findings.push(loose_finding(origin, Severity::Error, kind, "", message));
    }

    fn take(&mut self, origin: &Origin, value: Value) {
        let Value::Object(mut fields) = value else {
            return self.unreadable(origin, "", "is not a Kubernetes object".to_owned());
        };
        let (kind, version) = (text_of(&fields, "kind"), text_of(&fields, "apiVersion"));
        let (Some(kind), Some(version)) = (kind, version) else {
            return self.unreadable(origin, "", "has no `apiVersion` and `kind`".to_owned());
        };
        if let (true, Some(Value::Array(items))) = (kind.ends_with("List"), fields.get_mut("items")) {
            for item in std::mem::take(items) {
                self.take(origin, item);
            }
            return;
        }
        self.resource(origin, &version, &kind, fields);
    }

    fn resource(
        &mut self,
        origin: &Origin,
        api_version: &str,
        kind_name: &str,
        mut fields: Map<String, Value>,
    ) {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let mut metadata = fields.remove("metadata").unwrap_or_default();
        strip_nulls(&mut metadata);
        let Some(kind) = Kind::of(group, kind_name) else {
            if may_be_policy(group, kind_name) {
                let message = format!("{api_version} is not known: is it a policy of security.istio.io/v1?");
                return self.unreadable(origin, kind_name, message);
            }
            let (severity, message) = unread_kind(group, kind_name);
            let name = written_name(&metadata);
            return self.findings.push(loose_finding(origin, severity, kind_name, &name, message));
        };
        let mut remarks = Remarks::default();
        if !kind.versions().contains(&version) {
            remarks.error(
                "apiVersion",
                format!("{version} is not known: write {}", kind.versions().join(" or ")),
            );
        }
        fields.remove("apiVersion");
        fields.remove("kind");
        let meta = read_meta(&metadata, &mut remarks);
        if meta.name.is_empty() {
            return self.unreadable(origin, kind_name, "metadata.name is missing".to_owned());
        }
        self.documents.push(document(origin, kind, meta, Value::Object(fields), remarks));
    }
}

/// Reads `metadata`; where it has a fault, the name is still read, so that the fault concerns this resource alone.
fn read_meta(metadata: &Value, remarks: &mut Remarks) -> Meta {
    let mut found = Remarks::default();
    let decoded = decode::<Meta>(metadata, meta::UNREAD, &mut found);
    for remark in found.iter() {
        let field =
            remark.field.as_deref().map_or("metadata".to_owned(), |field| format!("metadata.{field}"));
        remarks.push(remark.severity, field, remark.message.clone());
    }
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    decoded.unwrap_or_else(|| Meta { name: text("name"), namespace: text("namespace"), ..Meta::default() })
}

fn document(origin: &Origin, kind: Kind, meta: Meta, mut body: Value, mut remarks: Remarks) -> Document {
    if kind.is_custom() {
        if let Some(spec) = body.get("spec") {
            refuse_nulls(spec, "spec", &mut remarks);
        }
    } else {
        strip_nulls(&mut body);
    }
    let namespace = match (kind.has_namespace(), meta.namespace.as_str()) {
        (false, _) => "",
        (true, "") => "default",
        (true, namespace) => namespace,
    };
    let key = ResourceKey { kind, namespace: namespace.to_owned(), name: meta.name.clone() };
    Document { origin: origin.clone(), key, meta, body, remarks }
}

fn loose_finding(origin: &Origin, severity: Severity, kind: &str, name: &str, message: String) -> Finding {
    Finding {
        severity,
        file: origin.file.to_path_buf(),
        document: origin.document,
        kind: kind.to_owned(),
        name: name.to_owned(),
        field: None,
        message,
    }
}

fn text_of(fields: &Map<String, Value>, key: &str) -> Option<String> {
    fields.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn written_name(metadata: &Value) -> String {
    let part = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
    match (part("namespace"), part("name")) {
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

/// Splits at lines that begin with `---`, as YAML itself does even inside a block scalar, so that one broken document
/// does not take its neighbours with it. Each part comes with the number of lines before it.
fn split(text: &str) -> Vec<(usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut parts, mut start, mut start_line, mut at) = (Vec::new(), 0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && at > start {
            parts.push((start_line, text.get(start..at).unwrap_or_default()));
            (start, start_line) = (at, number);
        }
        at += line.len();
    }
    parts.push((start_line, text.get(start..).unwrap_or_default()));
    parts
}

/// A file's size bounds what it says outright; these bound what a list of all a cluster's pods needs, and what
/// anchors may add to it.
const MAX_NODES: usize = 4_000_000;
const MAX_REPLAYED: usize = 20_000;

/// Parses one document. Duplicate keys are an error, and what anchors may grow to is bounded by the parser's budget.
fn parse(text: &str, lines_before: usize) -> Result<Value, String> {
    let says_nothing = |line: &str| line.starts_with('#') || matches!(line, "" | "---" | "...");
    if text.lines().all(|line| says_nothing(line.trim())) {
        return Ok(Value::Null);
    }
    // Parsed again only to learn the line within the file: positions count from the start of what the parser is given.
    from_yaml(text).or_else(|_| from_yaml(&("\n".repeat(lines_before) + text)))
}

fn from_yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_nodes: MAX_NODES, max_events: 2 * MAX_NODES },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let message = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
        message.lines().next().unwrap_or_default().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Contents {
        Contents::read(&Arc::from(Path::new("a.yaml")), text)
    }

    #[test]
    fn documents_are_split_at_markers_and_counted_without_the_empty_ones() {
        let text = "# licence\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n\n--- # third\n\
                    apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";
        let got: Vec<_> =
            read(text).documents.iter().map(|d| (d.key.name.clone(), d.origin.document)).collect();
        assert_eq!(got, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    }

    #[test]
    fn a_broken_document_leaves_its_neighbours_and_names_its_line() {
        let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\nkind: [\n---\n\
                    apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";
        let contents = read(text);
        assert_eq!(contents.documents.len(), 2);
        assert_eq!(contents.unreadable, [2]);
        let message = contents.findings[0].to_string();
        assert!(message.starts_with("a.yaml:2: ") && message.contains("line 5"), "{message}");
    }

    #[test]
    fn unreadable_documents_say_why() {
        let rows = [
            ("a: 1\na: 2\n", "duplicate mapping key `a` is not allowed here at line 2"),
            ("- 1\n", "not a Kubernetes object"),
            ("kind: Service\n", "no `apiVersion` and `kind`"),
            (
                "apiVersion: security.istio.io/v1\nkind: AuthorizatonPolicy\nmetadata: {name: a}\n",
                "is it a policy",
            ),
            (
                "apiVersion: secutiry.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n",
                "is it a policy",
            ),
            ("apiVersion: v1\nkind: Service\nmetadata: {namespace: a}\n", "metadata.name is missing"),
        ];
        for (text, want) in rows {
            let contents = read(text);
            assert_eq!(contents.unreadable, [1], "{text}");
            let message = contents.findings[0].to_string();
            assert!(message.contains(want), "{text}: {message}");
        }
    }

    #[test]
    fn json_is_read_too() {
        let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"a\\u0062\"}\n}\n";
        let contents = read(text);
        assert_eq!(contents.findings, []);
        assert_eq!(contents.documents[0].key.name, "ab");
    }

    #[test]
    fn an_anchor_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..10 {
            let refs = vec![format!("*a{}", n - 1); 10].join(", ");
            text += &format!("a{n}: &a{n} [{refs}]\n");
        }
        assert_eq!(read(&text).unreadable, [1]);
    }

    #[test]
    fn lists_are_unwrapped_and_unread_kinds_are_named() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n\
                    - {apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: ns}}\n\
                    - {apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: k}}\n";
        let contents = read(text);
        assert_eq!(contents.documents.len(), 1);
        let got: Vec<_> = contents.findings.iter().map(|f| format!("{} {}", f.kind, f.name)).collect();
        assert_eq!(got, ["Deployment ns/d", "Service k"]);
    }

    #[test]
    fn faults_of_metadata_concern_the_resource_alone() {
        let rows = [
            ("apiVersion: v2\nkind: Service\nmetadata: {name: a}\n", "apiVersion"),
            (
                "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: {version: 1}}\n",
                "metadata.labels.version",
            ),
            ("apiVersion: v1\nkind: Service\nmetadata: {name: a, lables: {a: b}}\n", "metadata.lables"),
        ];
        for (text, field) in rows {
            let contents = read(text);
            let got: Vec<_> = contents.documents[0].remarks.iter().filter_map(|r| r.field.clone()).collect();
            assert_eq!(got, [field], "{text}");
            assert_eq!(contents.documents[0].key.full_name(), "default/a");
        }
    }
}
