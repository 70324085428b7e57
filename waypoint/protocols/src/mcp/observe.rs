//! Names for metrics and logs out of bytes that pass by. Never used to decide.

use crate::json::plain_run;

/// Method and name (`params.name` or `params.uri`) from the beginning of a body, as far as they are in it.
///
/// A best effort over whatever was seen: no strictness, no unescaping (a value with an escape is not told), the first
/// of several wins. Time is linear in the prefix.
pub fn observe(prefix: &[u8]) -> Option<(String, Option<String>)> {
    let mut scan = Scan { bytes: prefix, at: 0 };
    let mut found = Found::default();
    scan.run(&mut found);
    found.method.map(|method| (method, found.name))
}

#[derive(Default)]
struct Found {
    method: Option<String>,
    name: Option<String>,
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    /// Walks over the tokens; strings before a colon are keys. Brackets of both kinds count as depth.
    fn run(&mut self, found: &mut Found) {
        let mut depth = 0_usize;
        let mut in_params = false;
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                b'"' => {
                    let Some(text) = self.string() else { return };
                    if self.next_is(b':') && depth <= 2 {
                        self.member(&text, depth, &mut in_params, found);
                    }
                    continue;
                }
                _ => {}
            }
            if found.method.is_some() && found.name.is_some() {
                return;
            }
            self.at += 1;
        }
    }

    fn member(&mut self, key: &str, depth: usize, in_params: &mut bool, found: &mut Found) {
        match (depth, key) {
            (1, "method") => {
                let value = self.value();
                found.method = found.method.take().or(value);
            }
            (1, _) => *in_params = key == "params",
            (2, "name" | "uri") if *in_params => {
                let value = self.value();
                found.name = found.name.take().or(value);
            }
            _ => {}
        }
    }

    /// The string value after a colon.
    fn value(&mut self) -> Option<String> {
        self.next_is(b':');
        self.at += 1;
        if self.next_is(b'"') { self.string() } else { None }
    }

    /// The string that begins here, moving behind it; `None` if it does not end. A string with escapes is empty.
    fn string(&mut self) -> Option<String> {
        let start = self.at + 1;
        let mut plain = true;
        self.at = start;
        loop {
            self.at += plain_run(self.bytes.get(self.at..)?);
            match *self.bytes.get(self.at)? {
                b'"' => break,
                b'\\' => {
                    plain = false;
                    self.at += 2;
                }
                _ => self.at += 1,
            }
        }
        let content = self.bytes.get(start..self.at)?;
        self.at += 1;
        if plain { Some(String::from_utf8_lossy(content).into_owned()) } else { Some(String::new()) }
    }

    fn next_is(&mut self, wanted: u8) -> bool {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
        self.bytes.get(self.at) == Some(&wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_picked_up_as_far_as_they_are_seen() {
        for (prefix, seen) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"name":"x"}}}"#,
                Some(("tools/call", Some("search"))),
            ),
            (
                r#"{ "params" : { "arguments":{"name":"x"}, "uri" : "file:///a" }, "method" : "resources/read" "#,
                Some(("resources/read", Some("file:///a"))),
            ),
            (r#"{"method":"ping"}"#, Some(("ping", None))),
            (r#"{"method":"tools/call","params":{"name":"sea"#, Some(("tools/call", None))),
            (r#"{"result":{"method":"x"}}"#, None),
            (r#"{"metho"#, None),
            ("", None),
        ] {
            let told = observe(prefix.as_bytes());
            let told = told.as_ref().map(|(method, name)| (method.as_str(), name.as_deref()));
            assert_eq!(told, seen, "{prefix}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(prefix: Vec<u8>) {
            let _ = observe(&prefix);
        }
    }
}
