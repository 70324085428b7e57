//! Agent cards: read and never changed, since they may be signed (A2A 1.0 §8.4). A card that sends callers elsewhere
//! leads them around the waypoint.

use crate::json::{Document, Shape, Value};
use crate::limits::Limits;
use url::Url;

/// URLs of a JSON card that lead elsewhere, and are no text of the card's own. `is_here`: whether a host name is this
/// service's. A card that cannot be read leads nowhere that could be told: it is one finding, `unreadable`.
#[must_use]
pub fn elsewhere(body: &[u8], limits: &Limits, is_here: &dyn Fn(&str) -> bool) -> Vec<String> {
    let Ok(document) = Document::read(body, &limits.answer()) else { return vec!["unreadable".to_owned()] };
    let root = document.root();
    // The extended card comes as a result where JSON-RPC was spoken.
    let card = root.get("result").filter(|result| result.is(Shape::Object)).unwrap_or(root);
    let interfaces = ["additionalInterfaces", "supportedInterfaces"];
    let listed = interfaces.iter().filter_map(|name| card.get(name)).flat_map(Value::elements);
    let urls = std::iter::once(card).chain(listed).filter_map(|place| place.get("url")?.as_str());
    urls.filter(|url| !host(url).is_some_and(|host| is_here(&host)))
        .map(std::borrow::Cow::into_owned)
        .collect()
}

/// The host of a URL, or of the `host:port` that interfaces of gRPC have.
fn host(text: &str) -> Option<String> {
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("grpc://{text}")) };
    url.ok()?.host_str().map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(card: &str) -> Vec<String> {
        elsewhere(card.as_bytes(), &Limits::default(), &|host| host == "github.agents.svc.cluster.local")
    }

    #[test]
    fn a_card_that_leads_elsewhere_is_seen() {
        let here = "http://github.agents.svc.cluster.local:8080/a2a";
        for card in [
            format!(r#"{{"url":"{here}","skills":[{{"id":"x"}}],"provider":{{"url":"https://acme.example"}}}}"#),
            r#"{"supportedInterfaces":[{"url":"github.agents.svc.cluster.local:9090","protocolBinding":"GRPC"}]}"#.to_owned(),
            r#"{"name":"no url"}"#.to_owned(),
        ] {
            assert_eq!(found(&card), Vec::<String>::new(), "{card}");
        }
        for (card, want) in [
            (
                format!(r#"{{"url":"{here}","additionalInterfaces":[{{"url":"http://10.0.0.7/"}}]}}"#),
                "http://10.0.0.7/",
            ),
            (r#"{"supportedInterfaces":[{"url":"evil.example:443"}]}"#.to_owned(), "evil.example:443"),
            (r#"{"jsonrpc":"2.0","id":1,"result":{"url":"http://x/"}}"#.to_owned(), "http://x/"),
            (
                r#"{"url":"http://github.agents.svc.cluster.local@evil.example/"}"#.to_owned(),
                "http://github.agents.svc.cluster.local@evil.example/",
            ),
            (r#"{"url":"a","url":"b"}"#.to_owned(), "unreadable"),
        ] {
            assert_eq!(found(&card), [want], "{card}");
        }
    }
}
