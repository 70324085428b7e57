//! What the admin ports answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use waypoint_proxy::Proxy;
use waypoint_proxy::snapshot::ConfigCell;
use waypoint_proxy::telemetry::Telemetry;
use waypoint_proxy::upstream::Upstreams;

use super::envoy::{self, Clusters};
use super::{Readiness, config_dump};
use crate::config::Launch;
use crate::feed::FeedStatus;
use crate::logging::LogControl;
use crate::shutdown::Stop;

/// What the pages are made of.
pub struct Admin {
    /// The configuration that serves.
    pub config: ConfigCell,
    /// The data plane.
    pub proxy: Arc<Proxy>,
    /// Towards endpoints.
    pub upstreams: Arc<Upstreams>,
    /// Metrics.
    pub telemetry: Telemetry,
    /// Readiness and certificate.
    pub readiness: Readiness,
    /// What the newest configuration said.
    pub feed: watch::Receiver<Arc<FeedStatus>>,
    /// How we were started.
    pub launch: Launch,
    /// The log's filter.
    pub log: LogControl,
    /// When it was started.
    pub started: SystemTime,
    /// To end the process.
    pub stop: mpsc::Sender<Stop>,
}

/// Which of the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// 15000, loopback.
    Admin,
    /// 15020.
    Metrics,
    /// 15090.
    EnvoyMetrics,
    /// 15021.
    Ready,
}

type Reply = Response<Full<Bytes>>;
type Page = (&'static str, &'static [Method], fn(&Admin, &Method, &Query<'_>) -> Reply);

/// What stands behind the `?` of a request, undecoded.
pub(super) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn of(uri: &'a Uri) -> Self {
        Self(uri.query().unwrap_or_default())
    }

    /// The value of the first parameter of this name; empty if it has none.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
    }
}

const GET: &[Method] = &[Method::GET, Method::HEAD];
const POST: &[Method] = &[Method::POST];
const BOTH: &[Method] = &[Method::GET, Method::HEAD, Method::POST];

const DUMP: Page = ("/config_dump", GET, dump);
const CLUSTERS: Page = ("/clusters", GET, clusters);
const READY: Page = ("/healthz/ready", GET, ready);
const STATS: Page = ("/stats/prometheus", GET, stats);
const PLAIN_STATS: Page = ("/metrics", GET, stats);
const QUIT: Page = ("/quitquitquit", POST, quit);

impl Surface {
    fn pages(self) -> &'static [Page] {
        match self {
            Self::Ready => &[READY],
            Self::Metrics => &[STATS, PLAIN_STATS, READY, QUIT],
            Self::EnvoyMetrics => &[STATS, PLAIN_STATS],
            Self::Admin => &[
                DUMP,
                CLUSTERS,
                ("/listeners", GET, listeners),
                ("/certs", GET, |admin, _, _| json(&envoy::certificates(&admin.readiness))),
                ("/server_info", GET, |admin, _, _| json(&envoy::server_info(admin))),
                ("/logging", BOTH, logging),
                STATS,
                READY,
                QUIT,
            ],
        }
    }

    /// Whether the answer to this path may be so large that it takes noticeable time.
    pub(super) fn is_long(self, path: &str) -> bool {
        self == Self::Admin && (path == DUMP.0 || path == CLUSTERS.0)
    }
}

impl Admin {
    /// Answers one request; its body is not read.
    pub fn answer<B>(&self, surface: Surface, from: IpAddr, request: &Request<B>) -> Reply {
        if let Some(why) = forbidden(surface, from, request.uri().path(), request.headers()) {
            return text(StatusCode::FORBIDDEN, why);
        }
        let page = surface.pages().iter().find(|(path, ..)| *path == request.uri().path());
        match page {
            None => not_found(surface),
            Some((_, methods, _)) if !methods.contains(request.method()) => not_allowed(methods),
            Some((_, _, answer)) => answer(self, request.method(), &Query::of(request.uri())),
        }
    }
}

/// Why this caller may not ask. The admin port shows and does what is nobody's business outside; elsewhere all may read, and
/// only this pod may stop us.
fn forbidden(surface: Surface, from: IpAddr, path: &str, headers: &HeaderMap) -> Option<&'static str> {
    if surface != Surface::Admin && path != QUIT.0 {
        return None;
    }
    if !from.to_canonical().is_loopback() {
        return Some("this is answered to loopback only\n");
    }
    if !is_local(headers) {
        return Some("the admin port answers to localhost and loopback addresses only\n");
    }
    is_from_a_page(headers).then_some("the admin port does not answer to other sites' pages\n")
}

