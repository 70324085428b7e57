//! Notifications that a list has changed, in the words of the stream that they are told on.

use crate::json::{Shape, Value};
use bytes::Bytes;

/// Which lists an open stream tells changes of, and under which subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListChanges {
    tools: bool,
    prompts: bool,
    resources: bool,
    /// `"…/subscriptionId":<id>`, as the server wrote it (2026-07-28).
    subscription: Option<String>,
}

impl ListChanges {
    /// A server's own stream (up to 2025-11-25): all lists.
    pub fn all() -> Self {
        Self { tools: true, prompts: true, resources: true, subscription: None }
    }

    /// What the server has promised of a subscription: `params` of `notifications/subscriptions/acknowledged`.
    pub(super) fn acknowledged(params: Value<'_, '_>) -> Self {
        let filter = params.get("notifications");
        let asked =
            |flag| filter.and_then(|filter| filter.get(flag)).is_some_and(|value| value.raw() == "true");
        let meta = params.get("_meta").filter(|meta| meta.is(Shape::Object));
        let mut members = meta.into_iter().flat_map(Value::members);
        let subscription = members.find(|(key, _)| key.ends_with("/subscriptionId"));
        Self {
            tools: asked("toolsListChanged"),
            prompts: asked("promptsListChanged"),
            resources: asked("resourcesListChanged"),
            subscription: subscription
                .map(|(key, id)| format!("{}:{}", crate::json::quote(&key), one_line(id.raw()))),
        }
    }

    /// The events that tell of a change of all of these lists; empty where the stream tells of none.
    pub fn events(&self) -> Bytes {
        let params = match &self.subscription {
            Some(subscription) => format!(r#","params":{{"_meta":{{{subscription}}}}}"#),
            None => String::new(),
        };
        let lists = [("tools", self.tools), ("prompts", self.prompts), ("resources", self.resources)];
        let told = lists.into_iter().filter(|(_, told)| *told).map(|(list, _)| {
            let method = format!("notifications/{list}/list_changed");
            format!("event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"{method}\"{params}}}\n\n")
        });
        told.collect::<String>().into()
    }
}

/// JSON text in one line: ends of lines stand between tokens only, the strict reader has seen to it.
fn one_line(raw: &str) -> String {
    raw.replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Document;
    use crate::limits::Limits;

    fn events(params: &str) -> String {
        let document = Document::read(params.as_bytes(), &Limits::default().answer()).unwrap();
        String::from_utf8(ListChanges::acknowledged(document.root()).events().to_vec()).unwrap()
    }

    #[test]
    fn a_subscription_is_told_what_was_acknowledged_and_no_more() {
        let tools = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\",\"params\":{\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":7}}}\n\n";
        for (params, told) in [
            (
                r#"{"_meta":{"io.modelcontextprotocol/subscriptionId":7},"notifications":{"toolsListChanged":true,"promptsListChanged":false}}"#,
                tools.to_owned(),
            ),
            (
                r#"{"_meta":{"a":1},"notifications":{"resourcesListChanged":true}}"#,
                "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/resources/list_changed\"}\n\n".to_owned(),
            ),
            (r#"{"notifications":{"toolsListChanged":"true"}}"#, String::new()),
            (r#"{"_meta":[],"notifications":[]}"#, String::new()),
            ("{}", String::new()),
        ] {
            assert_eq!(events(params), told, "{params}");
        }
        let all = ListChanges::all().events();
        assert_eq!(all.windows(12).filter(|window| window == b"list_changed").count(), 3);
    }
}
