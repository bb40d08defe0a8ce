//! The list of connections, taken from the tables on a thread that may take its time.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;

use super::problem::{Problem, known_service, prefix};
use super::{Admin, Answer, Place, json};
use crate::control::api::{DEFAULT_FLOWS, Flow, FlowQuery, Flows, MAX_FLOWS, STATES};
use crate::engine::list::Listed;
use crate::engine::policy::Prefix;
use crate::io::Clock;

/// Answers `/v1/flows`.
pub(super) async fn flows(State(desk): Place, query: Result<Query<FlowQuery>, QueryRejection>) -> Answer {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let wanted = Wanted::new(&desk.admin, &query)?;
    // The semaphore is never closed.
    let permit = desk.listings.clone().acquire_owned().await.ok();
    let admin = desk.admin.clone();
    let listing = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        list(&admin, &wanted)
    });
    match listing.await {
        Ok(flows) => Ok(json(&flows)),
        Err(_) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the listing failed")),
    }
}

/// A [`FlowQuery`] that was understood.
struct Wanted {
    prefix: Option<Prefix>,
    service: Option<String>,
    state: Option<String>,
    limit: usize,
}

impl Wanted {
    fn new(admin: &Admin, query: &FlowQuery) -> Result<Wanted, Problem> {
        let prefix = query.prefix.as_deref().map(prefix).transpose()?;
        if let Some(name) = &query.service {
            known_service(admin, name)?;
        }
        if let Some(state) = query.state.as_ref().filter(|state| !STATES.contains(&state.as_str())) {
            return Err(Problem::bad_request(format!(
                "{state:?} is no state; there are: {}",
                STATES.join(", ")
            )));
        }
        let limit = query.limit.unwrap_or(DEFAULT_FLOWS);
        if !(1..=MAX_FLOWS).contains(&limit) {
            return Err(Problem::bad_request(format!("limit: {limit} is out of range, 1 to {MAX_FLOWS}")));
        }
        Ok(Wanted { prefix, service: query.service.clone(), state: query.state.clone(), limit })
    }

    fn holds(&self, listed: &Listed, service: &str) -> bool {
        self.prefix.is_none_or(|prefix| prefix.contains(listed.client.0))
            && self.service.as_ref().is_none_or(|wanted| wanted == service)
            && self.state.as_ref().is_none_or(|wanted| wanted == listed.state)
    }
}

fn list(admin: &Admin, wanted: &Wanted) -> Flows {
    let policy = admin.shared.policy();
    let mut flows = Flows { flows: Vec::new(), is_truncated: false };
    admin.shared.list(admin.clock.now(), |listed| {
        let service = policy.service(listed.service).map_or("-", |service| service.name.as_str());
        if wanted.holds(&listed, service) {
            flows.is_truncated = flows.flows.len() >= wanted.limit;
            if !flows.is_truncated {
                flows.flows.push(flow(&listed, service));
            }
        }
        !flows.is_truncated
    });
    flows
}

fn flow(listed: &Listed, service: &str) -> Flow {
    let ((client, client_port), (server, server_port)) = (listed.client, listed.server);
    Flow {
        client: client.to_string(),
        client_port,
        server: server.to_string(),
        server_port,
        service: service.to_owned(),
        state: listed.state.to_owned(),
        kind: listed.kind.label().to_owned(),
        age_seconds: listed.age.map(|age| age.as_secs_f64()),
        idle_seconds: listed.idle.map(|idle| idle.as_secs_f64()),
    }
}
