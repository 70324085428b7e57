//! Which services a policy applies to (`istio-hbone` contract §5.1). All attached policies are merged per action.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypoint_model::{Action, JwtRule, Map, Policy, PolicyKey};

use super::authorization_policy::{PolicyDoc, TargetRef, Targets};
use super::binding::Waypoint;
use super::document::{Kind, Origin, ResourceKey};
use super::envoy_filter::{self, LimitsDoc};
use super::finding::{Finding, Severity};
use super::gateway::CLASS;
use super::request_authentication::{self, TokensDoc};
use super::resource::{Resource, Resources};

/// Namespace whose policies may target the class of all waypoints (`MeshConfig.rootNamespace`).
const ROOT_NAMESPACE: &str = "istio-system";

/// Policies in force, and the services that they apply to.
#[derive(Default)]
pub(super) struct Attached {
    pub(super) policies: Map<PolicyKey, Arc<Policy>>,
    services: BTreeMap<ResourceKey, BTreeSet<PolicyKey>>,
    tokens: BTreeMap<ResourceKey, Vec<Arc<JwtRule>>>,
    limits: BTreeMap<ResourceKey, Vec<LimitsDoc>>,
}

impl Attached {
    /// Policies that apply to a service.
    pub(super) fn of(&self, service: &ResourceKey) -> Vec<PolicyKey> {
        self.services.get(service).into_iter().flatten().cloned().collect()
    }

    /// Tokens that a service accepts, by issuer, as istiod orders them.
    pub(super) fn tokens(&self, service: &ResourceKey) -> Vec<Arc<JwtRule>> {
        let mut rules = self.tokens.get(service).cloned().unwrap_or_default();
        rules.sort_by(|one, other| one.issuer.cmp(&other.issuer));
        rules
    }

    /// Limits that hold at a service.
    pub(super) fn limits(&self, service: &ResourceKey) -> &[LimitsDoc] {
        self.limits.get(service).map_or(&[], Vec::as_slice)
    }

    fn attach(&mut self, policy: &Policy, services: impl IntoIterator<Item = ResourceKey>) {
        for service in services {
            self.services.entry(service).or_default().insert(policy.key.clone());
        }
        self.policies.insert(policy.key.clone(), Arc::new(policy.clone()));
    }
}

/// What attaching needs to know of the mesh.
pub(super) struct Attachment<'a> {
    pub(super) waypoint: &'a Waypoint,
    /// Every service, and whether this waypoint stands before it.
    pub(super) services: &'a BTreeMap<&'a ResourceKey, bool>,
}

