//! What agents did and what policy said of it: metrics of our own, beside Istio's.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use waypoint_model::Service;

use super::exchange::{A2aRecord, Decision, DryRun, McpRecord, RequestRecord};
use super::family::{Bounds, Cell, Sets, show};
use super::labels::{
    Call, DecisionLabels, DryRunLabels, OTHER, Operation, OperationLabels, ServiceNames, Word,
};
use super::names::{KnownNames, bound_method};
use super::standard::Beyond;

#[derive(Debug, Default)]
struct Count(Cell<Counter>);

#[derive(Debug, Default)]
struct Operations {
    count: Cell<Counter>,
    hidden: Cell<Counter>,
}

#[derive(Debug, Default)]
struct Took(Cell<Histogram>);

/// Decisions and operations.
pub(super) struct Agents {
    decisions: Arc<Sets<DecisionLabels, Count>>,
    dry_run: Arc<Sets<DryRunLabels, Count>>,
    operations: Arc<Sets<Operation, Operations>>,
    durations: Arc<Sets<Call, Took>>,
    /// Of A2A.
    asked: Arc<Sets<Operation, Operations>>,
    bodies: Family<Word, Counter>,
}

impl Agents {
    pub(super) fn register(r: &mut Registry, bounds: Bounds) -> Self {
        let (decisions, dry_run) = (Sets::new(bounds), Sets::new(bounds));
        let (operations, durations, asked) = (Sets::new(bounds), Sets::new(bounds), Sets::new(bounds));
        let bodies = Family::default();
        let help = "Decisions of policy by deciding rule; `-` where no rule decided";
        show(r, "portcullis_policy_decisions", help, &decisions, |m: &Count| &m.0);
        let help = "What would have been decided, were the dry-run policies enforced; by their rule, `-` for want of one";
        show(r, "portcullis_dry_run_decisions", help, &dry_run, |m: &Count| &m.0);
        let help =
            "MCP requests; a name is shown if the server listed it or a policy spells it, else `other`";
        show(r, "portcullis_mcp_operations", help, &operations, |m: &Operations| &m.count);
        let help = "Entries left out of list answers because the peer may not use them";
        show(r, "portcullis_mcp_list_entries_hidden", help, &operations, |m: &Operations| &m.hidden);
        let help = "Time from the first byte of an MCP request to the last of its answer; open streams are not in it";
        show(r, "portcullis_mcp_operation_duration_milliseconds", help, &durations, |m: &Took| &m.0);
        let help = "MCP requests by whether their body had to be read to decide";
        r.register("portcullis_mcp_bodies", help, bodies.clone());
        let help = "A2A requests; `name` is the binding";
        show(r, "portcullis_a2a_operations", help, &asked, |m: &Operations| &m.count);
        let help = "Tasks of others left out of lists";
        show(r, "portcullis_a2a_list_entries_hidden", help, &asked, |m: &Operations| &m.hidden);
        Self { decisions, dry_run, operations, durations, asked, bodies }
    }

    pub(super) fn forget_idle(&self) {
        self.decisions.forget_idle();
        self.dry_run.forget_idle();
        self.operations.forget_idle();
        self.durations.forget_idle();
        self.asked.forget_idle();
    }

    pub(super) fn operation(
        &self,
        record: &RequestRecord,
        mcp: &McpRecord,
        milliseconds: f64,
        names: &KnownNames,
    ) -> Beyond {
        let service = record.service.as_ref();
        let (names, method) = (
            mcp.name.as_deref().map(|name| names.bound(service.map(|service| &service.key), name)),
            bound_method(mcp.method.as_deref()),
        );
        let call = Call::new(service, method, names.clone());
        let labels = OperationLabels {
            source: record.source.workload.clone().into(),
            principal: record.source.principal.clone(),
            service: ServiceNames::of(service),
            method,
            name: names,
            decision: record.decision.name(),
            outcome: outcome(record, mcp),
        };
        let kept = self.operations.with(&Operation(Some(labels)), |set| {
            set.count.get().inc();
            if mcp.hidden > 0 {
                set.hidden.get().inc_by(mcp.hidden as u64);
            }
        });
        self.bodies.get_or_create(&Word("read", if mcp.body_read { "yes" } else { "no" })).inc();
        // An open event stream lasts for as long as its client likes: that is no duration of an operation.
        let timed =
            mcp.method.is_none() || self.durations.with(&call, |set| set.0.get().observe(milliseconds));
        usize::from(!kept) + usize::from(!timed)
    }

    /// One request of A2A, by operation and binding.
    pub(super) fn asked_agent(&self, record: &RequestRecord, a2a: &A2aRecord) -> Beyond {
        let failed =
            record.status >= 400 || record.status == 0 || record.grpc_status.is_some_and(|it| it != 0);
        let labels = OperationLabels {
            source: record.source.workload.clone().into(),
            principal: record.source.principal.clone(),
            service: ServiceNames::of(record.service.as_ref()),
            method: a2a.operation.unwrap_or(OTHER),
            name: Some(a2a.binding.into()),
            decision: record.decision.name(),
            outcome: match record.decision {
                Decision::Denied { .. } => "refused",
                _ if failed => "failed",
                _ => "ok",
            },
        };
        let kept = self.asked.with(&Operation(Some(labels)), |set| {
            set.count.get().inc();
            if a2a.hidden > 0 {
                set.hidden.get().inc_by(a2a.hidden as u64);
            }
        });
        usize::from(!kept)
    }

    pub(super) fn decided(
        &self,
        service: Option<&Arc<Service>>,
        decision: &Decision,
        dry_run: Option<&DryRun>,
    ) -> Beyond {
        let count = |set: &Count| {
            set.0.get().inc();
        };
        let decided = match decision {
            Decision::NotDecided => true,
            Decision::Allowed(_) | Decision::Denied { .. } => {
                self.decisions.with(&DecisionLabels::new(service, decision), count)
            }
        };
        let tried =
            dry_run.is_none_or(|dry_run| self.dry_run.with(&DryRunLabels::new(service, dry_run), count));
        usize::from(!decided) + usize::from(!tried)
    }
}

/// `refused`: policy said no; `failed`: an HTTP or JSON-RPC error came back; else `ok`.
fn outcome(record: &RequestRecord, mcp: &McpRecord) -> &'static str {
    match record.decision {
        Decision::Denied { .. } => "refused",
        _ if mcp.failed || record.status >= 400 || record.status == 0 => "failed",
        _ => "ok",
    }
}
