//! Path templates: Envoy's `*` and `**` are Istio's `{*}` and `{**}`.

use waypoint_model::{PathPattern, Template};

use super::translated::Refused;

/// Reads a template back into the notation that policies are written in.
pub(super) fn template(text: &str) -> Result<PathPattern, Refused> {
    let segments: Vec<&str> = text
        .split('/')
        .map(|segment| match segment {
            "*" => "{*}",
            "**" => "{**}",
            other => other,
        })
        .collect();
    Template::parse(&segments.join("/"))
        .map(PathPattern::Template)
        .map_err(|error| Refused::new(format!("`{text}` is no template: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_read_back() {
        let rows = [
            ("/t/*/x/**", Some("/t/{*}/x/{**}")),
            ("/**/x", Some("/{**}/x")),
            ("/a*", None),
            ("a", None),
            ("/**/*", None),
        ];
        for (envoy, want) in rows {
            let want = want.map(|text| PathPattern::parse(text).unwrap());
            assert_eq!(template(envoy).ok(), want, "{envoy}");
        }
    }
}
