//! Arguments of MCP calls that the access log tells: only those that an operator names, and no more of them than its rule says.

use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::Arc;

use agent_protocols::{FactKey, Facts};

/// Characters that are told where the rule names no number.
const USUAL: usize = 64;
/// Most that a rule may ask for.
const MOST: usize = 256;

/// An argument that is told: `owner`, `repo.name`, `query:8`, `token:mask`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedArgument {
    /// Its dotted path, as in policies (`args.<path>`).
    pub(crate) name: Arc<str>,
    key: FactKey,
    /// Characters that are told; `None`: only that it is there.
    most: Option<usize>,
}

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no argument's name, with :NUMBER (1 to {MOST} characters) or :mask behind it")]
pub struct NotAnArgument(String);

impl FromStr for LoggedArgument {
    type Err = NotAnArgument;

    fn from_str(rule: &str) -> Result<Self, NotAnArgument> {
        let bad = || NotAnArgument(rule.to_owned());
        let (name, most) = match rule.rsplit_once(':') {
            None => (rule, Some(USUAL)),
            Some((name, "mask")) => (name, None),
            Some((name, most)) => {
                let most = most.parse().ok().filter(|most| (1..=MOST).contains(most));
                (name, Some(most.ok_or_else(bad)?))
            }
        };
        let key = FactKey::parse("http.mcp", &format!("args.{name}")).map_err(|_unknown| bad())?;
        Ok(Self { name: name.into(), key, most })
    }
}

impl LoggedArgument {
    /// What is told of it; `None` where the message has no such argument, or where readers would disagree on it.
    pub(crate) fn of(&self, message: &dyn Facts) -> Option<String> {
        let (mut told, mut values) = (String::new(), 0_usize);
        let most = self.most;
        message.ask(&self.key, &mut |value| {
            values += 1;
            if values > 1 {
                told.push(',');
            }
            match most {
                None => told.push_str("***"),
                Some(most) => match value.char_indices().nth(most) {
                    Some((end, _)) => {
                        let _infallible = write!(told, "{}…", value.get(..end).unwrap_or_default());
                    }
                    None => told.push_str(value),
                },
            }
            // The first few of an array are enough.
            values >= 4
        });
        (values > 0).then_some(told)
    }
}

#[cfg(test)]
mod tests {
    use agent_protocols::Limits;
    use agent_protocols::mcp::{Exchange, Head};

    use super::*;

    #[test]
    fn a_rule_names_an_argument_and_how_much_of_it_is_told() {
        let request = http::Request::post("/mcp").header("content-type", "application/json");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{
            "owner":"acme","repo":{"name":"portcullis"},"n":3,"list":["a","b","c","d","e"],"Twin":1,"twin":2,
            "long":"ääääääääää","object":{}}}}"#;
        let exchange = Exchange::read(
            &Head::read(&parts, &Limits::default()).unwrap(),
            body.as_bytes(),
            &Limits::default(),
        )
        .unwrap();
        let message = &exchange.messages[0].subjects[0];
        let rows = [
            ("owner", Some("acme")),
            ("owner:2", Some("ac…")),
            ("owner:mask", Some("***")),
            ("repo.name:4", Some("port…")),
            ("n", Some("3")),
            ("list", Some("a,b,c,d")),
            ("long:3", Some("äää…")),
            ("twin", None),
            ("object", None),
            ("missing", None),
        ];
        for (rule, want) in rows {
            let argument: LoggedArgument = rule.parse().unwrap();
            assert_eq!(argument.of(message).as_deref(), want, "{rule}");
        }
        for bad in ["", ":3", "a:", "a:0", "a:257", "a:x", "a..b"] {
            assert!(bad.parse::<LoggedArgument>().is_err(), "{bad}");
        }
    }
}