impl Attachment<'_> {
    /// Attaches every policy. `unreadable` names the documents that may be policies and that nobody could read.
    pub(super) fn run(
        &self,
        resources: &Resources,
        unreadable: &[String],
        findings: &mut Vec<Finding>,
    ) -> Attached {
        let mut attached = Attached::default();
        for (key, entry) in resources {
            match entry.resource.as_ref() {
                Resource::Policy(doc) => self.policy(key, &entry.origin, doc, &mut attached, findings),
                Resource::Tokens(doc) => self.tokens(key, &entry.origin, doc, &mut attached, findings),
                Resource::Limits(doc) => self.limits(key, &entry.origin, doc, &mut attached, findings),
                _ => {}
            }
        }
        for name in unreadable {
            attached.attach(&stand_in(name), self.services.keys().map(|key| (*key).clone()));
        }
        attached
    }

    fn policy(
        &self,
        key: &ResourceKey,
        origin: &Origin,
        doc: &PolicyDoc,
        attached: &mut Attached,
        findings: &mut Vec<Finding>,
    ) {
        if doc.policy.dry_run && doc.policy.unusable.is_some() {
            return;
        }
        let refs = match &doc.targets {
            Targets::Ztunnel => return,
            Targets::Unreadable => return attached.attach(&doc.policy, self.reach(&key.namespace)),
            Targets::Refs(refs) => refs,
        };
        match self.resolve(key, origin, refs, findings) {
            Ok(Some(services)) => attached.attach(&doc.policy, services),
            Ok(None) => {}
            Err(why) => {
                let policy = Policy { unusable: Some(why), ..doc.policy.clone() };
                attached.attach(&policy, self.reach(&key.namespace));
            }
        }
    }

    fn tokens(
        &self,
        key: &ResourceKey,
        origin: &Origin,
        doc: &TokensDoc,
        attached: &mut Attached,
        findings: &mut Vec<Finding>,
    ) {
        let resolved = match &doc.targets {
            Targets::Ztunnel => return,
            Targets::Unreadable => Err("its targets cannot be read".to_owned()),
            Targets::Refs(refs) => self.resolve(key, origin, refs, findings),
        };
        match resolved {
            Ok(services) => {
                // A service that is targeted twice has each rule once.
                for service in services.unwrap_or_default().into_iter().collect::<BTreeSet<_>>() {
                    attached.tokens.entry(service).or_default().extend(doc.rules.iter().cloned());
                }
            }
            Err(why) => {
                let refusal = request_authentication::refusal(key, why);
                attached.attach(&refusal, self.reach(&key.namespace));
            }
        }
    }

    fn limits(
        &self,
        key: &ResourceKey,
        origin: &Origin,
        doc: &LimitsDoc,
        attached: &mut Attached,
        findings: &mut Vec<Finding>,
    ) {
        let resolved = match &doc.targets {
            Targets::Ztunnel => return,
            Targets::Unreadable => Err("its targets cannot be read".to_owned()),
            Targets::Refs(refs) => self.resolve(key, origin, refs, findings),
        };
        match resolved {
            Ok(services) => {
                for service in services.unwrap_or_default().into_iter().collect::<BTreeSet<_>>() {
                    attached.limits.entry(service).or_default().push(doc.clone());
                }
            }
            Err(why) => attached.attach(&envoy_filter::refusal(key, why), self.reach(&key.namespace)),
        }
    }

    /// The services of all targets; none where no target is ours, and why where one of them may be. One that cannot be
    /// told makes the policy unusable at the others too: under one key there is one policy.
    fn resolve(
        &self,
        key: &ResourceKey,
        origin: &Origin,
        refs: &[TargetRef],
        findings: &mut Vec<Finding>,
    ) -> Result<Option<Vec<ResourceKey>>, String> {
        let mut services: Option<Vec<ResourceKey>> = None;
        let mut unknown = None;
        for (index, target) in refs.iter().enumerate() {
            let (severity, message) = match self.target(target, &key.namespace) {
                Ok(targeted) => {
                    services.get_or_insert_default().extend(targeted);
                    continue;
                }
                Err(Unattached::Elsewhere(severity, message)) => (severity, message),
                Err(Unattached::Unknown(message)) => {
                    unknown.get_or_insert_with(|| message.clone());
                    (Severity::Error, message)
                }
            };
            findings.push(key.finding(origin, severity, &format!("spec.targetRefs[{index}]"), message));
        }
        unknown.map_or(Ok(services), Err)
    }

    fn target(&self, target: &TargetRef, namespace: &str) -> Result<Vec<ResourceKey>, Unattached> {
        match target {
            TargetRef::Service(name) => self.service(Kind::Service, namespace, name),
            TargetRef::ServiceEntry(name) => self.service(Kind::ServiceEntry, namespace, name),
            TargetRef::Gateway(name) => self.gateway(namespace, name),
            TargetRef::GatewayClass(class) => self.gateway_class(namespace, class),
            TargetRef::Foreign(_) => {
                Err(Unattached::elsewhere(Severity::Note, "is not served by this waypoint"))
            }
        }
    }

    fn service(&self, kind: Kind, namespace: &str, name: &str) -> Result<Vec<ResourceKey>, Unattached> {
        let key = ResourceKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        match self.services.get(&key) {
            Some(true) => Ok(vec![key]),
            Some(false) => {
                let message = format!(
                    "{kind} {namespace}/{name} is not behind this waypoint: nothing is enforced for it here"
                );
                Err(Unattached::Elsewhere(Severity::Warning, message))
            }
            None => {
                let message =
                    format!("{kind} {namespace}/{name} is not in the folder: nothing is enforced for it");
                Err(Unattached::Elsewhere(Severity::Warning, message))
            }
        }
    }

    fn gateway(&self, namespace: &str, name: &str) -> Result<Vec<ResourceKey>, Unattached> {
        match self.waypoint {
            Waypoint::Everything => {
                let message = format!(
                    "Gateway {namespace}/{name} is not in the folder, so whether this waypoint is meant cannot be told: add it"
                );
                Err(Unattached::Unknown(message))
            }
            waypoint if waypoint.is(namespace, name) => Ok(self.fronted().collect()),
            _ => Err(Unattached::elsewhere(Severity::Note, "is another Gateway's, not this waypoint's")),
        }
    }

    fn gateway_class(&self, namespace: &str, class: &str) -> Result<Vec<ResourceKey>, Unattached> {
        if class != CLASS {
            return Err(Unattached::elsewhere(Severity::Note, "is another class's, not this waypoint's"));
        }
        if namespace != ROOT_NAMESPACE {
            let message = format!(
                "a GatewayClass is targeted from the root namespace {ROOT_NAMESPACE} only: move the policy there"
            );
            return Err(Unattached::Elsewhere(Severity::Error, message));
        }
        Ok(self.fronted().collect())
    }

    fn fronted(&self) -> impl Iterator<Item = ResourceKey> {
        self.services.iter().filter(|(_, fronted)| **fronted).map(|(key, _)| (*key).clone())
    }

    /// What a policy of this namespace could target: its own services, and all of ours if it could target our Gateway or
    /// its class.
    fn reach(&self, namespace: &str) -> Vec<ResourceKey> {
        let all = namespace == ROOT_NAMESPACE || self.waypoint.may_be_in(namespace);
        self.fronted().filter(|key| all || key.namespace == namespace).collect()
    }
}

