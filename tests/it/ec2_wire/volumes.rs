//! Volumes: made once per token, attached in their own zone, to one running machine, at a free place (EC2.md, "Volumes").

use super::answer::{Answer, Refusal, Stop};
use super::faults::Kind;
use super::upstream::numbered;
use super::wire::{Call, Wire};
use super::xml::{Edits, find, inner, parse, text};

impl Wire {
    pub(super) async fn create_volume(&self, call: &Call) -> Result<Answer, Stop> {
        if let Some(first) = self.first(call, "ClientToken")? {
            return self.created_before(&first.ids[0]).await;
        }
        if call.params.get("SnapshotId").is_some_and(|id| self.state.lock().unwrap().is_open(id, self.clock.now())) {
            return Err(Refusal::rule("IncorrectState", "The snapshot is in state 'pending'").into());
        }
        let source = self.ask(&call.action, &call.params).await?;
        let id = text(parse(&source).root_element(), &["volumeId"]).to_owned();
        self.lag(call, std::slice::from_ref(&id));
        let answer = Answer::xml(source);
        self.remember(call, "ClientToken", vec![id], &answer);
        Ok(answer)
    }

    /// moto says at once that it is completed; AWS begins.
    pub(super) async fn create_snapshot(&self, call: &Call) -> Result<Answer, Stop> {
        let source = self.ask(&call.action, &call.params).await?;
        let time = |kind: &Kind| if let Kind::Pending(time) = kind { Some(*time) } else { None };
        if let Some(time) = self.faults.strike(&call.action, None, time) {
            let id = text(parse(&source).root_element(), &["snapshotId"]).to_owned();
            self.state.lock().unwrap().completed_at.insert(id, self.clock.now() + time);
        }
        Ok(with_status(&source, "pending"))
    }

    async fn created_before(&self, id: &str) -> Result<Answer, Stop> {
        let source = self.ask("DescribeVolumes", &numbered("VolumeId", &[id])).await?;
        let document = parse(&source);
        let volume = find(document.root_element(), &["volumeSet", "item"]).unwrap();
        Ok(Answer::xml(format!(
            "<CreateVolumeResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>again</requestId>{}\
             </CreateVolumeResponse>",
            inner(&source, volume)
        )))
    }

    pub(super) async fn attach(&self, call: &Call) -> Result<Answer, Stop> {
        let get = |name: &str| call.params.get(name).unwrap_or_default();
        let (id, device) = (get("VolumeId"), get("Device"));
        let volume = self.true_volumes(&[id]).await?.remove(0);
        let instance = self.true_instances(&[get("InstanceId")]).await?.remove(0);
        let shown = self.shown_state(&instance);
        let refused = |code: &str, message: String| Err(Refusal::rule(code, &message).into());
        if let Some((holder, _)) = &volume.attached {
            return refused("VolumeInUse", format!("{id} is already attached to an instance: {holder}"));
        }
        if !["running", "stopped"].contains(&shown) {
            return refused("IncorrectState", format!("Instance '{}' is not 'running': {shown}", instance.id));
        }
        if volume.zone != instance.zone {
            let message = format!("The volume '{id}' is not in the same availability zone as instance '{}'", instance.id);
            return refused("InvalidVolume.ZoneMismatch", message);
        }
        if instance.devices.contains_key(device) {
            return refused("InvalidParameterValue", format!("Attachment point {device} is already in use"));
        }
        if instance.devices.len() >= self.rules.volumes_per_machine {
            return refused("AttachmentLimitExceeded", format!("{} has {} volumes", instance.id, instance.devices.len()));
        }
        let source = self.ask(&call.action, &call.params).await?;
        let stuck = self.strikes(call, |kind| matches!(kind, Kind::StuckAttach));
        let before = &mut self.state.lock().unwrap().stuck;
        before.remove(id);
        if stuck {
            before.insert(id.to_owned(), "attaching");
        }
        // moto says at once that it is attached; AWS begins.
        Ok(with_status(&source, "attaching"))
    }

    pub(super) async fn detach(&self, call: &Call) -> Result<Answer, Stop> {
        let id = call.params.get("VolumeId").unwrap_or_default();
        let volume = self.true_volumes(&[id]).await?.remove(0);
        let Some((instance, device)) = volume.attached else {
            return Err(Refusal::rule("IncorrectState", &format!("Volume '{id}' is in the 'available' state.")).into());
        };
        let other = |name: &str, value: &str| call.params.get(name).is_some_and(|named| named != value);
        if other("InstanceId", &instance) || other("Device", &device) {
            let message = format!("The volume '{id}' is not attached to instance '{instance}' as device '{device}'");
            return Err(Refusal::rule("InvalidAttachment.NotFound", &message).into());
        }
        let stuck = self.strikes(call, |kind| matches!(kind, Kind::StuckDetach)) || self.is_held_by_guest(id).await;
        if stuck || self.state.lock().unwrap().stuck.get(id) == Some(&"detaching") {
            self.state.lock().unwrap().stuck.insert(id.to_owned(), "detaching");
            return Ok(detaching(id, &instance, &device));
        }
        // moto wants to be told both.
        let params = call.params.clone().with("InstanceId", &instance).with("Device", &device);
        let source = self.ask(&call.action, &params).await?;
        self.state.lock().unwrap().stuck.remove(id);
        Ok(with_status(&source, "detaching"))
    }
}

fn with_status(source: &str, status: &str) -> Answer {
    let (document, mut edits) = (parse(source), Edits::default());
    edits.set(document.root_element(), &["status"], status);
    Answer::xml(edits.apply(source))
}

fn detaching(volume: &str, instance: &str, device: &str) -> Answer {
    Answer::xml(format!(
        "<DetachVolumeResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>stuck</requestId>\
         <volumeId>{volume}</volumeId><instanceId>{instance}</instanceId><device>{device}</device><status>detaching</status>\
         </DetachVolumeResponse>"
    ))
}
