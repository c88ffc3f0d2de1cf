//! EC2: a form goes to the rules of its action, and to moto where there are none.

use super::answer::{Answer, Refusal, Service, Stop};
use super::params::Params;
use super::state::State;
use super::wire::{Call, Raw, Wire};

/// Reads a request of EC2.
pub(super) fn read(raw: Raw) -> Call {
    let mut params = Params::decode(&raw.body);
    let action = params.0.remove("Action").unwrap_or_default();
    if params.0.get("Version").is_some_and(|version| version == "2016-11-15") {
        params.0.remove("Version");
    }
    Call { service: Service::Ec2, action, params, raw }
}

impl Wire {
    /// The effect of a call.
    pub(super) async fn ec2(&self, call: &Call) -> Result<Answer, Stop> {
        self.check_known(&call.params)?;
        let action = call.action.as_str();
        if let Some(answer) = self.announced(call) {
            return Ok(answer);
        }
        if action.starts_with("Describe") {
            self.look_behind().await?;
            return self.describe(call).await;
        }
        let turn = self.turn.lock().await;
        let answer = match action {
            "RunInstances" => self.run_instances(call).await,
            "CreateFleet" => self.create_fleet(call).await,
            "CreateVolume" => self.create_volume(call).await,
            "CreateSnapshot" => self.create_snapshot(call).await,
            "AttachVolume" => self.attach(call).await,
            "DetachVolume" => self.detach(call).await,
            "TerminateInstances" => self.terminate(call).await,
            "StartInstances" => self.start(call).await,
            "StopInstances" => self.stop(call).await,
            _ => self.ask(action, &call.params).await.map(Answer::xml),
        };
        let answer = match answer {
            Ok(answer) => Ok(self.stand_behind(call, answer).await),
            refused => refused,
        };
        drop(turn);
        answer
    }

    /// "`InvalidInstanceID.NotFound` just after RunInstances does not mean that it does not exist."
    fn check_known(&self, params: &Params) -> Result<(), Stop> {
        let (now, state) = (self.clock.now(), self.state.lock().unwrap());
        let ids = params.list("InstanceId").into_iter().chain(params.get("InstanceId"));
        match ids.into_iter().find(|id| State::is_later(&state.known_at, id, now)) {
            Some(id) => {
                let message = format!("The instance ID '{id}' does not exist");
                Err(Refusal::rule("InvalidInstanceID.NotFound", &message).into())
            }
            None => Ok(()),
        }
    }
}
