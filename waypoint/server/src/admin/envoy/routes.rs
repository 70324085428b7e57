//! Routes that stand inside of a listener.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::timestamp;

const CONNECTION_MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// The routes of each filter chain, as `StaticRouteConfig`.
pub(super) fn routes(mut listener: Value, since: SystemTime) -> impl Iterator<Item = Value> {
    let default = listener.get_mut("default_filter_chain").map(Value::take);
    let chains = listener.get_mut("filter_chains").map(Value::take);
    let chains = items(chains).chain(default);
    let filters = chains.flat_map(|mut chain| items(chain.get_mut("filters").map(Value::take)));
    let routes = filters.filter_map(|mut filter| in_filter(filter.get_mut("typed_config")?));
    routes.map(move |routes| json!({"route_config": routes, "last_updated": timestamp(since)}))
}

fn in_filter(config: &mut Value) -> Option<Value> {
    if !config.get("@type")?.as_str()?.ends_with(CONNECTION_MANAGER) {
        return None;
    }
    let mut routes = config.get_mut("route_config")?.take();
    routes.as_object_mut()?.insert("@type".to_owned(), ROUTES.into());
    Some(routes)
}

fn items(list: Option<Value>) -> impl Iterator<Item = Value> {
    let Some(Value::Array(items)) = list else { return Vec::new().into_iter() };
    items.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chain_that_speaks_http_has_its_routes_shown() {
        let http = |name: &str| {
            json!({"filters": [
                {"name": "first", "typed_config": {"@type": "x/acme.Filter", "value": "AQID"}},
                {"name": "http", "typed_config": {
                    "@type": format!("type.googleapis.com/{CONNECTION_MANAGER}"),
                    "route_config": {"name": name, "virtual_hosts": []},
                }},
            ]})
        };
        let listener = json!({
            "filter_chains": [http("a"), {"filters": [{"name": "tcp", "typed_config": {"@type": "x/y"}}]}],
            "default_filter_chain": http("b"),
        });
        let shown: Vec<_> = routes(listener, SystemTime::UNIX_EPOCH).collect();
        let want = |name: &str| {
            json!({
                "route_config": {"name": name, "virtual_hosts": [], "@type": ROUTES},
                "last_updated": "1970-01-01T00:00:00Z",
            })
        };
        assert_eq!(shown, [want("a"), want("b")]);
        assert_eq!(routes(json!({"name": "plain"}), SystemTime::UNIX_EPOCH).count(), 0);
    }
}
