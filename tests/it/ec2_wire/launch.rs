//! Launches: a token makes machines once; type, number, room and quota are checked; `MaxCount` machines come, or fewer.

use super::answer::{Answer, Refusal, Stop};
use super::faults::{Kind, Wanted};
use super::params::Params;
use super::state::First;
use super::truth::{self, Truth};
use super::upstream::numbered;
use super::wire::{Call, Wire};
use super::xml::{find, inner, items, parse};

impl Wire {
    pub(super) async fn run_instances(&self, call: &Call) -> Result<Answer, Stop> {
        let (least, most) = (call.params.number("MinCount"), call.params.number("MaxCount"));
        if least == 0 || most < least || most > self.rules.max_batch {
            let message = format!("{least} to {most} machines, between 1 and {}", self.rules.max_batch);
            return Err(Refusal::rule("InvalidParameterValue", &message).into());
        }
        if let Some(name) = call.params.get("InstanceType") {
            self.check_type(name)?;
        }
        if let Some(first) = self.first(call, "ClientToken")? {
            return self.launched_before(&first).await;
        }
        let wanted = self.wanted(&call.params, "");
        self.check_room(&call.action, &wanted)?;
        let fewer = |kind: &Kind| if let Kind::Fewer(count) = kind { Some(*count) } else { None };
        let count = self.faults.strike(&call.action, Some(&wanted), fewer).map_or(most, |count| count.clamp(least, most));
        // moto makes as many as `MinCount` says.
        let text = count.to_string();
        let params = call.params.clone().with("MinCount", &text).with("MaxCount", &text);
        let source = self.ask(&call.action, &params).await?;
        let document = parse(&source);
        let made: Vec<Truth> = items(document.root_element(), &["instancesSet"]).into_iter().map(truth::instance).collect();
        let ids: Vec<String> = made.into_iter().map(|instance| instance.id).collect();
        self.lag(call, &ids);
        let answer = Answer::xml(source.clone());
        self.remember(call, "ClientToken", ids, &answer);
        Ok(answer)
    }

    /// "Same token and parameters: no second effect, the first answer again", with the state of now.
    async fn launched_before(&self, first: &First) -> Result<Answer, Stop> {
        let ids: Vec<&str> = first.ids.iter().map(String::as_str).collect();
        let source = self.ask("DescribeInstances", &numbered("InstanceId", &ids)).await?;
        if truth::instances(&source).0.iter().any(|instance| !instance.lives()) {
            let message = "The instance that this client token made has been terminated";
            return Err(Refusal::rule("IdempotentInstanceTerminated", message).into());
        }
        let document = parse(&source);
        let reservation = find(document.root_element(), &["reservationSet", "item"]).unwrap();
        Ok(Answer::xml(format!(
            "<RunInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>again</requestId>{}\
             </RunInstancesResponse>",
            inner(&source, reservation)
        )))
    }

    /// An instant fleet: each of its overrides has room or is named in the errors, and machines come of the first one that has. What its
    /// launch template says of them was checked when the template was made.
    pub(super) async fn create_fleet(&self, call: &Call) -> Result<Answer, Stop> {
        if let Some(first) = self.first(call, "ClientToken")? {
            return Ok(first.answer);
        }
        let at = "LaunchTemplateConfigs.1.Overrides";
        let mut params = call.params.clone();
        let mut errors = String::new();
        for entry in call.params.entries(at) {
            let wanted = self.wanted(&call.params, &format!("{entry}."));
            self.check_type(&wanted.instance_type)?;
            if let Err(Stop::Refused(refusal)) = self.check_room(&call.action, &wanted) {
                let subnet = call.params.get(&format!("{entry}.SubnetId")).unwrap_or_default();
                errors.push_str(&refusal.as_fleet_error(&wanted.instance_type, subnet));
                params.0.retain(|name, _| !name.starts_with(&format!("{entry}.")));
            }
        }
        let answer = match params.entries(at).first() {
            None => format!(
                "<CreateFleetResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>1</requestId>\
                 <fleetId>fleet-0</fleetId><errorSet>{errors}</errorSet></CreateFleetResponse>"
            ),
            // moto takes the first of a list that counts from 1.
            Some(first) => {
                let kept: Vec<(String, String)> = params
                    .0
                    .iter()
                    .filter(|(name, _)| name.starts_with(&format!("{first}.")))
                    .map(|(n, v)| (n.clone(), v.clone()))
                    .collect();
                params.0.retain(|name, _| !name.starts_with(&format!("{at}.")));
                params.0.extend(kept.into_iter().map(|(name, value)| (name.replacen(first, &format!("{at}.1"), 1), value)));
                let made = self.ask(&call.action, &params).await?;
                made.replace("</CreateFleetResponse>", &format!("<errorSet>{errors}</errorSet></CreateFleetResponse>"))
            }
        };
        let document = parse(&answer);
        let sets = items(document.root_element(), &["fleetInstanceSet"]).into_iter();
        let ids: Vec<String> =
            sets.flat_map(|set| items(set, &["instanceIds"])).map(|id| id.text().unwrap_or_default().to_owned()).collect();
        self.lag(call, &ids);
        let answer = Answer::xml(answer.clone());
        self.remember(call, "ClientToken", ids, &answer);
        Ok(answer)
    }

    /// Faults of room and quota.
    pub(super) fn check_room(&self, action: &str, wanted: &Wanted) -> Result<(), Stop> {
        let refusal = |kind: &Kind| if let Kind::NoEffect(refusal) = kind { Some(refusal.clone()) } else { None };
        self.faults.strike(action, Some(wanted), refusal).map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    fn check_type(&self, name: &str) -> Result<(), Stop> {
        if self.rules.types.contains(&name) {
            return Ok(());
        }
        Err(Refusal::rule("InvalidParameterValue", &format!("Invalid value '{name}' for InstanceType.")).into())
    }

    fn wanted(&self, params: &Params, at: &str) -> Wanted {
        let get = |name: &str| params.get(&format!("{at}{name}")).unwrap_or_default();
        let subnet = [get("SubnetId"), get("NetworkInterface.1.SubnetId")].into_iter().find(|id| !id.is_empty());
        let zone = subnet.and_then(|id| self.zones.get(id)).map_or(get("Placement.AvailabilityZone"), String::as_str);
        let spot = params.get("InstanceMarketOptions.MarketType") == Some("spot")
            || params.get("TargetCapacitySpecification.DefaultTargetCapacityType") == Some("spot");
        Wanted { instance_type: get("InstanceType").to_owned(), zone: zone.to_owned(), spot }
    }

    /// Sets when what a call has made is known, listed and running.
    pub(super) fn lag(&self, call: &Call, ids: &[String]) {
        let unknown = |kind: &Kind| if let Kind::Unknown(time) = kind { Some(*time) } else { None };
        let unlisted = |kind: &Kind| if let Kind::Unlisted(time) = kind { Some(*time) } else { None };
        let known = self.faults.strike(&call.action, None, unknown).unwrap_or_default();
        let listed = self.faults.strike(&call.action, None, unlisted).unwrap_or_default();
        let (now, mut state) = (self.clock.now(), self.state.lock().unwrap());
        for id in ids {
            state.known_at.insert(id.clone(), now + known);
            state.listed_at.insert(id.clone(), now + listed);
            state.runs_at.insert(id.clone(), now + self.rules.runs_after);
        }
    }
}
