//! Stop and start: only machines that are in the state for it, and only on-demand ones are stopped.

use super::answer::{Answer, Refusal, Stop};
use super::faults::Wanted;
use super::state::State;
use super::truth::Truth;
use super::wire::{Call, Wire};

impl Wire {
    pub(super) async fn stop(&self, call: &Call) -> Result<Answer, Stop> {
        for instance in self.true_instances(&call.params.list("InstanceId")).await? {
            if instance.spot {
                let message = format!("You can't stop the Spot Instance '{}'", instance.id);
                return Err(Refusal::rule("UnsupportedOperation", &message).into());
            }
            if !["running", "stopped"].contains(&self.shown_state(&instance)) {
                return Err(in_state(&instance.id, self.shown_state(&instance), "stopped"));
            }
        }
        self.ask(&call.action, &call.params).await.map(Answer::xml)
    }

    /// "It can also strike when a *stopped* instance is started": no capacity.
    pub(super) async fn start(&self, call: &Call) -> Result<Answer, Stop> {
        let instances = self.true_instances(&call.params.list("InstanceId")).await?;
        for instance in &instances {
            if instance.state == "terminated" {
                return Err(in_state(&instance.id, &instance.state, "started"));
            }
            if instance.state == "stopped" {
                let (instance_type, zone) = (instance.instance_type.clone(), instance.zone.clone());
                self.check_room(&call.action, &Wanted { instance_type, zone, spot: instance.spot })?;
            }
        }
        let answer = self.ask(&call.action, &call.params).await?;
        let (now, mut state) = (self.clock.now(), self.state.lock().unwrap());
        for instance in instances.into_iter().filter(|instance| instance.state == "stopped") {
            state.runs_at.insert(instance.id, now + self.rules.runs_after);
        }
        Ok(Answer::xml(answer))
    }

    /// `pending` as long as the rules say so; moto's machines run at once.
    pub(super) fn shown_state<'a>(&self, instance: &'a Truth) -> &'a str {
        let (now, state) = (self.clock.now(), self.state.lock().unwrap());
        let boots = instance.state == "running" && State::is_later(&state.runs_at, &instance.id, now);
        if boots { "pending" } else { &instance.state }
    }
}

fn in_state(id: &str, state: &str, verb: &str) -> Stop {
    let message = format!("The instance '{id}' is '{state}' and cannot be {verb}.");
    Refusal::rule("IncorrectInstanceState", &message).into()
}
