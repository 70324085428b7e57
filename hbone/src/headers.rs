//! `baggage`, `traceparent` and `forwarded` on CONNECT, as ztunnel writes and reads them.
//!
//! Telemetry hints, never identity: any workload with a certificate can open a tunnel by hand.

use std::fmt;
use std::net::SocketAddr;

/// Longest baggage value that is kept, in bytes: a Kubernetes name has at most 253.
const MAX_VALUE: usize = 253;

/// Longest baggage header that is read, in bytes (W3C Baggage §3.3.2).
const MAX_BAGGAGE: usize = 8192;

/// Members of ztunnel's `baggage` header. A member that is absent, empty, too long or not plain ASCII is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`.
    pub cluster: Option<String>,
    /// `k8s.namespace.name`.
    pub namespace: Option<String>,
    /// `k8s.<workload type>.name`.
    pub workload: Option<String>,
    /// `deployment`, `pod`, `job` or `cronjob`.
    pub workload_type: Option<String>,
    /// `service.name`.
    pub service: Option<String>,
    /// `service.version`.
    pub revision: Option<String>,
    /// `cloud.region`.
    pub region: Option<String>,
    /// `cloud.availability_zone`.
    pub zone: Option<String>,
}

const WORKLOAD_TYPES: [&str; 4] = ["deployment", "pod", "job", "cronjob"];

impl Baggage {
    /// Reads a header value. What it does not know it passes over; of a member given twice the first counts.
    #[must_use]
    pub fn parse(value: &str) -> Self {
        let mut baggage = Self::default();
        if value.len() <= MAX_BAGGAGE {
            value.split(',').filter_map(member).for_each(|(key, value)| baggage.set(key, value));
        }
        baggage
    }

    /// The header value: commas without spaces, absent members left out.
    #[must_use]
    pub fn encode(&self) -> String {
        let workload_type = self.workload_type.as_deref().filter(|kind| WORKLOAD_TYPES.contains(kind));
        let workload = workload_type.map(|kind| format!("k8s.{kind}.name"));
        let members = [
            ("k8s.cluster.name", &self.cluster),
            ("k8s.namespace.name", &self.namespace),
            (workload.as_deref().unwrap_or_default(), &self.workload),
            ("service.name", &self.service),
            ("service.version", &self.revision),
            ("cloud.region", &self.region),
            ("cloud.availability_zone", &self.zone),
        ];
        let written = members.into_iter().filter_map(|(key, value)| match value.as_deref() {
            Some(value) if !key.is_empty() && is_plain(value) => Some(format!("{key}={value}")),
            _ => None,
        });
        written.collect::<Vec<_>>().join(",")
    }

    fn set(&mut self, key: &str, value: &str) {
        let place = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service,
            "service.version" => &mut self.revision,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            _ => return self.set_workload(key, value),
        };
        place.get_or_insert_with(|| value.to_owned());
    }

    fn set_workload(&mut self, key: &str, value: &str) {
        let kind = key.strip_prefix("k8s.").and_then(|key| key.strip_suffix(".name"));
        if let Some(kind) = kind.filter(|kind| WORKLOAD_TYPES.contains(kind))
            && self.workload.is_none()
        {
            self.workload = Some(value.to_owned());
            self.workload_type = Some(kind.to_owned());
        }
    }
}

/// `key=value`, its properties after `;` dropped.
fn member(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split(';').next()?.split_once('=')?;
    let value = value.trim();
    is_plain(value).then_some((key.trim(), value))
}

/// Bytes that stand in a baggage value as they are (W3C Baggage §3.3.1.3); what would need percent-encoding is not a name of ours.
fn is_plain(value: &str) -> bool {
    (1..=MAX_VALUE).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b';' | b'\\' | b'%'))
}

/// The `forwarded` value `for="ip:port";host=fqdn` (RFC 7239 §4); `host` only for a service-addressed tunnel.
#[must_use]
pub fn forwarded(source: SocketAddr, host: Option<&str>) -> String {
    match host {
        Some(host) => format!("for=\"{source}\";host={host}"),
        None => format!("for=\"{source}\""),
    }
}

