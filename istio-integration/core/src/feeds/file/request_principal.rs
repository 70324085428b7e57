//! What a token says, as a rule asks for it: compiled as istiod compiles it, so that either feed decides alike.

use waypoint_model::{Expr, StringMatch, Test};

/// `issuer/subject`, parted at the last slash, since an issuer may be a URL. Both must match, each with its own wildcard:
/// `https://a/*` is that issuer and any subject, and not an issuer that begins so.
pub(super) fn request_principal(text: &str) -> Expr {
    let any = || StringMatch::Present;
    let exact = |text: &str| StringMatch::Exact(text.to_owned());
    let suffix = |text: &str| StringMatch::Suffix(text.to_owned());
    let prefix = |text: &str| StringMatch::Prefix(text.to_owned());
    let (issuer, subject) = match (text.rsplit_once('/'), text.strip_prefix('*'), text.strip_suffix('*')) {
        (_, Some(""), _) => (any(), any()),
        (Some(("*", subject)), ..) => (any(), exact(subject)),
        (Some((issuer, subject)), Some(_), _) => (suffix(issuer.trim_start_matches('*')), exact(subject)),
        (None, Some(end), _) => (any(), suffix(end)),
        (Some((issuer, "*")), None, Some(_)) => (exact(issuer), any()),
        (Some((issuer, subject)), None, Some(_)) => (exact(issuer), prefix(subject.trim_end_matches('*'))),
        (None, None, Some(start)) => (prefix(start), any()),
        (Some((issuer, subject)), None, None) => (exact(issuer), exact(subject)),
        (None, None, None) => (exact(text), exact("")),
    };
    let claim = |name: &str, value| Expr::Test(Test::Claim { path: vec![name.to_owned()], value });
    Expr::All(vec![claim("iss", issuer), claim("sub", subject)])
}

/// Names between the brackets of `request.auth.claims[a][b]`, outermost first. Where these do not pair, what stands between
/// the first and the last is one name.
pub(super) fn claim_path(brackets: &str) -> Result<Vec<String>, String> {
    let nothing = || "names no claim between its brackets".to_owned();
    let inner = brackets.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or_else(nothing)?;
    let names: Vec<&str> = inner.split("][").collect();
    let paired = names.iter().all(|name| !name.contains(['[', ']']));
    let names = if paired { names } else { vec![inner] };
    if names.contains(&"") {
        return Err(nothing());
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuer_and_subject_are_matched_each_for_itself() {
        let exact = |text: &str| StringMatch::Exact(text.to_owned());
        let prefix = |text: &str| StringMatch::Prefix(text.to_owned());
        let suffix = |text: &str| StringMatch::Suffix(text.to_owned());
        let any = StringMatch::Present;
        let rows = [
            ("*", any.clone(), any.clone()),
            ("iss/sub", exact("iss"), exact("sub")),
            ("https://a/b/sub", exact("https://a/b"), exact("sub")),
            ("iss/*", exact("iss"), any.clone()),
            ("https://a/*", exact("https://a"), any.clone()),
            ("iss/a*", exact("iss"), prefix("a")),
            ("*/sub", any.clone(), exact("sub")),
            ("*a/sub", suffix("a"), exact("sub")),
            ("*a", any.clone(), suffix("a")),
            ("a*", prefix("a"), any.clone()),
            ("*/*", any.clone(), exact("*")),
            ("a*/sub", exact("a*"), exact("sub")),
            ("iss/", exact("iss"), exact("")),
            ("alone", exact("alone"), exact("")),
        ];
        for (text, issuer, subject) in rows {
            let claim = |name: &str, value| Expr::Test(Test::Claim { path: vec![name.to_owned()], value });
            let want = Expr::All(vec![claim("iss", issuer), claim("sub", subject)]);
            assert_eq!(request_principal(text), want, "{text}");
        }
    }

    #[test]
    fn brackets_lead_into_claims() {
        let rows: [(&str, Option<&[&str]>); 8] = [
            ("[a]", Some(&["a"])),
            ("[a][b]", Some(&["a", "b"])),
            ("[a.b]", Some(&["a.b"])),
            ("[a[b]]", Some(&["a[b]"])),
            ("[]", None),
            ("[a][]", None),
            ("", None),
            ("a", None),
        ];
        for (text, want) in rows {
            let want = want.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(claim_path(text).ok(), want, "{text}");
        }
    }
}
