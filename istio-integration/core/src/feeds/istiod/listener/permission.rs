//! What a policy says of the request (Envoy RBAC `Permission`).

use istio_protos::envoy::config::core::v3::TypedExtensionConfig;
use istio_protos::envoy::config::rbac::v3::Permission;
use istio_protos::envoy::config::rbac::v3::permission::{Rule, Set};
use istio_protos::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use istio_protos::envoy::r#type::matcher::v3::PathMatcher;
use istio_protos::envoy::r#type::matcher::v3::path_matcher;
use waypoint_model::{Expr, PathPattern, Test};

use super::address::range;
use super::expr::{all, always, any, not, test};
use super::strings::string;
use super::translated::{At, Refused};
use super::unpack::unpack;
use super::{header, metadata, template};

/// The tree of tests that a permission is.
pub(super) fn permission(permission: &Permission) -> Result<Expr, Refused> {
    let rule = permission.rule.as_ref().ok_or_else(|| Refused::new("a permission without a rule"))?;
    match rule {
        Rule::AndRules(set) => parts(set).map(all).at("and_rules"),
        Rule::OrRules(set) => parts(set).map(any).at("or_rules"),
        Rule::NotRule(inner) => self::permission(inner).map(not).at("not_rule"),
        Rule::Any(true) => Ok(always()),
        Rule::Any(false) => Err(Refused::new("`any` is true or left out").at("any")),
        Rule::Header(matcher) => header::policy(matcher),
        Rule::UrlPath(matcher) => path(matcher).at("url_path"),
        Rule::UriTemplate(extension) => uri_template(extension).at("uri_template"),
        Rule::DestinationIp(addresses) => {
            range(addresses).map(|net| test(Test::DestinationIp(net))).at("destination_ip")
        }
        Rule::DestinationPort(port) => self::port(*port).at("destination_port"),
        Rule::Metadata(matcher) => metadata::metadata(matcher),
        Rule::RequestedServerName(matcher) => {
            string(matcher).map(|value| test(Test::Sni(value))).at("requested_server_name")
        }
        Rule::Matcher(extension) => {
            Err(Refused::new(format!("the extension {:?} is not supported", extension.name)).at("matcher"))
        }
    }
}

fn parts(set: &Set) -> Result<Vec<Expr>, Refused> {
    set.rules.iter().enumerate().map(|(at, part)| permission(part).at(format!("rules[{at}]"))).collect()
}

/// The path without its query, as policies see it.
fn path(matcher: &PathMatcher) -> Result<Expr, Refused> {
    let Some(path_matcher::Rule::Path(value)) = matcher.rule.as_ref() else {
        return Err(Refused::new("no path is asked for"));
    };
    string(value).map(|value| test(Test::Path(PathPattern::Text(value))))
}

fn uri_template(extension: &TypedExtensionConfig) -> Result<Expr, Refused> {
    let config: UriTemplateMatchConfig = unpack(extension.typed_config.as_ref())?;
    template::template(&config.path_template).map(|value| test(Test::Path(value)))
}

fn port(port: u32) -> Result<Expr, Refused> {
    let port = u16::try_from(port).map_err(|_| Refused::new(format!("{port} is no port")))?;
    Ok(test(Test::DestinationPort(port)))
}