/// Why a target has no services.
enum Unattached {
    /// It is not ours.
    Elsewhere(Severity, String),
    /// It may be ours.
    Unknown(String),
}

impl Unattached {
    fn elsewhere(severity: Severity, message: &str) -> Self {
        Self::Elsewhere(severity, message.to_owned())
    }
}

/// Stands for a document that may be a policy: without it, nothing is permitted.
fn stand_in(name: &str) -> Policy {
    Policy {
        key: PolicyKey::new("unreadable", name),
        action: Action::Deny,
        dry_run: false,
        rules: Vec::new(),
        unusable: Some(format!("{name} was never readable and may be a policy")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::file::Loaded;
    use crate::feeds::file::testing::{POD, SERVICE, all, findings, gateway, load, policy, web};

    #[test]
    fn policies_attach_to_what_they_target() {
        let other = SERVICE.replace("web", "other").replace("10.96.0.1", "10.96.0.2");
        let unbound =
            other.replace("other", "unbound").replace("use-waypoint: wp", "x: wp").replace("0.2", "0.3");
        let wp = gateway("a", "wp");
        let group = "group: gateway.networking.k8s.io";
        let rows: [(&str, String, &[&str], Option<Severity>); 9] = [
            ("a", "{kind: Service, name: web}".to_owned(), &["web"], None),
            ("a", "{kind: Service, name: none}".to_owned(), &[], Some(Severity::Warning)),
            ("a", "{kind: Service, name: unbound}".to_owned(), &[], Some(Severity::Warning)),
            ("b", "{kind: Service, name: web}".to_owned(), &[], Some(Severity::Warning)),
            ("a", format!("{{{group}, kind: Gateway, name: wp}}"), &["other", "web"], None),
            ("a", format!("{{{group}, kind: Gateway, name: two}}"), &[], Some(Severity::Note)),
            (
                "istio-system",
                format!("{{{group}, kind: GatewayClass, name: istio-waypoint}}"),
                &["other", "web"],
                None,
            ),
            ("istio-system", format!("{{{group}, kind: GatewayClass, name: x}}"), &[], Some(Severity::Note)),
            (
                "a",
                format!("{{{group}, kind: GatewayClass, name: istio-waypoint}}"),
                &[],
                Some(Severity::Error),
            ),
        ];
        for (namespace, target, want, severity) in rows {
            let loaded = load(&all(&[SERVICE, &other, &unbound, POD, &wp, &policy(namespace, &target)]));
            let services = loaded.mesh.services.values().filter(|service| !service.policies.is_empty());
            let got: Vec<_> = services.map(|service| service.name.as_str()).collect();
            assert_eq!(got, want, "{target}");
            let about = loaded.findings.iter().find(|finding| finding.kind == "AuthorizationPolicy");
            assert_eq!(about.map(|finding| finding.severity), severity, "{target}");
        }
    }

    /// An AuthorizationPolicy `p`.
    fn written(namespace: &str, spec: &str) -> String {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {{{spec}}}\n"
        )
    }

    /// Services to which the policy `p` of this namespace and no other applies.
    fn bound(loaded: &Loaded, namespace: &str) -> Vec<String> {
        let key = PolicyKey::new(namespace, "p");
        let services = loaded.mesh.services.values().filter(|service| service.policies == [key.clone()]);
        services.map(|service| format!("{}/{}", service.key.namespace, service.name)).collect()
    }

    #[test]
    fn a_policy_that_cannot_be_judged_denies_its_targets() {
        let near = SERVICE.replace("waypoint: wp", "waypoint: wp, istio.io/use-waypoint-namespace: infra");
        let other = near.replace("web", "other").replace("10.96.0.1", "10.96.0.2");
        let far = near.replace("namespace: a", "namespace: b").replace("10.96.0.1", "10.96.0.3");
        let wp = gateway("infra", "wp").replace("HBONE", "HBONE, allowedRoutes: {namespaces: {from: All}}");
        let to_web = "targetRefs: [{kind: Service, name: web}]";
        let everything = ["a/other", "a/web", "b/web"].as_slice();
        let rows: [(&str, String, &[&str]); 9] = [
            ("a", format!("{to_web}, action: CUSTOM"), &["a/web"]),
            ("a", format!("{to_web}, rules: [{{from: [{{source: {{ipBlocks: [x]}}}}]}}]"), &["a/web"]),
            ("a", format!("{to_web}, rules: [{{from: [{{source: {{principal: [x]}}}}]}}]"), &["a/web"]),
            ("a", format!("{to_web}, rules: [{{from: }}]"), &["a/web"]),
            ("a", "targetRefs: [{kind: Servce, name: web}]".to_owned(), &["a/other", "a/web"]),
            ("c", "targetRefs: [{kind: Gateway, name: wp}]".to_owned(), &[]),
            ("istio-system", "targetRefs: 1".to_owned(), everything),
            ("infra", "targetRefs: 1".to_owned(), everything),
            ("infra", "targetRefs: [{kind: Gateway, name: wp}], action: DENY".to_owned(), everything),
        ];
        for (namespace, spec, want) in rows {
            let loaded = load(&all(&[&near, &other, &far, POD, &wp, &written(namespace, &spec)]));
            assert_eq!(bound(&loaded, namespace), want, "{spec}");
            assert!(loaded.mesh.policies[&PolicyKey::new(namespace, "p")].unusable.is_some(), "{spec}");
            assert!(!findings(&loaded, Severity::Error).is_empty(), "{spec}");
        }
    }

    #[test]
    fn where_no_gateway_says_who_we_are_a_policy_with_unknown_targets_denies_everywhere() {
        let far = SERVICE.replace("namespace: a", "namespace: b").replace("10.96.0.1", "10.96.0.3");
        let gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: wp}";
        let service = "{kind: Service, name: web}";
        let rows = [
            "targetRefs: [{kind: Gateway, name: wp}]".to_owned(),
            format!("targetRefs: [{gateway}]"),
            format!("targetRefs: [{gateway}, {service}], rules: [{{}}]"),
            format!("targetRefs: [{service}, {gateway}], rules: [{{}}]"),
        ];
        for spec in rows {
            for namespace in ["a", "infra"] {
                let loaded = load(&all(&[SERVICE, &far, POD, &written(namespace, &spec)]));
                assert_eq!(bound(&loaded, namespace), ["a/web", "b/web"], "{namespace} {spec}");
                assert!(loaded.mesh.policies[&PolicyKey::new(namespace, "p")].unusable.is_some(), "{spec}");
                assert!(!findings(&loaded, Severity::Error).is_empty(), "{spec}");
            }
        }
    }

    fn jwt(namespace: &str, name: &str, spec: &str) -> String {
        format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
        )
    }

    #[test]
    fn tokens_attach_to_what_they_target_in_the_order_of_their_issuers() {
        let rules = |issuer: &str| format!("jwtRules: [{{issuer: {issuer}, jwks: '{{\"keys\":[{{}}]}}'}}]");
        let group = "group: gateway.networking.k8s.io";
        let own = jwt("a", "own", &format!("targetRefs: [{{kind: Service, name: web}}], {}", rules("c")));
        let ours = jwt(
            "a",
            "ours",
            &format!(
                "targetRefs: [{{{group}, kind: Gateway, name: wp}}, {{kind: Service, name: web}}], {}",
                rules("b")
            ),
        );
        let all_of_us = jwt(
            "istio-system",
            "all",
            &format!("targetRefs: [{{{group}, kind: GatewayClass, name: istio-waypoint}}], {}", rules("a")),
        );
        let other = jwt("a", "other", &format!("targetRefs: [{{kind: Service, name: x}}], {}", rules("d")));
        let selected = jwt("a", "selected", &rules("e"));
        let wp = gateway("a", "wp");
        let loaded = load(&all(&[SERVICE, POD, &wp, &own, &ours, &all_of_us, &other, &selected]));
        assert_eq!(findings(&loaded, Severity::Error), [] as [&str; 0]);
        let web = web(&loaded);
        let issuers: Vec<_> = web.jwt.iter().map(|rule| rule.issuer.as_str()).collect();
        assert_eq!(issuers, ["a", "b", "c"]);
        assert_eq!(web.policies, []);
    }

    #[test]
    fn tokens_that_cannot_be_read_refuse_everything_at_their_targets() {
        for spec in [
            "targetRefs: [{kind: Service, name: web}], jwtRules: [{issuer: i}]",
            "targetRefs: [{kind: Service, name: web}], jwtRules: [{issuer: i, jwksUri: 'https://a/k'}]",
            "targetRefs: [{kind: Service, name: web}], jwtRules: 1",
            "targetRefs: [{kind: Servce, name: web}], jwtRules: []",
            "targetRefs: , jwtRules: []",
        ] {
            let loaded = load(&all(&[SERVICE, POD, &jwt("a", "j", spec)]));
            let key = PolicyKey::new("a", "RequestAuthentication/j");
            assert_eq!(web(&loaded).policies, std::slice::from_ref(&key), "{spec}");
            assert!(loaded.mesh.policies[&key].unusable.is_some(), "{spec}");
            assert!(!findings(&loaded, Severity::Error).is_empty(), "{spec}");
        }
    }

    #[test]
    fn a_broken_dry_run_denies_nothing() {
        let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                      metadata: {name: p, namespace: a, annotations: {istio.io/dry-run: 'true'}}\n\
                      spec: {targetRefs: [{kind: Service, name: web}], action: CUSTOM}\n";
        let loaded = load(&all(&[SERVICE, POD, policy]));
        assert_eq!(web(&loaded).policies, []);
        assert_eq!(findings(&loaded, Severity::Error).len(), 1);
    }
}
