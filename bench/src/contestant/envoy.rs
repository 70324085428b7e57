//! Envoy as a waypoint: HBONE in, HTTP (or bytes), HBONE out, through listeners inside the process as istiod builds them.

use super::{Entrance, Running};
use crate::backend::App;
use crate::mcp;
use crate::program::Program;
use crate::world::{HBONE, World};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};

/// What Envoy does between the tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Envoy {
    /// HTTP without a policy.
    Plain,
    /// HTTP with so many rules on headers.
    Rbac(usize),
    /// HTTP with its MCP filter, and rules on tools and arguments; the whole body is read, up to the bound that ours has.
    Mcp,
    /// The same as Envoy has it by default: only the first 8 KiB are looked at, and what is no MCP passes.
    McpDefault,
    /// Bytes.
    Opaque,
}

/// Prefix of Envoy's types.
const TYPE: &str = "type.googleapis.com/envoy.";

/// More than any load asks for: no contestant is slowed by its circuit breakers.
const UNBOUNDED: u32 = 1_000_000;

/// Streams opened on one connection to an endpoint, before it has said what it allows: as ours.
const STREAMS: u32 = 100;

/// A body that is judged, at most: the default of our setting `inspected_body`.
const INSPECTED: u32 = 4 << 20;

impl Envoy {
    pub(super) async fn start(self, world: &World, app: App) -> Result<Running> {
        let program = world.programs.envoy.as_ref().context("envoy was not found")?;
        let scratch = world.scratch()?;
        let own = world.addresses.next();
        let at = |port: u16| SocketAddr::from((own, port));
        let config = scratch.join("envoy.json");
        let (entry, admin) = (at(HBONE), at(9901));
        std::fs::write(&config, self.configuration(world, app, entry, admin).to_string())?;
        let args = ["--concurrency", "1", "--log-level", "error", "--disable-hot-restart", "-c"];
        let mut args: Vec<_> = args.iter().map(Into::into).collect();
        args.push(config.into());
        let mut program = Program::start(world.cores, program, &args, scratch.join("output"))?;
        program.ready(admin, "/ready").await?;
        let target = (Ipv4Addr::new(10, 96, 0, 1), app.port());
        let entrance = Entrance::hbone(world, "waypoint", entry, target)?;
        Ok(Running { entrance, waypoint: None, program: Some(program) })
    }

    fn configuration(self, world: &World, app: App, entry: SocketAddr, admin: SocketAddr) -> Value {
        let terminated = if self == Self::Opaque { "originate" } else { "inner" };
        let mut listeners = vec![terminate(world, entry, terminated), originate(world, app)];
        let mut clusters = vec![inside(terminated, json!({})), peer(world)];
        if self != Self::Opaque {
            listeners.push(listener_inside("inner", &self.http()));
            clusters.push(inside("originate", upstream_protocol(app)));
        }
        json!({
            "admin": {"address": address(admin)},
            "bootstrap_extensions": [{
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {"@type": of("extensions.bootstrap.internal_listener.v3.InternalListener")},
            }],
            "static_resources": {"listeners": listeners, "clusters": clusters},
        })
    }

    /// The HTTP connection manager between the tunnels.
    fn http(self) -> Value {
        let mut filters = self.filters();
        filters.push(router());
        manager(
            "inner",
            "AUTO",
            &json!([{"match": {"prefix": "/"}, "route": {"cluster": "originate", "timeout": "0s"}}]),
            json!({
                "http_filters": filters,
                "http2_protocol_options": {"max_concurrent_streams": UNBOUNDED},
            }),
        )
    }

    fn filters(self) -> Vec<Value> {
        match self {
            Self::Plain | Self::Opaque => Vec::new(),
            Self::Rbac(count) => vec![rbac((0..count).map(|n| (format!("rule-{n:05}"), header_rule(n))))],
            Self::Mcp => vec![mcp_filter(true), rbac(mcp_rules())],
            Self::McpDefault => vec![mcp_filter(false), rbac(mcp_rules())],
        }
    }
}

