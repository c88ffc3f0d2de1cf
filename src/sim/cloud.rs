//! The simulated provider: one token makes machines once, tags come with the call, absence is only proved by a complete list.

use super::{Fault, GuestKeys, Sim, SimMachine, State};
use crate::domain::rate::LaunchRate;
use crate::domain::resource_class::ResourceClass;
use crate::domain::settings::{Budget, ProviderChoice, Settings};
use crate::provider::{
    Address, Finding, LaunchSpec, Listing, Machine, MachineState, Pace, Provider, ProviderError, ProviderVolume, VolumeListing,
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

#[async_trait]
impl Provider for Sim {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn choice(&self) -> ProviderChoice {
        ProviderChoice::OnHost
    }

    fn place(&self) -> &'static str {
        "sim"
    }

    fn max_batch(&self) -> u32 {
        1
    }

    fn launch_rate(&self) -> Option<LaunchRate> {
        None
    }

    fn pace(&self) -> Pace {
        Pace { list: Duration::from_secs(10), watch: Duration::from_millis(500), terminate: Duration::ZERO, settles: Duration::ZERO }
    }

    fn leaves_remains(&self) -> bool {
        true
    }

    fn image(&self, _class: &ResourceClass) -> Option<String> {
        None
    }

    fn capacity(&self) -> Budget {
        Budget { vms: 100, in_flight: 50, volumes: 200 }
    }

    fn configure(&self, _settings: &Settings) {}

    async fn launch(&self, spec: &LaunchSpec) -> Result<Vec<Machine>, ProviderError> {
        let (made, hangs) = self.make(spec)?;
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(made)
    }

    async fn list_machines(&self) -> Result<Listing, ProviderError> {
        let now = self.now();
        let mut state = self.lock();
        state.count("list_machines");
        if state.strikes(&Fault::IncompleteList) {
            return Ok(Listing { machines: Vec::new(), complete: false });
        }
        let ids: Vec<String> = state.machines.keys().cloned().collect();
        Ok(Listing { machines: ids.iter().filter_map(|id| show(&mut state, id, now)).collect(), complete: true })
    }

    async fn find_machine(&self, provider_id: &str) -> Result<Option<Machine>, ProviderError> {
        let now = self.now();
        let mut state = self.lock();
        state.count("find_machine");
        Ok(show(&mut state, provider_id, now))
    }

    async fn find_machines(&self, provider_ids: &[String]) -> Result<Vec<Machine>, ProviderError> {
        let now = self.now();
        let mut state = self.lock();
        state.count("find_machines");
        Ok(provider_ids.iter().filter_map(|id| show(&mut state, id, now)).collect())
    }

    async fn list_volumes(&self) -> Result<VolumeListing, ProviderError> {
        Ok(VolumeListing { volumes: Vec::new(), complete: true })
    }

    async fn find_volume(&self, _provider_id: &str) -> Result<Option<ProviderVolume>, ProviderError> {
        Ok(None)
    }

    async fn terminate(&self, provider_ids: &[String]) -> Result<(), ProviderError> {
        let mut state = self.lock();
        state.count("terminate");
        if state.strikes(&Fault::LoseTerminate) {
            return Err(ProviderError::transient("terminating", anyhow::anyhow!("the call was lost")));
        }
        for id in provider_ids {
            if let Some(machine) = state.machines.get_mut(id) {
                machine.state = MachineState::Terminated;
            }
        }
        Ok(())
    }

    async fn console(&self, _provider_id: &str) -> Result<String, ProviderError> {
        Ok("simulated console".to_owned())
    }

    async fn check(&self) -> Vec<Finding> {
        Vec::new()
    }
}

impl Sim {
    /// Does a launch; the flag says that the call must not return.
    fn make(&self, spec: &LaunchSpec) -> Result<(Vec<Machine>, bool), ProviderError> {
        let now = self.now();
        let mut state = self.lock();
        state.count("launch");
        if state.strikes(&Fault::NoCapacity) {
            return Err(ProviderError::NoCapacity("the simulated cloud is full".to_owned()));
        }
        let refusal =
            state.faults.iter().find_map(|fault| if let Fault::Refuse(reason) = fault { Some(reason.clone()) } else { None });
        if let Some(reason) = refusal {
            state.strikes(&Fault::Refuse(reason.clone()));
            return Err(ProviderError::Invalid(reason));
        }
        if !state.tokens.contains_key(&spec.client_token) {
            let ids: Vec<String> = (0..spec.count).map(|n| format!("sim-{}-{n}", spec.client_token)).collect();
            for id in &ids {
                let keys: GuestKeys = serde_json::from_str(&spec.user_data)
                    .map(|(host, login): (String, String)| GuestKeys { host, logins: vec![login] })
                    .map_err(|error| ProviderError::Invalid(error.to_string()))?;
                let runs_at = now + state.boot_takes;
                let machine = SimMachine { tags: spec.tags.clone(), state: MachineState::Pending, runs_at, keys };
                state.machines.insert(id.clone(), machine);
            }
            state.tokens.insert(spec.client_token.clone(), ids);
        }
        if state.strikes(&Fault::LoseLaunchAnswer) {
            return Err(ProviderError::transient("launching", anyhow::anyhow!("the answer was lost")));
        }
        let ids = state.tokens.get(&spec.client_token).cloned().unwrap_or_default();
        let hangs = state.strikes(&Fault::HangAfterLaunch);
        Ok((ids.iter().filter_map(|id| show(&mut state, id, now)).collect(), hangs))
    }
}

fn show(state: &mut State, id: &str, now: DateTime<Utc>) -> Option<Machine> {
    let at = state.machines.keys().position(|key| key == id)?;
    let machine = state.machines.get_mut(id)?;
    if machine.state == MachineState::Pending && machine.runs_at <= now {
        machine.state = MachineState::Running;
    }
    let running = machine.state == MachineState::Running;
    let ip = IpAddr::V4(Ipv4Addr::new(127, 64, 0, u8::try_from(at % 250 + 1).unwrap_or(1)));
    let address = running.then_some(Address { ip, ssh_port: 22, docker_port: 2376 });
    Some(Machine { provider_id: id.to_owned(), tags: machine.tags.clone(), state: machine.state, address })
}
