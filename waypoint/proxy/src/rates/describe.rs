//! What of a request a limit counts it by.

use agent_protocols::{FactKey, Facts, Truth, UnknownFact};
use waypoint_model::{Absent, DescribedBy, Description};
use waypoint_policy::Attributes;

/// Longest value that is told to a service; longer ones are cut there, and still told apart here.
const TOLD: usize = 1 << 10;
/// A fact that readers disagree on: all such share one quota.
const DOUBTFUL: &str = "?";

/// A description, compiled.
#[derive(Debug)]
pub(crate) struct Describer(Vec<Part>);

#[derive(Debug)]
struct Part {
    key: String,
    value: Value,
    absent: Absent,
}

#[derive(Debug)]
enum Value {
    Text(String),
    Principal,
    RemoteAddress,
    Header(String),
    Fact(FactKey),
}

/// Keys and values of one request, in order.
pub(crate) type Described = Vec<(String, String)>;

impl Describer {
    /// # Errors
    /// [`UnknownFact`] for a fact that no protocol here has.
    pub(super) fn compile(description: &Description) -> Result<Self, UnknownFact> {
        let parts = description.iter().map(|part| {
            let value = match &part.value {
                DescribedBy::Text(text) => Value::Text(text.clone()),
                DescribedBy::Principal => Value::Principal,
                DescribedBy::RemoteAddress => Value::RemoteAddress,
                DescribedBy::Header(name) => Value::Header(name.clone()),
                DescribedBy::Fact { filter, key } => Value::Fact(FactKey::parse(filter, key)?),
            };
            Ok(Part { key: part.key.clone(), value, absent: part.absent.clone() })
        });
        parts.collect::<Result<_, _>>().map(Self)
    }

    /// The request's own; `None` where it is none that this describes.
    pub(super) fn describe(&self, attributes: &Attributes<'_>, facts: &dyn Facts) -> Option<Described> {
        let mut described = Vec::with_capacity(self.0.len());
        for part in &self.0 {
            let value = match (part.value.of(attributes, facts), &part.absent) {
                (Some(value), _) => value,
                (None, Absent::Text(text)) => text.clone(),
                (None, Absent::LeftOut) => continue,
                (None, Absent::NotDescribed) => return None,
            };
            described.push((part.key.clone(), value));
        }
        (!described.is_empty()).then_some(described)
    }
}

impl Value {
    fn of(&self, attributes: &Attributes<'_>, facts: &dyn Facts) -> Option<String> {
        let value = match self {
            Self::Text(text) => text.clone(),
            Self::Principal => attributes.source.identity?.as_str().to_owned(),
            Self::RemoteAddress => attributes.source.remote_ip.to_string(),
            Self::Header(name) => header(attributes, name)?,
            Self::Fact(key) => fact(facts, key)?,
        };
        (!value.is_empty()).then_some(value)
    }
}

/// All lines of it, as Envoy joins them.
fn header(attributes: &Attributes<'_>, name: &str) -> Option<String> {
    let http = attributes.http?;
    match name {
        ":path" => return Some(http.path.to_owned()),
        ":method" => return Some(http.method.to_owned()),
        ":authority" => return Some(http.authority.to_owned()),
        _ => {}
    }
    let mut lines = http.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = lines.next()?.into_owned();
    Some(lines.fold(first, |all, line| all + "," + &line))
}

fn fact(facts: &dyn Facts, key: &FactKey) -> Option<String> {
    let mut values: Vec<String> = Vec::new();
    let told = facts.ask(key, &mut |value| {
        values.push(value.to_owned());
        false
    });
    match told {
        Truth::NotYet => Some(DOUBTFUL.to_owned()),
        Truth::Yes | Truth::No => (!values.is_empty()).then(|| values.join(",")),
    }
}

/// A value as a service is told it.
pub(crate) fn told(value: &str) -> &str {
    value.get(..value.floor_char_boundary(TOLD)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use agent_protocols::{Kind, Plain};
    use http::HeaderMap;
    use spiffe_id::SpiffeId;
    use waypoint_model::DescriptionPart;
    use waypoint_policy::{Destination, HttpAttributes, Source};

    use super::*;

    struct Tool(&'static [&'static str], Truth);

    impl Facts for Tool {
        fn kind(&self) -> Kind {
            Kind::Call
        }

        fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
            if *key == FactKey::Tool {
                for value in self.0 {
                    test(value);
                }
            }
            self.1
        }
    }

    fn part(key: &str, value: DescribedBy, absent: Absent) -> DescriptionPart {
        DescriptionPart { key: key.to_owned(), value, absent }
    }

    fn tool() -> DescribedBy {
        DescribedBy::Fact { filter: "http.mcp".to_owned(), key: "tool".to_owned() }
    }

    fn described(parts: Vec<DescriptionPart>, facts: &dyn Facts) -> Option<Vec<String>> {
        let identity = SpiffeId::parse("spiffe://td/ns/a/sa/bot").unwrap();
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let mut headers = HeaderMap::new();
        headers.append("x-team", "a".parse().unwrap());
        headers.append("x-team", "b".parse().unwrap());
        let http =
            HttpAttributes { method: "POST", path: "/mcp", authority: "h", headers: &headers, claims: None };
        let attributes = Attributes {
            source: Source { identity: Some(&identity), ip, remote_ip: ip },
            destination: Destination { ip: None, port: 80, sni: None },
            http: Some(http),
        };
        let describer = Describer::compile(&parts).unwrap();
        let described = describer.describe(&attributes, facts)?;
        Some(described.into_iter().map(|(key, value)| format!("{key}={value}")).collect())
    }

    #[test]
    fn every_part_tells_its_value() {
        let parts = vec![
            part("what", DescribedBy::Text("call".to_owned()), Absent::NotDescribed),
            part("who", DescribedBy::Principal, Absent::NotDescribed),
            part("from", DescribedBy::RemoteAddress, Absent::NotDescribed),
            part("team", DescribedBy::Header("x-team".to_owned()), Absent::NotDescribed),
            part("path", DescribedBy::Header(":path".to_owned()), Absent::NotDescribed),
            part("tool", tool(), Absent::NotDescribed),
        ];
        let want = [
            "what=call",
            "who=spiffe://td/ns/a/sa/bot",
            "from=10.0.0.1",
            "team=a,b",
            "path=/mcp",
            "tool=search",
        ];
        assert_eq!(described(parts, &Tool(&["search"], Truth::No)).unwrap(), want);
    }

    #[test]
    fn what_a_request_lacks_is_left_out_or_replaced_or_makes_it_another() {
        let with = |absent| {
            vec![part("who", DescribedBy::Principal, Absent::NotDescribed), part("tool", tool(), absent)]
        };
        let who = "who=spiffe://td/ns/a/sa/bot".to_owned();
        assert_eq!(described(with(Absent::NotDescribed), &Plain), None);
        assert_eq!(described(with(Absent::LeftOut), &Plain), Some(vec![who.clone()]));
        let none = Absent::Text("none".to_owned());
        assert_eq!(described(with(none), &Plain), Some(vec![who, "tool=none".to_owned()]));
        assert_eq!(described(vec![part("tool", tool(), Absent::LeftOut)], &Plain), None);
    }

    #[test]
    fn what_cannot_be_told_is_one_value_for_all() {
        let parts = || vec![part("tool", tool(), Absent::NotDescribed)];
        assert_eq!(described(parts(), &Tool(&["a"], Truth::NotYet)).unwrap(), ["tool=?"]);
        assert_eq!(described(parts(), &Tool(&["a", "b"], Truth::No)).unwrap(), ["tool=a,b"]);
    }
}
