//! Trust-domain aliases in policies, as Istio expands them (`istio-hbone` contract §5.5).

use super::options::Options;

/// In a principal this name always means the mesh's own trust domain, whatever it is called.
const LOCAL: &str = "cluster.local";

/// The principals that a principal in a policy stands for: where its trust domain is the mesh's own, an alias of it
/// or `cluster.local`, one for each of the mesh's trust domains.
///
/// A trust domain that starts with `*` (`*-td/ns/…`) is kept as written for those that it matches; a principal of
/// another shape than `td/ns/x/sa/y`, of any trust domain (`*/ns/…`) or of a foreign one stays alone.
pub(super) fn expand_principal(principal: &str, options: &Options) -> Vec<String> {
    let alone = || vec![principal.to_owned()];
    let Some((written, rest)) = principal.split_once('/').filter(|_| principal.split('/').count() == 5)
    else {
        return alone();
    };
    let ours = options.trust_domains();
    if written == "*" || written != LOCAL && !ours.iter().any(|domain| names(written, domain)) {
        return alone();
    }
    let mut expanded = Vec::new();
    for domain in ours {
        let matched = written.starts_with('*') && names(written, domain);
        let one = if matched { principal.to_owned() } else { format!("{domain}/{rest}") };
        if !expanded.contains(&one) {
            expanded.push(one);
        }
    }
    expanded
}

/// The trust domains that one in `trustDomains` stands for: all of the mesh's where it is one of them.
pub(super) fn expand_domain(written: &str, options: &Options) -> Vec<String> {
    let ours = options.trust_domains();
    if ours.contains(&written) {
        ours.into_iter().map(str::to_owned).collect()
    } else {
        vec![written.to_owned()]
    }
}

fn names(written: &str, domain: &str) -> bool {
    match written.strip_prefix('*') {
        Some(suffix) => domain.ends_with(suffix),
        None => {
            written == domain || written.strip_suffix('*').is_some_and(|prefix| domain.starts_with(prefix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(trust_domain: &str, aliases: &[&str]) -> Options {
        Options {
            trust_domain: trust_domain.to_owned(),
            trust_domain_aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            ..Options::default()
        }
    }

    #[test]
    fn principals_expand_to_the_trust_domain_and_its_aliases() {
        let rows: [(&str, &[&str], &str, &[&str]); 12] = [
            ("td2", &["td1"], "td2/ns/a/sa/b", &["td2/ns/a/sa/b", "td1/ns/a/sa/b"]),
            ("td2", &["td1"], "td1/ns/a/sa/b", &["td2/ns/a/sa/b", "td1/ns/a/sa/b"]),
            ("td2", &["td1"], "cluster.local/ns/a/sa/b", &["td2/ns/a/sa/b", "td1/ns/a/sa/b"]),
            ("td2", &[], "cluster.local/ns/a/sa/b", &["td2/ns/a/sa/b"]),
            ("td2", &["td1"], "foreign/ns/a/sa/b", &["foreign/ns/a/sa/b"]),
            ("td2", &["td1"], "*", &["*"]),
            ("td2", &["td1"], "*/ns/a/sa/b", &["*/ns/a/sa/b"]),
            ("td2", &["td1"], "*/sa/b", &["*/sa/b"]),
            ("td2", &["td1"], "td1/ns/a/*", &["td1/ns/a/*"]),
            ("new-td", &["old-td"], "*-td/ns/a/sa/b", &["*-td/ns/a/sa/b"]),
            ("new-td", &["old-td", "x"], "*-td/ns/a/sa/b", &["*-td/ns/a/sa/b", "x/ns/a/sa/b"]),
            ("td1", &["td1"], "td1/ns/a/sa/*", &["td1/ns/a/sa/*"]),
        ];
        for (trust_domain, aliases, principal, want) in rows {
            let got = expand_principal(principal, &options(trust_domain, aliases));
            assert_eq!(got, want, "{trust_domain} {aliases:?} {principal}");
        }
    }

    #[test]
    fn trust_domains_expand_only_when_they_are_ours() {
        let ours = options("td2", &["td1"]);
        assert_eq!(expand_domain("td1", &ours), ["td2", "td1"]);
        assert_eq!(expand_domain("foreign", &ours), ["foreign"]);
        assert_eq!(expand_domain("cluster.local", &ours), ["cluster.local"]);
    }
}