/// A page that a browser loaded from elsewhere may reach loopback under a name of its own (DNS rebinding).
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return true };
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A page that a browser loaded from elsewhere may send requests here without reading the answers (CSRF). Browsers mark
/// them with `Origin`, with `Sec-Fetch-Site` (W3C Fetch Metadata), or both; tools send neither.
fn is_from_a_page(headers: &HeaderMap) -> bool {
    let ours = |site: &http::HeaderValue| site == "none" || site == "same-origin";
    headers.contains_key(ORIGIN) || !headers.get_all("sec-fetch-site").iter().all(ours)
}

fn ready(admin: &Admin, _: &Method, _: &Query<'_>) -> Reply {
    let missing = admin.readiness.missing();
    if missing.is_empty() {
        text(StatusCode::OK, "ready\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", ")))
    }
}

fn stats(admin: &Admin, _: &Method, _: &Query<'_>) -> Reply {
    admin.telemetry.upstream_connections(admin.upstreams.connections());
    admin.telemetry.upstream_requests(admin.upstreams.requests());
    admin.telemetry.inspected_bytes(admin.proxy.inspected_bytes());
    admin.telemetry.upstream_ejected(admin.upstreams.ejected());
    admin.telemetry.sessions(admin.proxy.sessions());
    admin.telemetry.rate_buckets(admin.proxy.rate_buckets());
    if let Some(connection) = &admin.readiness.control_plane {
        let connection = connection.borrow();
        admin.telemetry.control_plane("istiod", connection.connected, connection.silent_for());
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    reply(StatusCode::OK, kind, admin.telemetry.render())
}

fn dump(admin: &Admin, _: &Method, query: &Query<'_>) -> Reply {
    written(config_dump::dump(admin, query))
}

fn clusters(admin: &Admin, _: &Method, query: &Query<'_>) -> Reply {
    let snapshot = admin.config.load();
    let mesh = snapshot.as_ref().map(|snapshot| Arc::clone(snapshot.mesh()));
    let clusters = Clusters::new(mesh, admin.upstreams.cluster_endpoints());
    if query.get("format") == Some("json") {
        return json(&clusters);
    }
    let mut lines = String::new();
    match clusters.write_text(&mut lines) {
        Ok(()) => text(StatusCode::OK, lines),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn listeners(admin: &Admin, _: &Method, query: &Query<'_>) -> Reply {
    let addresses = &admin.launch.addresses;
    if query.get("format") == Some("json") {
        return json(&envoy::listeners(addresses));
    }
    let line = |(name, address): (&str, std::net::SocketAddr)| format!("{name}::{address}\n");
    text(StatusCode::OK, envoy::named(addresses).map(line).collect::<String>())
}

/// Without a level a POST shows it too: istioctl asks so which loggers there are.
fn logging(admin: &Admin, method: &Method, query: &Query<'_>) -> Reply {
    let level = query.get("level").filter(|_| method == Method::POST);
    if let Some(level) = level {
        if let Err(error) = admin.log.set(&log_filter(level)) {
            return text(StatusCode::BAD_REQUEST, format!("{error}\n"));
        }
        tracing::info!(filter = level, "log filter changed");
    } else if method == Method::POST && !query.0.is_empty() {
        return text(StatusCode::BAD_REQUEST, "POST /logging?level=debug, or level=hbone=debug,info\n");
    }
    text(StatusCode::OK, format!("{}\n", admin.log.filter().unwrap_or_else(|| "not ours".to_owned())))
}

/// The filter that is asked for; Envoy's names of levels count too.
fn log_filter(level: &str) -> String {
    match level {
        "warning" => "warn".to_owned(),
        "critical" => "error".to_owned(),
        filter => filter.replace("%2C", ",").replace("%3D", "="),
    }
}

fn quit(admin: &Admin, _: &Method, _: &Query<'_>) -> Reply {
    // A full queue means that stops enough are waiting.
    let _ = admin.stop.try_send(Stop);
    text(StatusCode::OK, "stopping\n")
}

fn not_found(surface: Surface) -> Reply {
    let list = |(path, methods, _): &Page| {
        let verbs: Vec<&str> = methods.iter().filter(|m| **m != Method::HEAD).map(Method::as_str).collect();
        format!("{path}  ({})\n", verbs.join(", "))
    };
    let pages: String = surface.pages().iter().map(list).collect();
    text(StatusCode::NOT_FOUND, format!("there is:\n{pages}"))
}

fn not_allowed(methods: &[Method]) -> Reply {
    let allowed: Vec<&str> = methods.iter().map(Method::as_str).collect();
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "another method\n");
    if let Ok(value) = allowed.join(", ").parse() {
        reply.headers_mut().insert(ALLOW, value);
    }
    reply
}

fn json(value: &impl Serialize) -> Reply {
    written(serde_json::to_vec_pretty(value))
}

fn written(json: Result<Vec<u8>, serde_json::Error>) -> Reply {
    match json {
        Ok(json) => reply(StatusCode::OK, "application/json", json),
        Err(error) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot be written as JSON: {error}\n"))
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, "text/plain; charset=utf-8", body)
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_names_reach_the_admin_port() {
        let rows = [
            (Some("127.0.0.1:15000"), true),
            (Some("localhost:15000"), true),
            (Some("[::1]:15000"), true),
            (Some("127.1.2.3"), true),
            (None, true),
            (Some("evil.example:15000"), false),
            (Some("10.0.0.1"), false),
            (Some("127.0.0.1.evil.example"), false),
        ];
        for (host, local) in rows {
            let headers = host.map(|host| (HOST, host.parse().unwrap())).into_iter().collect();
            assert_eq!(is_local(&headers), local, "{host:?}");
        }
    }

    #[test]
    fn requests_that_a_page_makes_do_not_reach_the_admin_port() {
        let rows: [(&[(&str, &str)], bool); 9] = [
            (&[], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "")], true),
            (&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], true),
            (&[("origin", "https://evil.example")], true),
            (&[("origin", "null"), ("sec-fetch-site", "none")], true),
        ];
        for (lines, refused) in rows {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            assert_eq!(is_from_a_page(&headers), refused, "{lines:?}");
        }
    }

    #[test]
    fn only_this_pod_may_stop_us_and_everybody_may_read_metrics() {
        let asks = |surface, from: &str, path| {
            forbidden(surface, from.parse().unwrap(), path, &HeaderMap::new()).is_none()
        };
        for (surface, from, path, allowed) in [
            (Surface::Metrics, "10.0.0.7", "/stats/prometheus", true),
            (Surface::Metrics, "10.0.0.7", "/quitquitquit", false),
            (Surface::Metrics, "::ffff:10.0.0.7", "/quitquitquit", false),
            (Surface::Metrics, "127.0.0.1", "/quitquitquit", true),
            (Surface::Metrics, "::ffff:127.0.0.1", "/quitquitquit", true),
            (Surface::EnvoyMetrics, "10.0.0.7", "/metrics", true),
            (Surface::Ready, "10.0.0.7", "/healthz/ready", true),
            (Surface::Admin, "10.0.0.7", "/config_dump", false),
            (Surface::Admin, "::1", "/config_dump", true),
        ] {
            assert_eq!(asks(surface, from, path), allowed, "{surface:?} {from} {path}");
        }
        let mut page = HeaderMap::new();
        page.insert(ORIGIN, "https://evil.test".parse().unwrap());
        let loopback = "127.0.0.1".parse().unwrap();
        assert!(forbidden(Surface::Metrics, loopback, "/quitquitquit", &page).is_some());
    }

    #[test]
    fn parameters_are_found_by_their_whole_name() {
        let query = Query("include_eds&mask=a,b&level=hbone=debug&mask=c");
        assert_eq!(query.get("include_eds"), Some(""));
        assert_eq!(query.get("mask"), Some("a,b"));
        assert_eq!(query.get("level"), Some("hbone=debug"));
        assert_eq!(query.get("eds"), None);
        assert_eq!(Query("").get("mask"), None);
    }

    #[test]
    fn levels_are_understood_by_envoys_names_too() {
        for (asked, filter) in
            [("warning", "warn"), ("critical", "error"), ("hbone%3Ddebug%2Cinfo", "hbone=debug,info")]
        {
            assert_eq!(log_filter(asked), filter);
        }
    }

    #[test]
    fn an_unknown_path_lists_the_paths_there_are() {
        let reply = not_found(Surface::Metrics);
        assert_eq!(reply.status(), 404);
        let pages: Vec<&str> = Surface::Metrics.pages().iter().map(|(path, ..)| *path).collect();
        assert_eq!(pages, ["/stats/prometheus", "/metrics", "/healthz/ready", "/quitquitquit"]);
        assert_eq!(not_allowed(POST).headers()[ALLOW], "POST");
    }
}
