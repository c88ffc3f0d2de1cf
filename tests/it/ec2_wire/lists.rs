//! Lists and looks: limits of a call, filters that moto lacks, and what is shown differently from what moto has.

use super::answer::{Answer, Refusal, Stop};
use super::params::Params;
use super::state::State;
use super::truth;
use super::wire::{Call, Wire};
use super::xml::{Edits, items, parse, text};
use roxmltree::Node;
use std::time::Duration;

/// No instance has it.
const NOBODY: &str = "i-00000000000000000";

/// What a filter on the state of instances lets through; moto's machines are in other states than ours.
type States = Option<Vec<String>>;

impl Wire {
    pub(super) async fn describe(&self, call: &Call) -> Result<Answer, Stop> {
        let by_id = self.check_limits(&call.params)?;
        let (mut params, mut states) = (call.params.clone(), None);
        if call.action == "DescribeInstances" {
            if let Some(id) = params.list("InstanceId").into_iter().find(|id| !is_id(id)) {
                return Err(Refusal::rule("InvalidInstanceID.Malformed", &format!("Invalid id: \"{id}\"")).into());
            }
            (params, states) = self.own_filters(params);
        }
        let source = self.ask(&call.action, &params).await?;
        let (document, mut edits) = (parse(&source), Edits::default());
        let root = document.root_element();
        let (now, state) = (self.clock.now(), self.state.lock().unwrap());
        for reservation in items(root, &["reservationSet"]) {
            let all = items(reservation, &["instancesSet"]);
            let hidden = all.iter().filter(|item| show_instance(**item, &state, now, by_id, &states, &mut edits)).count();
            if hidden == all.len() {
                edits.remove(reservation);
            }
        }
        for item in items(root, &["instanceStatusSet"]) {
            if !by_id && State::is_later(&state.listed_at, text(item, &["instanceId"]), now) {
                edits.remove(item);
            }
        }
        for item in items(root, &["volumeSet"]) {
            show_volume(item, &state, now, by_id, &mut edits);
        }
        for item in items(root, &["snapshotSet"]) {
            if state.is_open(text(item, &["snapshotId"]), now) {
                edits.set(item, &["status"], "pending");
                edits.set(item, &["progress"], "0%");
            }
        }
        Ok(Answer::xml(edits.apply(&source)))
    }

    /// Whether the call names ids; then it may not ask for pages.
    fn check_limits(&self, params: &Params) -> Result<bool, Stop> {
        let ids: Vec<&str> = ["InstanceId", "VolumeId", "SnapshotId"].iter().flat_map(|list| params.list(list)).collect();
        if ids.len() > self.rules.max_ids {
            let message = format!("{} ids, at most {} are allowed", ids.len(), self.rules.max_ids);
            return Err(Refusal::rule("InvalidParameterValue", &message).into());
        }
        let Some(page) = params.get("MaxResults") else { return Ok(!ids.is_empty()) };
        if !ids.is_empty() {
            let message = "The parameter instancesSet cannot be used with the parameter maxResults";
            return Err(Refusal::rule("InvalidParameterCombination", message).into());
        }
        if !(5..=1000).contains(&page.parse::<u32>().unwrap_or_default()) {
            let message = format!("Value ( {page} ) for parameter maxResults is invalid. Expecting a value between 5 and 1000.");
            return Err(Refusal::rule("InvalidParameterValue", &message).into());
        }
        Ok(false)
    }

    /// moto has no filter `client-token`: it becomes one on ids. That on states is taken out and kept here.
    fn own_filters(&self, mut params: Params) -> (Params, States) {
        let mut states = None;
        for filter in params.entries("Filter") {
            let name = params.get(&format!("{filter}.Name")).unwrap_or_default().to_owned();
            let values: Vec<String> = params.list(&format!("{filter}.Value")).into_iter().map(str::to_owned).collect();
            let other = match name.as_str() {
                "client-token" => self.made_by(&values),
                "instance-state-name" => {
                    states = Some(values);
                    let all = ["pending", "running", "shutting-down", "stopping", "stopped", "terminated"];
                    all.map(str::to_owned).to_vec()
                }
                _ => continue,
            };
            params.0.retain(|name, _| !name.starts_with(&format!("{filter}.Value.")));
            if name == "client-token" {
                params = params.with(&format!("{filter}.Name"), "instance-id");
            }
            for (at, value) in other.iter().enumerate() {
                params = params.with(&format!("{filter}.Value.{}", at + 1), value);
            }
        }
        (params, states)
    }

    fn made_by(&self, tokens: &[String]) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let first = tokens.iter().filter_map(|token| state.tokens.get(&("RunInstances".to_owned(), token.clone())));
        let ids: Vec<String> = first.flat_map(|first| first.ids.clone()).collect();
        if ids.is_empty() { vec![NOBODY.to_owned()] } else { ids }
    }
}

/// Shows an instance as AWS would; says whether it is hidden.
fn show_instance(item: Node<'_, '_>, state: &State, now: Duration, by_id: bool, states: &States, edits: &mut Edits) -> bool {
    let instance = truth::instance(item);
    let mut shown = instance.state.as_str();
    if shown == "running" && State::is_later(&state.runs_at, &instance.id, now) {
        shown = "pending";
        edits.set(item, &["instanceState"], "<code>0</code><name>pending</name>");
    }
    if let Some(address) = state.addresses.get(&instance.id) {
        edits.set(item, &["privateIpAddress"], &address.to_string());
    }
    let unlisted = !by_id && State::is_later(&state.listed_at, &instance.id, now);
    if unlisted || states.as_ref().is_some_and(|states| !states.iter().any(|wanted| wanted == shown)) {
        edits.remove(item);
        return true;
    }
    for device in items(item, &["blockDeviceMapping"]) {
        if let Some(status) = state.stuck.get(text(device, &["ebs", "volumeId"])) {
            edits.set(device, &["ebs", "status"], status);
        }
    }
    false
}

fn show_volume(item: Node<'_, '_>, state: &State, now: Duration, by_id: bool, edits: &mut Edits) {
    let id = text(item, &["volumeId"]);
    if state.phantoms.contains(id) || (!by_id && State::is_later(&state.listed_at, id, now)) {
        return edits.remove(item);
    }
    if let Some(status) = state.stuck.get(id) {
        edits.set(item, &["attachmentSet", "item", "status"], status);
    }
}

fn is_id(id: &str) -> bool {
    id.strip_prefix("i-").is_some_and(|rest| [8, 17].contains(&rest.len()) && rest.chars().all(|c| c.is_ascii_hexdigit()))
}
