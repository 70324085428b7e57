//! From a response to what is handed to the owner. An envelope that contradicts itself is refused by name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::held::Touched;
use super::{Names, Refused, Resource};
use crate::proto::{Any, DeltaDiscoveryResponse, Resource as WireResource};

/// A response, taken apart.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    pub(super) upserts: Vec<Resource>,
    pub(super) removals: Vec<Arc<str>>,
    pub(super) faults: Vec<Refused>,
}

impl Envelope {
    pub(super) fn touched(&self) -> Touched {
        let version = |resource: &Resource| (Arc::clone(&resource.name), Arc::clone(&resource.version));
        let named = self.faults.iter().filter(|fault| !fault.name.is_empty());
        Touched {
            upserts: self.upserts.iter().map(version).collect(),
            removals: self.removals.clone(),
            unsaid: named.map(|fault| fault.name.as_str().into()).collect(),
        }
    }

    fn refuse(&mut self, name: String, reason: impl Into<String>) {
        self.faults.push(Refused { name, reason: reason.into() });
    }
}

/// Reads a response. Names that nobody wants any more are dropped: they were under way when they were unsubscribed.
pub(super) fn envelope(response: DeltaDiscoveryResponse, wanted: &Names) -> Envelope {
    let DeltaDiscoveryResponse { type_url, mut resources, mut removed_resources, .. } = response;
    resources.retain(|resource| wanted.contains(&resource.name));
    removed_resources.retain(|name| wanted.contains(name));
    let mut times: HashMap<String, usize> = HashMap::new();
    for resource in &resources {
        *times.entry(resource.name.clone()).or_default() += 1;
    }

    let mut read = Envelope::default();
    let mut removed = HashSet::new();
    for name in removed_resources {
        if times.contains_key(&name) {
            read.refuse(
                name.clone(),
                "stands among the resources and among the removed ones of one response",
            );
        } else if !removed.contains(&name) {
            read.removals.push(name.as_str().into());
        }
        removed.insert(name);
    }
    for WireResource { name, version, resource } in resources {
        if removed.contains(&name) {
            continue;
        }
        match body(&type_url, &name, times.get(&name).copied(), resource) {
            Ok(body) => read.upserts.push(Resource { name: name.into(), version: version.into(), body }),
            Err(reason) => read.refuse(name, reason),
        }
    }
    read
}

fn body(type_url: &str, name: &str, times: Option<usize>, any: Option<Any>) -> Result<Bytes, String> {
    let any = any.ok_or("has no body")?;
    if name.is_empty() {
        return Err("has no name".to_owned());
    }
    if times != Some(1) {
        return Err("stands more than once in one response".to_owned());
    }
    if any.type_url != type_url {
        return Err(format!("is a {} in a response of {type_url}", any.type_url));
    }
    Ok(any.value.into())
}
