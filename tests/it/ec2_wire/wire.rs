//! A request goes through every check in AWS's order: signature, model, faults, budgets, then the rules of its action.
//!
//! Reads: the request. Writes: the journal, the violations. Calls: `ec2`, `ebs`, moto.

use super::answer::{Answer, Refusal, Service, Stop};
use super::backing::Backing;
use super::budgets::{self, Bucket, Budgets};
use super::clock::Clock;
use super::faults::{Faults, Kind};
use super::held::Held;
use super::journal::{Journal, Outcome};
use super::params::Params;
use super::rules::Rules;
use super::state::State;
use super::{model, policy};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

pub(super) const REGION: &str = "eu-west-1";

/// Everything that requests share.
pub(super) struct Wire {
    pub(super) rules: Rules,
    pub(super) clock: Clock,
    pub(super) journal: Journal,
    pub(super) faults: Faults,
    pub(super) state: Mutex<State>,
    pub(super) held: Mutex<Held>,
    pub(super) violations: Mutex<Vec<String>>,
    /// Rights that calls needed, as a policy names them: `ec2:RunInstances`.
    pub(super) actions: Mutex<BTreeSet<String>>,
    /// Instance profiles that the test allows.
    pub(super) profiles: Mutex<BTreeSet<String>>,
    pub(super) budgets: Mutex<Budgets>,
    /// Held by whoever changes something: a rule is checked and its effect made without another between.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Zone by subnet.
    pub(super) zones: BTreeMap<String, String>,
    /// What stands behind the instances; none: nothing does.
    pub(super) backing: Option<Arc<dyn Backing>>,
    pub(super) http: reqwest::Client,
    pub(super) moto: String,
}

/// A request as it came.
pub(super) struct Raw {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A request that was understood.
pub(super) struct Call {
    pub(super) service: Service,
    pub(super) action: String,
    pub(super) params: Params,
    pub(super) raw: Raw,
}

impl Wire {
    /// The answer to a request; `None` cuts the connection.
    pub(super) async fn answer(&self, raw: Raw) -> Option<Response<Body>> {
        let call = if raw.path.starts_with("/snapshots") { super::ebs::read(raw) } else { super::ec2::read(raw) };
        let number = self.journal.open(call.service.name(), &call.action, call.params.clone());
        let (outcome, response) = match self.carry(&call).await {
            Ok(_) if self.strikes(&call, |kind| matches!(kind, Kind::LoseAnswer)) => (Outcome::AnswerLost, None),
            Ok(answer) => (Outcome::Done, Some(answer.into_http())),
            Err(Stop::Cut) => (Outcome::Cut, None),
            Err(Stop::Refused(refusal)) => (refusal.outcome(), Some(refusal.into_http(call.service))),
        };
        self.journal.close(number, outcome);
        response
    }

    async fn carry(&self, call: &Call) -> Result<Answer, Stop> {
        self.check_signature(call)?;
        let model = if call.service == Service::Ec2 { model::ec2() } else { model::ebs() };
        let wrong = model.check(&call.action, &call.params);
        if let Some(first) = wrong.first().cloned() {
            self.violated("model", wrong);
            return Err(Refusal::rule("ValidationError", &first).into());
        }
        self.violated("policy", policy::check(&call.action, &call.params, &self.profiles.lock().unwrap()));
        self.note_rights(call);
        self.meet_faults(call).await?;
        self.take_budget(call)?;
        match call.service {
            Service::Ec2 => self.ec2(call).await,
            Service::Ebs => self.ebs(call).await,
        }
    }

    /// What every request needs: a signature of version 4 for this service and region.
    fn check_signature(&self, call: &Call) -> Result<(), Stop> {
        let header = call.raw.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let scope = format!("/{REGION}/{}/aws4_request", call.service.name());
        if header.starts_with("AWS4-HMAC-SHA256 ") && header.contains(&scope) {
            return Ok(());
        }
        self.violated("signature", vec![format!("{}: signed as {header:?} and not for {scope}", call.action)]);
        Err(Refusal::new(401, "AuthFailure", "AWS was not able to validate the provided access credentials").into())
    }

    /// What a policy must allow for this call: tags and profiles in a creating call need rights of their own.
    fn note_rights(&self, call: &Call) {
        let mut actions = self.actions.lock().unwrap();
        actions.insert(format!("{}:{}", call.service.name(), call.action));
        let names = || call.params.0.keys();
        if names().any(|name| name.starts_with("TagSpecification.") || name.starts_with("Tags.")) {
            actions.insert("ec2:CreateTags".to_owned());
        }
        if names().any(|name| name.starts_with("IamInstanceProfile.")) {
            actions.insert("iam:PassRole".to_owned());
        }
    }

    async fn meet_faults(&self, call: &Call) -> Result<(), Stop> {
        let slow = |kind: &Kind| if let Kind::Slow(time) = kind { Some(*time) } else { None };
        if let Some(time) = self.faults.strike(&call.action, None, slow) {
            tokio::time::sleep(time).await;
        }
        if self.strikes(call, |kind| matches!(kind, Kind::Cut)) {
            return Err(Stop::Cut);
        }
        let refusal = |kind: &Kind| if let Kind::Refuse(refusal) = kind { Some(refusal.clone()) } else { None };
        self.faults.strike(&call.action, None, refusal).map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    fn take_budget(&self, call: &Call) -> Result<(), Stop> {
        if !self.rules.budgets {
            return Ok(());
        }
        let cost = match call.service {
            Service::Ec2 => budgets::cost(&call.action, &call.params),
            Service::Ebs => vec![(Bucket::Blocks, 1)],
        };
        let taken = self.budgets.lock().unwrap().take(&cost, self.clock.now());
        taken.map_err(|_| Refusal::throttled().into())
    }

    /// Whether a fault of this kind strikes this call.
    pub(super) fn strikes(&self, call: &Call, is: impl Fn(&Kind) -> bool) -> bool {
        self.faults.strike(&call.action, None, |kind| is(kind).then_some(())).is_some()
    }

    /// Notes what no request of ours may do.
    pub(super) fn violated(&self, what: &str, found: Vec<String>) {
        self.violations.lock().unwrap().extend(found.into_iter().map(|one| format!("{what}: {one}")));
    }
}
