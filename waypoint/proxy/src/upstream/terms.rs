//! What a cluster asks of its endpoints, and what it has open and running.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use waypoint_model::{ClusterKey, HttpVersion, OutlierDetection, TrafficPolicy};

use super::connect::ConnectError;
use super::health::{Active, Ejection, Growth, Health, Outcome, Slot, take};
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
    /// Of the whole cluster; `usize::MAX` where it says nothing.
    pub(super) most: Most,
    /// Requests on one connection, then it is closed.
    pub(super) requests_per_connection: usize,
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
            most: Most {
                connections: usize::MAX,
                pending: usize::MAX,
                requests: usize::MAX,
                retries: usize::MAX,
            },
            requests_per_connection: usize::MAX,
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
            most: Most {
                connections: bound(policy.limits.connections),
                pending: bound(policy.limits.pending),
                requests: bound(policy.limits.requests),
                retries: bound(policy.limits.retries),
            },
            // Zero means no bound (Envoy `max_requests_per_connection`).
            requests_per_connection: bound(policy.limits.requests_per_connection.filter(|most| *most > 0)),
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

    /// One more request to an endpoint, unless it or the cluster runs as many as it may.
    pub(super) fn start(&self, health: &Arc<Health>) -> Option<Active> {
        let within = self.take(Count::Requests, self.most.requests)?;
        Some(health.start(self.endpoint_requests)?.within(within))
    }

    /// One more connection to an endpoint; `None` where the cluster has as many as it may, and one that comes free will do.
    /// An endpoint without any may always have one (Envoy): what others hold never comes free for it. Two that begin at
    /// once may be one too many.
    ///
    /// # Errors
    /// The endpoint has as many as it may.
    pub(super) fn connect(&self, health: &Arc<Health>) -> Result<Option<Slot>, ConnectError> {
        let most = if health.connections() == 0 { usize::MAX } else { self.most.connections };
        let counts = self.most.connections < usize::MAX;
        let within = if counts { self.take(Count::Connections, most) } else { Some(None) };
        let Some(within) = within else { return Ok(None) };
        let slot = health.connect(self.endpoint_connections).ok_or(ConnectError::TooManyConnections)?;
        Ok(Some(slot.within(within)))
    }

    /// One more request that waits for a connection.
    ///
    /// # Errors
    /// As many wait as may.
    pub(super) fn wait(&self) -> Result<Option<Taken>, ConnectError> {
        self.take(Count::Pending, self.most.pending).ok_or(ConnectError::TooManyConnections)
    }

    /// One more retry; `None`: as many run as may.
    pub(super) fn retry(&self) -> Option<Option<Taken>> {
        self.take(Count::Retries, self.most.retries)
    }

    /// When a connection of the cluster comes free. To be asked for before looking for one.
    pub(super) fn freed(&self) -> Option<Notified<'_>> {
        self.budget.as_ref().map(|budget| budget.freed.notified())
    }

    /// `None`: there are `most`. Without a bound nothing is counted.
    fn take(&self, count: Count, most: usize) -> Option<Option<Taken>> {
        let Some(budget) = self.budget.as_ref().filter(|_| self.most.of(count) < usize::MAX) else {
            return Some(None);
        };
        take(budget.of(count), most).then(|| Some(Taken { budget: Arc::clone(budget), count }))
    }
}

fn bound(most: Option<u32>) -> usize {
    most.map_or(usize::MAX, |most| most as usize)
}

/// Bounds of a whole cluster.
pub(super) struct Most {
    pub(super) connections: usize,
    pub(super) pending: usize,
    pub(super) requests: usize,
    pub(super) retries: usize,
}

impl Most {
    fn of(&self, count: Count) -> usize {
        match count {
            Count::Connections => self.connections,
            Count::Pending => self.pending,
            Count::Requests => self.requests,
            Count::Retries => self.retries,
        }
    }
}

/// What a cluster counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    Connections,
    Pending,
    Requests,
    Retries,
}

/// One that is counted in its cluster until it is dropped.
pub(super) struct Taken {
    budget: Arc<Budget>,
    count: Count,
}

impl Taken {
    /// A connection may be used by another.
    pub(super) fn freed(&self) {
        self.budget.freed.notify_waiters();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.of(self.count).fetch_sub(1, Ordering::Relaxed);
        if self.count == Count::Connections {
            self.freed();
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
    connections: AtomicUsize,
    pending: AtomicUsize,
    requests: AtomicUsize,
    retries: AtomicUsize,
    /// A connection was closed, or can be used again.
    freed: Notify,
}

impl Budget {
    pub(super) fn new(key: ClusterKey) -> Arc<Self> {
        Arc::new(Self {
            key,
            endpoints: AtomicUsize::new(0),
            ejected: Mutex::default(),
            ejected_until: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            retries: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    fn of(&self, count: Count) -> &AtomicUsize {
        match count {
            Count::Connections => &self.connections,
            Count::Pending => &self.pending,
            Count::Requests => &self.requests,
            Count::Retries => &self.retries,
        }
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