fn of(name: &str) -> String {
    format!("{TYPE}{name}")
}

fn address(socket: SocketAddr) -> Value {
    json!({"socket_address": {"address": socket.ip().to_string(), "port_value": socket.port()}})
}

/// Both objects in one.
fn both(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

fn typed(name: &str, kind: &str, fields: Value) -> Value {
    json!({"name": name, "typed_config": both(json!({"@type": of(kind)}), fields)})
}

fn router() -> Value {
    typed(
        "envoy.filters.http.router",
        "extensions.filters.http.router.v3.Router",
        json!({"suppress_envoy_headers": true}),
    )
}

fn manager(prefix: &str, codec: &str, routes: &Value, more: Value) -> Value {
    let fields = json!({
        "stat_prefix": prefix,
        "codec_type": codec,
        "generate_request_id": false,
        "stream_idle_timeout": "0s",
        "server_header_transformation": "PASS_THROUGH",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    });
    let kind = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    typed("http", kind, both(fields, more))
}

/// Takes tunnels at `entry`, and hands their streams to the cluster `to`.
fn terminate(world: &World, entry: SocketAddr, to: &str) -> Value {
    let connect = json!([{
        "match": {"connect_matcher": {}},
        "route": {"cluster": to, "timeout": "0s", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]},
    }]);
    let http = manager(
        "terminate",
        "HTTP2",
        &connect,
        json!({
            "http_filters": [router()],
            "http2_protocol_options": h2_options(true, UNBOUNDED),
            "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        }),
    );
    let tls = both(tls(world), json!({"require_client_certificate": true}));
    let tls = typed("tls", "extensions.transport_sockets.tls.v3.DownstreamTlsContext", tls);
    json!({
        "name": "terminate",
        "address": address(entry),
        "tcp_backlog_size": 4096,
        "filter_chains": [{"transport_socket": tls, "filters": [http]}],
    })
}

/// Puts streams into tunnels to the backend.
fn originate(world: &World, app: App) -> Value {
    let tcp = typed(
        "tcp",
        "extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({
            "stat_prefix": "originate",
            "cluster": "peer",
            "idle_timeout": "0s",
            "tunneling_config": {"hostname": SocketAddr::from((world.pod, app.port())).to_string()},
        }),
    );
    listener_inside("originate", &tcp)
}

fn listener_inside(name: &str, filter: &Value) -> Value {
    json!({"name": name, "internal_listener": {}, "filter_chains": [{"filters": [filter]}]})
}

fn cluster(name: &str, at: &Value, options: Value) -> Value {
    let thresholds = json!({
        "max_connections": UNBOUNDED,
        "max_pending_requests": UNBOUNDED,
        "max_requests": UNBOUNDED,
    });
    let endpoints = json!([{"lb_endpoints": [{"endpoint": {"address": at}}]}]);
    let cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [thresholds]},
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    });
    both(cluster, options)
}

fn inside(listener: &str, options: Value) -> Value {
    cluster(listener, &json!({"envoy_internal_address": {"server_listener_name": listener}}), options)
}

/// The backend's ztunnel.
fn peer(world: &World) -> Value {
    let tls = typed("tls", "extensions.transport_sockets.tls.v3.UpstreamTlsContext", tls(world));
    let options = protocol(&json!({"http2_protocol_options": h2_options(true, STREAMS)}));
    let options = both(options, json!({"transport_socket": tls}));
    cluster("peer", &address(SocketAddr::from((world.pod, HBONE))), options)
}

fn upstream_protocol(app: App) -> Value {
    match app {
        App::Http1 | App::Raw => json!({}),
        App::H2c | App::Grpc => protocol(&json!({"http2_protocol_options": h2_options(false, STREAMS)})),
    }
}

