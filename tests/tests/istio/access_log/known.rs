//! Where lines differ on purpose. What is not here has to be equal.

use super::Difference;
use super::fields::Fields;
use super::stage::{Row, Stage};

/// Some fields of some requests.
struct Known {
    /// Why.
    #[expect(dead_code, reason = "for the reader")]
    why: &'static str,
    requests: &'static [&'static str],
    /// Name, our value, Envoy's. `{inner}` and `{client}`: the endpoint in the mesh, and the caller.
    fields: &'static [(&'static str, &'static str, &'static str)],
}

const KNOWN: &[Known] = &[
    Known {
        why: "Envoy's tunnels begin at a listener inside of it; here an endpoint is told by its address however it is reached",
        requests: &["a-get", "a-post", "a-head"],
        fields: &[
            ("upstream_host", "{inner}:8080", "envoy://connect_originate/{inner}:8080"),
            ("upstream_remote", "{inner}:8080", "envoy://connect_originate/{inner}:8080"),
        ],
    },
    Known {
        why: "Envoy believes the last x-forwarded-for; we believe the tunnel",
        requests: &["forwarded"],
        fields: &[
            ("downstream_remote_address", "{client}", "203.0.113.9:0"),
            ("remote_ip", "{client}", "203.0.113.9"),
        ],
    },
    Known {
        why: "the same",
        requests: &["forwarded-twice"],
        fields: &[
            ("downstream_remote_address", "{client}", "192.0.2.1:0"),
            ("remote_ip", "{client}", "192.0.2.1"),
        ],
    },
    Known {
        why: "a route without a name is told by its number",
        requests: &["aborted"],
        fields: &[("route_name", "1", "-")],
    },
    Known {
        why: "policies are asked before routes",
        requests: &["denied"],
        fields: &[("route_name", "-", "fine")],
    },
    Known {
        why: "answers of a proxy's own have words of its own",
        requests: &["no-route"],
        fields: &[("bytes_sent", "8", "0"), ("content_type", "text/plain", "-")],
    },
    Known { why: "the same", requests: &["refused"], fields: &[("bytes_sent", "57", "98")] },
    Known { why: "the same", requests: &["broken"], fields: &[("bytes_sent", "57", "95")] },
];

/// What is expected to differ in the lines of a request; `fields` are those that the format has.
pub(super) fn of(row: &Row, stage: &Stage, fields: &Fields) -> Vec<Difference> {
    let named = |text: &str| text.replace("{inner}", &stage.inner()).replace("{client}", &stage.caller());
    let of_row = KNOWN.iter().filter(|known| known.requests.contains(&row.name));
    let known = of_row.flat_map(|known| known.fields).filter(|(field, ..)| fields.contains_key(*field));
    known
        .map(|(field, ours, envoys)| [row.name.to_owned(), (*field).to_owned(), named(ours), named(envoys)])
        .collect()
}
