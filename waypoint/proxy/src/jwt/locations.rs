//! Where tokens stand in a request: found as Envoy's `jwt_authn` finds them, and taken out again.

use http::header::COOKIE;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Uri};
use waypoint_model::JwtLocations;

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// After a prefix, wherever in the value that is.
    Header(HeaderName, String),
    Param(String),
    Cookie(String),
}

impl Location {
    /// The places that a rule names; where it names none, `Authorization: Bearer ` and the parameter `access_token`.
    /// `None`: a header that cannot be.
    pub(super) fn all(written: &JwtLocations) -> Option<Vec<Self>> {
        let headers = written.headers.iter();
        let headers: Option<Vec<Self>> =
            headers.map(|(name, prefix)| Some(Self::Header(name.parse().ok()?, prefix.clone()))).collect();
        let mut all = headers?;
        all.extend(written.params.iter().cloned().map(Self::Param));
        all.extend(written.cookies.iter().cloned().map(Self::Cookie));
        if all.is_empty() {
            all.push(Self::Header(http::header::AUTHORIZATION, "Bearer ".to_owned()));
            all.push(Self::Param("access_token".to_owned()));
        }
        Some(all)
    }

    /// Every token here, each as it was written.
    pub(super) fn find(&self, parts: &Parts) -> Vec<String> {
        match self {
            Self::Header(name, prefix) => {
                let values = parts.headers.get_all(name).iter();
                // What is no text is no token either, and as such it is refused.
                let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
                values.filter_map(|value| after(&value, prefix).map(str::to_owned)).collect()
            }
            Self::Param(name) => {
                let named = params(&parts.uri).filter(|(key, _)| decode(key) == *name);
                named.map(|(_, value)| decode(value)).collect()
            }
            Self::Cookie(name) => {
                let lines = parts.headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
                let named = lines.flat_map(cookies).filter(|(key, _)| key == name);
                named.map(|(_, value)| value.trim_matches('"').to_owned()).collect()
            }
        }
    }

    /// Takes out what [`Location::find`] finds.
    pub(super) fn remove(&self, parts: &mut Parts) {
        match self {
            Self::Header(name, _) => {
                parts.headers.remove(name);
            }
            Self::Param(name) => {
                if params(&parts.uri).any(|(key, _)| decode(key) == *name) {
                    remove_param(parts, name);
                }
            }
            Self::Cookie(name) => remove_cookie(parts, name),
        }
    }
}

/// From the first letter of a token after the prefix; the whole value where there is none, as in Envoy. `None`: the prefix is
/// not there.
fn after<'a>(value: &'a str, prefix: &str) -> Option<&'a str> {
    if prefix.is_empty() {
        return Some(value);
    }
    let (_, rest) = value.split_once(prefix)?;
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    Some(rest.find(letter).and_then(|start| rest.get(start..)).unwrap_or(value))
}

fn params(uri: &Uri) -> impl Iterator<Item = (&str, &str)> {
    let pairs = uri.query().into_iter().flat_map(|query| query.split('&'));
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Percent-encoding undone; what is no such encoding stays.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|hex| *first == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        let coded = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(coded.unwrap_or(*first));
        rest = if coded.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn remove_param(parts: &mut Parts, name: &str) {
    let query = parts.uri.query().unwrap_or_default();
    let kept = query.split('&').filter(|pair| decode(pair.split('=').next().unwrap_or_default()) != *name);
    let kept: Vec<&str> = kept.collect();
    let path = parts.uri.path();
    let whole = if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
    // Parts of what was a URI make one again.
    if let Ok(whole) = whole.parse::<PathAndQuery>() {
        parts.uri = Uri::from(whole);
    }
}

fn cookies(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split(';').filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        Some((key.trim(), value.trim()))
    })
}

fn remove_cookie(parts: &mut Parts, name: &str) {
    let lines: Vec<HeaderValue> = parts.headers.get_all(COOKIE).iter().cloned().collect();
    parts.headers.remove(COOKIE);
    for line in lines {
        let Ok(text) = line.to_str() else {
            parts.headers.append(COOKIE, line);
            continue;
        };
        let is_named = |pair: &&str| cookies(pair).any(|(key, _)| key == name);
        let kept: Vec<&str> = text.split(';').filter(|pair| !is_named(pair)).map(str::trim).collect();
        if let Ok(kept) = HeaderValue::try_from(kept.join("; "))
            && !kept.is_empty()
        {
            parts.headers.append(COOKIE, kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request = http::Request::get(uri);
        let add =
            |request: http::request::Builder, (name, value): &(&str, &str)| request.header(*name, *value);
        headers.iter().fold(request, add).body(()).unwrap().into_parts().0
    }

    fn header(name: &'static str, prefix: &str) -> Location {
        Location::Header(HeaderName::from_static(name), prefix.to_owned())
    }

    type Row = (Location, &'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

    #[test]
    fn tokens_are_found_where_envoy_finds_them() {
        let bearer = || header("authorization", "Bearer ");
        let param = || Location::Param("access_token".to_owned());
        let cookie = || Location::Cookie("c".to_owned());
        let rows: Vec<Row> = vec![
            (bearer(), "/", &[], &[]),
            (bearer(), "/", &[("authorization", "Basic abc")], &[]),
            (bearer(), "/", &[("authorization", "bearer a.b.c")], &[]),
            (bearer(), "/", &[("authorization", "Bearer a.b.c")], &["a.b.c"]),
            (bearer(), "/", &[("authorization", "Bearer   a.b.c")], &["a.b.c"]),
            (bearer(), "/", &[("authorization", "x Bearer \"a.b.c")], &["a.b.c"]),
            (bearer(), "/", &[("authorization", "Bearer \"")], &["Bearer \""]),
            (bearer(), "/", &[("authorization", "Bearer a"), ("authorization", "Bearer b")], &["a", "b"]),
            (header("x-jwt", ""), "/", &[("x-jwt", "a.b.c")], &["a.b.c"]),
            (header("x-jwt", ""), "/", &[("x-jwt", "")], &[""]),
            (param(), "/?a=1&access_token=t", &[], &["t"]),
            (param(), "/?access%5ftoken=%74&access_token=u", &[], &["t", "u"]),
            (param(), "/?access_token", &[], &[""]),
            (param(), "/access_token=t", &[], &[]),
            (cookie(), "/", &[("cookie", "a=1; c=t"), ("cookie", "c=\"u\"")], &["t", "u"]),
            (cookie(), "/", &[("cookie", "cc=1; d")], &[]),
        ];
        for (location, uri, headers, want) in rows {
            assert_eq!(location.find(&parts(uri, headers)), want, "{location:?} {uri} {headers:?}");
        }
    }

    #[test]
    fn a_token_is_taken_out_and_nothing_else() {
        let mut request = parts(
            "/p?a=1&access%5Ftoken=t&b=%2f",
            &[("authorization", "Bearer t"), ("cookie", "a=1; c=t;b=2"), ("cookie", "c=t"), ("x", "y")],
        );
        for location in [
            header("authorization", "Bearer "),
            Location::Param("access_token".to_owned()),
            Location::Cookie("c".to_owned()),
        ] {
            location.remove(&mut request);
        }
        assert_eq!(request.uri, "/p?a=1&b=%2f");
        assert_eq!(request.headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
        assert!(request.headers.contains_key("x") && !request.headers.contains_key("authorization"));
        let mut request = parts("/p?access_token=t", &[]);
        Location::Param("access_token".to_owned()).remove(&mut request);
        assert_eq!(request.uri, "/p");
    }
}
