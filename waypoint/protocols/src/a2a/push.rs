//! Where push notifications may go: an agent that posts to any URL is a way into networks that its caller cannot reach.

use url::{Host, Url};

/// Names that lead into a cluster, a host or a cloud's own services.
const INSIDE: [&str; 8] =
    [".localhost", ".local", ".internal", ".svc", ".lan", ".home.arpa", ".intranet", ".corp"];

/// The host of a push notification URL that may be handed on; `None` for any other.
///
/// It is https, without userinfo, with a name of several labels that is none of [`INSIDE`] and no address in any of the
/// spellings that URL readers take for one, and it is written as every reader writes it. `allowed`: hosts of the operator's
/// choice, that may be inside and may be asked by http.
pub(super) fn host(text: &str, allowed: &[String]) -> Option<String> {
    let url = Url::parse(text).ok()?;
    // What a reader would change, another reads otherwise: tabs, backslashes, upper case, `//` left out.
    let is_plain = url.as_str() == text || url.as_str().strip_suffix('/') == Some(text);
    let has_user = !url.username().is_empty() || url.password().is_some() || text.contains('@');
    let host = url.host()?;
    let name = host.to_string();
    if !is_plain || has_user || !matches!(url.scheme(), "https" | "http") {
        return None;
    }
    if allowed.contains(&name) {
        return Some(name);
    }
    let is_name = matches!(host, Host::Domain(_));
    let trimmed = name.strip_suffix('.').unwrap_or(&name);
    let outside = trimmed.contains('.') && !INSIDE.iter().any(|end| trimmed.ends_with(end));
    (url.scheme() == "https" && is_name && outside).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_outside_are_handed_on() {
        for text in
            ["https://hooks.example.com/a2a?x=1", "https://hooks.example.com", "https://a.b.example:8443/"]
        {
            assert!(host(text, &[]).is_some(), "{text}");
        }
        for text in [
            "http://hooks.example.com/",
            "http://169.254.169.254/latest/meta-data",
            "https://169.254.169.254/",
            "https://127.0.0.1",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://10.0.0.1/",
            "https://8.8.8.8/",
            "https://user@hooks.example.com/",
            "https://user:x@hooks.example.com/",
            "https://hooks.example.com@127.0.0.1/",
            "https://localhost/",
            "https://localhost./",
            "https://db.localhost/",
            "https://metadata.google.internal/",
            "https://metadata.google.internal./",
            "https://github.agents.svc.cluster.local/",
            "https://github.agents.svc/",
            "https://github/",
            "HTTPS://hooks.example.com/",
            "https://HOOKS.example.com/",
            "https:hooks.example.com/",
            "https:\\\\hooks.example.com/",
            "https://hooks.example.com/\t",
            "https://hooks.example.com/../x",
            "https://１２７.0.0.1/",
            "file:///etc/passwd",
            "gopher://hooks.example.com/",
            "//hooks.example.com/",
            "",
        ] {
            assert_eq!(host(text, &[]), None, "{text}");
        }
    }

    #[test]
    fn an_operator_allows_hosts_by_name() {
        let allowed = ["hooks.agents.svc.cluster.local".to_owned()];
        let inside = "http://hooks.agents.svc.cluster.local:8080/a2a";
        assert_eq!(host(inside, &allowed).as_deref(), Some("hooks.agents.svc.cluster.local"));
        assert_eq!(host("http://x@hooks.agents.svc.cluster.local/", &allowed), None);
        assert_eq!(host("http://other.agents.svc.cluster.local/", &allowed), None);
    }
}