fn protocol(explicit: &Value) -> Value {
    let name = "extensions.upstreams.http.v3.HttpProtocolOptions";
    let options = json!({"@type": of(name), "explicit_http_config": explicit});
    json!({"typed_extension_protocol_options": {format!("envoy.{name}"): options}})
}

/// Windows as ztunnel's and ours; `streams` at most on one connection.
fn h2_options(connect: bool, streams: u32) -> Value {
    json!({
        "allow_connect": connect,
        "max_concurrent_streams": streams,
        "initial_stream_window_size": 4 << 20,
        "initial_connection_window_size": 16 << 20,
    })
}

/// TLS 1.3 with the waypoint's certificate, both ways.
fn tls(world: &World) -> Value {
    let svid = &world.svid;
    json!({"common_tls_context": {
        "tls_certificates": [{
            "certificate_chain": {"filename": svid.cert_chain},
            "private_key": {"filename": svid.key},
        }],
        "validation_context": {"trusted_ca": {"filename": svid.trust_bundle}},
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
    }})
}

/// One ALLOW list of named rules.
fn rbac(rules: impl IntoIterator<Item = (String, Value)>) -> Value {
    let policy =
        |rule: Value| json!({"permissions": [{"and_rules": {"rules": rule}}], "principals": [{"any": true}]});
    let policies: serde_json::Map<_, _> =
        rules.into_iter().map(|(name, rule)| (name, policy(rule))).collect();
    let rules = json!({"rules": {"action": "ALLOW", "policies": policies}});
    typed("envoy.filters.http.rbac", "extensions.filters.http.rbac.v3.RBAC", rules)
}

/// The same that [`super::Rules::Headers`] asks, as istiod writes it.
fn header_rule(n: usize) -> Value {
    let method = |name: &str| json!({"header": {"name": ":method", "string_match": {"exact": name}}});
    json!([
        {"or_rules": {"rules": [method("GET"), method("POST")]}},
        {"or_rules": {"rules": [{"url_path": {"path": {"prefix": format!("/r{n}/")}}}]}},
        {"or_rules": {"rules": [{"header": {"name": "x-team", "string_match": {"exact": format!("t{n}")}}}]}},
    ])
}

fn mcp_filter(whole: bool) -> Value {
    let extracted: Vec<Value> =
        ["params.name", "params.arguments.owner"].iter().map(|path| json!({"path": path})).collect();
    let parser = json!({"methods": [{"method": "tools/call", "extraction_rules": extracted}]});
    let bound = match whole {
        true => json!({"traffic_mode": "REJECT_NO_MCP", "max_request_body_size": INSPECTED}),
        false => json!({}),
    };
    let fields = both(json!({"parser_config": parser}), bound);
    typed("envoy.filters.http.mcp", "extensions.filters.http.mcp.v3.Mcp", fields)
}

fn mcp_fact(path: &[&str], value: &str) -> Value {
    let path: Vec<Value> = path.iter().map(|key| json!({"key": key})).collect();
    json!({"metadata": {"filter": "envoy.filters.http.mcp", "path": path, "value": {"string_match": {"exact": value}}}})
}

/// The same that [`super::Rules::Calls`] asks, and what follows from it there: the list may be asked for.
fn mcp_rules() -> Vec<(String, Value)> {
    let path = json!({"url_path": {"path": {"prefix": mcp::PATH}}});
    let rule = |n: usize| {
        let tool = mcp_fact(&["params", "name"], &format!("tool_{n}"));
        let owner = mcp_fact(&["params", "arguments", "owner"], "acme");
        json!([path, mcp_fact(&["method"], "tools/call"), tool, owner])
    };
    let mut rules: Vec<_> = (0..mcp::RULES).map(|n| (format!("rule-{n:05}"), rule(n))).collect();
    rules.push(("lists".into(), json!([path, mcp_fact(&["method"], "tools/list")])));
    rules
}
