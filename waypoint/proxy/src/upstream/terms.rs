//! What a cluster asks of its endpoints, and what it has open and running.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use waypoint_model::{ClusterKey, HttpVersion, OutlierDetection, TrafficPolicy};

use super::health::{Ejection, Growth, Health, Outcome};
use super::originate::Origination;
use crate::limits::Limits;

/// How endpoints of one cluster are used: the process' limits, and what the cluster's own policy says beside them.
pub(super) struct Terms {
    pub(super) ejection: Ejection,
    /// Requests to one endpoint at once.
    pub(super) endpoint_requests: usize,
    /// Connections to one endpoint at once.
    pub(super) endpoint_connections: usize,
    pub(super) connect_timeout: Duration,
    /// A connection without requests is closed after this.
    pub(super) idle: Duration,
    /// What is spoken; `None`: as the port and the client say.
    pub(super) http: Option<HttpVersion>,
    /// TLS to its endpoints.
    pub(super) tls: Option<Arc<Origination>>,
    /// Of a control plane's cluster only.
    pub(super) budget: Option<Arc<Budget>>,
}

impl Terms {
    /// For a service's own endpoints.
    pub(super) fn of_process(limits: &Limits) -> Self {
        Self {
            ejection: Ejection {
                server: 0,
                gateway: limits.ejection_failures,
                local: None,
                time: limits.ejection_time,
                growth: Growth::Double,
                most_percent: 100,
            },
            endpoint_requests: limits.endpoint_requests,
            endpoint_connections: limits.endpoint_connections,
            connect_timeout: limits.connect_timeout,
            idle: limits.upstream_idle,
            http: None,
            tls: None,
            budget: None,
        }
    }

    /// For a control plane's cluster.
    pub(super) fn of_cluster(
        limits: &Limits,
        policy: &TrafficPolicy,
        tls: Option<Arc<Origination>>,
        budget: Arc<Budget>,
    ) -> Self {
        let process = Self::of_process(limits);
        Self {
            ejection: policy.outlier.as_ref().map_or(process.ejection, ejection),
            connect_timeout: policy.limits.connect_timeout.unwrap_or(process.connect_timeout),
            idle: policy.limits.idle_timeout.unwrap_or(process.idle),
            http: policy.http,
            tls,
            budget: Some(budget),
            ..process
        }
    }

    /// Notes what came of an endpoint; whether that ejected it.
    pub(super) fn note(&self, health: &Arc<Health>, outcome: Outcome, now: u64) -> bool {
        if !health.note(outcome, now, &self.ejection) {
            return false;
        }
        match &self.budget {
            None => {
                health.eject(now, &self.ejection);
                true
            }
            Some(budget) => budget.eject(health, now, &self.ejection),
        }
    }
}

fn ejection(outlier: &OutlierDetection) -> Ejection {
    Ejection {
        server: outlier.consecutive_5xx.unwrap_or(0),
        gateway: outlier.consecutive_gateway.unwrap_or(0),
        local: outlier.consecutive_local,
        time: outlier.base_ejection,
        growth: Growth::Times,
        most_percent: outlier.max_ejection_percent,
    }
}

/// What one cluster has open and running, over all its endpoints. Outlives snapshots.
pub(super) struct Budget {
    pub(super) key: ClusterKey,
    /// Endpoints that it has in the newest snapshot.
    endpoints: AtomicUsize,
    /// Who is ejected, and until when. Locked when one is, which is seldom.
    ejected: Mutex<Vec<(Weak<Health>, u64)>>,
    /// When the last of them ends.
    ejected_until: AtomicU64,
}

impl Budget {
    pub(super) fn new(key: ClusterKey) -> Arc<Self> {
        Arc::new(Self {
            key,
            endpoints: AtomicUsize::new(0),
            ejected: Mutex::default(),
            ejected_until: AtomicU64::new(0),
        })
    }

    /// Another snapshot has so many endpoints.
    pub(super) fn resize(&self, endpoints: usize) {
        self.endpoints.store(endpoints, Ordering::Relaxed);
    }

    /// Whether any endpoint may be ejected now.
    pub(super) fn has_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now
    }

    /// Ejects an endpoint, unless that would make too many (Envoy: the share with this one, of all endpoints).
    fn eject(&self, health: &Arc<Health>, now: u64, rule: &Ejection) -> bool {
        let mut ejected = self.ejected();
        // Somebody else may have done so in this very moment.
        if health.is_ejected(now) {
            return false;
        }
        ejected.retain(|(health, until)| *until > now && health.strong_count() > 0);
        let most = u64::from(rule.most_percent).saturating_mul(self.endpoints.load(Ordering::Relaxed) as u64);
        if (ejected.len() as u64).saturating_add(1).saturating_mul(100) > most {
            return false;
        }
        let until = health.eject(now, rule);
        ejected.push((Arc::downgrade(health), until));
        self.ejected_until.fetch_max(until, Ordering::Relaxed);
        true
    }

    fn ejected(&self) -> MutexGuard<'_, Vec<(Weak<Health>, u64)>> {
        self.ejected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