/// A valid `traceparent` (W3C Trace Context §3.2): neither id is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// Trace id.
    pub trace_id: u128,
    /// Id of the caller's span.
    pub parent_id: u64,
    /// Bit 0: sampled.
    pub flags: u8,
}

impl TraceParent {
    /// Parses version 00; of a later version the same leading fields. `None` starts a new trace, as the specification asks.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let version = hex(fields.next()?, 2)?;
        let trace_id = hex(fields.next()?, 32)?;
        let parent_id = u64::try_from(hex(fields.next()?, 16)?).ok()?;
        let flags = u8::try_from(hex(fields.next()?, 2)?).ok()?;
        let has_more = fields.next().is_some();
        if version == 0xff || (version == 0 && has_more) || trace_id == 0 || parent_id == 0 {
            return None;
        }
        Some(Self { trace_id, parent_id, flags })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

/// Exactly `digits` lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZTUNNEL: &str = "k8s.cluster.name=Kubernetes,k8s.namespace.name=agents,k8s.deployment.name=researcher,\
                           service.name=researcher,service.version=v1,cloud.region=r1,cloud.availability_zone=z1";

    #[test]
    fn ztunnels_baggage_is_read_and_written_alike() {
        let baggage = Baggage::parse(ZTUNNEL);
        assert_eq!(baggage.cluster.as_deref(), Some("Kubernetes"));
        assert_eq!(baggage.workload.as_deref(), Some("researcher"));
        assert_eq!(baggage.workload_type.as_deref(), Some("deployment"));
        assert_eq!(baggage.zone.as_deref(), Some("z1"));
        assert_eq!(baggage.encode(), ZTUNNEL);
    }

    #[test]
    fn what_is_odd_in_baggage_is_left_out() {
        let long = format!("service.name={}", "a".repeat(254));
        let table = [
            ("", Baggage::default()),
            (",,=,a,=b", Baggage::default()),
            ("service.name=", Baggage::default()),
            ("service.name=a b", Baggage::default()),
            ("service.name=a%2Cb", Baggage::default()),
            ("k8s.statefulset.name=x", Baggage::default()),
            (&long, Baggage::default()),
            (" service.name = a ;p=1 ", Baggage { service: Some("a".into()), ..Baggage::default() }),
            ("service.name=a,service.name=b", Baggage { service: Some("a".into()), ..Baggage::default() }),
        ];
        for (value, baggage) in table {
            assert_eq!(Baggage::parse(value), baggage, "{value}");
        }
        let split = Baggage { cluster: Some("a,service.name=x".into()), ..Baggage::default() };
        assert_eq!(split.encode(), "");
    }

    #[test]
    fn forwarded_names_the_source_and_perhaps_the_host() {
        assert_eq!(forwarded("10.0.0.1:80".parse().unwrap(), None), "for=\"10.0.0.1:80\"");
        let v6 = forwarded("[fd00::1]:80".parse().unwrap(), Some("echo.ns.svc.cluster.local"));
        assert_eq!(v6, "for=\"[fd00::1]:80\";host=echo.ns.svc.cluster.local");
    }

    #[test]
    fn a_traceparent_is_valid_or_none() {
        let ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        let parsed = TraceParent::parse(&format!("00-{ids}-01")).unwrap();
        assert_eq!((parsed.trace_id >> 96, parsed.parent_id & 0xff, parsed.flags), (0x0af7_6519, 0x31, 1));
        assert_eq!(parsed.to_string(), format!("00-{ids}-01"));
        assert_eq!(TraceParent::parse(&format!("cc-{ids}-01-what")), Some(parsed));
        let bad = [
            String::new(),
            format!("00-{ids}"),
            format!("00-{ids}-1"),
            format!("00-{ids}-01-"),
            format!("ff-{ids}-01"),
            format!("0-{ids}-01"),
            format!("00-{}-01", ids.to_uppercase()),
            format!("00-{ids}-+1"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01".to_owned(),
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01".to_owned(),
        ];
        for text in bad {
            assert_eq!(TraceParent::parse(&text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_baggage_is_read_and_what_is_written_reads_back(text in "[a-z8.=,; %\"\\\\]{0,80}|\\PC{0,40}") {
            let baggage = Baggage::parse(&text);
            prop_assert_eq!(Baggage::parse(&baggage.encode()), baggage);
        }
    }
}
