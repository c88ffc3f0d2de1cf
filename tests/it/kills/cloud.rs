//! The cloud that survives its users: one simulated world in the test's process, on real time, behind a socket.
//!
//! A call takes a while on its way there and on its way back, and goes on when whoever made it is killed. It is *in flight* from its
//! arrival to its answer. What the checks need to know beyond the world's own truth is kept here: who asks for what at this moment,
//! and when each machine was asked to end.

use super::wire::{Answer, Ask, Call, Refusal};
use chrono::TimeDelta;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use uuid::Uuid;
use vm_service::clock::{Clock as _, HandClock, ServiceClock};
use vm_service::domain::settings::Budget;
use vm_service::guest::{Endpoint, Guest as _, Personality};
use vm_service::provider::{LaunchSpec, Machine, Pace, Provider as _, ProviderError};
use vm_service::sim::{FaultRates, Rules, Sim, Spread};

/// Between moves of the world's clock.
const CLOCK_STEP: Duration = Duration::from_millis(10);
/// A contact's deadline; nothing waits for it, because the world answers at once.
const DEADLINE: Duration = Duration::from_secs(5);

/// EC2's rules with everything that takes time some ten times faster, and without call budgets: takeover is measured, not throttling.
pub(super) fn rules() -> Rules {
    let between = |min, max| Spread::between(TimeDelta::milliseconds(min), TimeDelta::milliseconds(max));
    Rules {
        rates: BTreeMap::new(),
        max_batch: 3,
        pace: Pace {
            list: Duration::from_secs(4),
            watch: Duration::from_millis(500),
            watch_ends: Duration::from_millis(500),
            first_look: Duration::from_millis(500),
            terminate: Duration::from_millis(500),
            settles: Duration::from_secs(10),
            notices: None,
        },
        carries: Budget { vms: 60, in_flight: 30, volumes: 0 },
        runs_after: between(300, 1200),
        answers_after: between(100, 800),
        shuts_down_in: between(300, 1500),
        look_lag: between(0, 500),
        list_lag: between(0, 3000),
        ..Rules::default()
    }
}

/// What an act in flight is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Launch(Uuid),
    FirstContact(IpAddr),
    Keys(IpAddr),
}

/// An act on one row, in flight.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) from: String,
    pub(super) subject: Subject,
}

#[derive(Clone)]
pub(super) struct Cloud {
    pub(super) sim: Sim,
    clock: HandClock,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: StdRng,
    next: u64,
    flights: BTreeMap<u64, Flight>,
    asked_to_end: BTreeMap<String, Instant>,
}

impl Cloud {
    /// Starts to answer at `socket`, until the runtime ends.
    pub(super) fn start(socket: &Path, seed: u64) -> Self {
        let clock = HandClock::at(ServiceClock::new().now());
        let sim = Sim::strict(clock.clone(), rules(), FaultRates::none(), seed);
        sim.set_journal(false);
        let rng = StdRng::seed_from_u64(seed);
        let state = State { rng, next: 0, flights: BTreeMap::new(), asked_to_end: BTreeMap::new() };
        let cloud = Self { sim, clock, state: Arc::new(Mutex::new(state)) };
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(cloud.clone().move_clock());
        tokio::spawn(cloud.clone().listen(listener));
        cloud
    }

    /// Acts in flight, oldest first.
    pub(super) fn flights(&self) -> Vec<Flight> {
        self.state.lock().unwrap().flights.values().cloned().collect()
    }

    /// When each machine was first asked to end.
    pub(super) fn asked_to_end(&self) -> BTreeMap<String, Instant> {
        self.state.lock().unwrap().asked_to_end.clone()
    }

    async fn move_clock(self) {
        let real = ServiceClock::new();
        loop {
            self.clock.advance(real.now() - self.clock.now());
            tokio::time::sleep(CLOCK_STEP).await;
        }
    }

    async fn listen(self, listener: UnixListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let cloud = self.clone();
            tokio::spawn(async move {
                // Whoever is killed meanwhile does not hear the answer.
                drop(cloud.serve(stream).await);
            });
        }
    }

    async fn serve(&self, mut stream: UnixStream) -> anyhow::Result<()> {
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line).await?;
        let ask: Ask = serde_json::from_str(&line)?;
        let (number, there, back) = self.begin(&ask);
        tokio::time::sleep(there).await;
        let answer = self.answer(ask.call).await;
        tokio::time::sleep(back).await;
        self.state.lock().unwrap().flights.remove(&number);
        let mut line = serde_json::to_string(&answer)?;
        line.push('\n');
        Ok(stream.write_all(line.as_bytes()).await?)
    }

    fn begin(&self, ask: &Ask) -> (u64, Duration, Duration) {
        let (subject, most) = match &ask.call {
            Call::Launch { tags, .. } => (Some(Subject::Launch(tags.launch.0)), 400),
            Call::Personalise(first) => (Some(Subject::FirstContact(first.ssh.ip())), 400),
            Call::Authorise { ssh, .. } => (Some(Subject::Keys(ssh.ip())), 300),
            Call::Terminate { .. } => (None, 200),
            _ => (None, 20),
        };
        let mut state = self.state.lock().unwrap();
        state.next += 1;
        let number = state.next;
        if let Some(subject) = subject {
            state.flights.insert(number, Flight { from: ask.from.clone(), subject });
        }
        let mut draw = || Duration::from_millis(state.rng.random_range(most / 8..=most / 2));
        (number, draw(), draw())
    }

    async fn answer(&self, call: Call) -> Answer {
        let told = |answer: Result<Vec<Machine>, ProviderError>, complete| match answer {
            Ok(machines) => Answer::Machines { machines: machines.into_iter().map(Into::into).collect(), complete },
            Err(error) => Answer::Refused(error.into()),
        };
        let done = |answer: Result<(), Refusal>| answer.map_or_else(Answer::Refused, |()| Answer::Done);
        let sim = &self.sim;
        match call {
            Call::Launch { token, tags, class, count, user_data } => {
                let candidate = String::new();
                told(
                    sim.launch(&LaunchSpec { client_token: token, tags, class, count, user_data, candidate, image: None }).await,
                    true,
                )
            }
            Call::ListMachines => match sim.list_machines().await {
                Ok(listing) => told(Ok(listing.machines), listing.complete),
                Err(error) => told(Err(error), false),
            },
            Call::FindMachine { id } => told(sim.find_machine(&id).await.map(|machine| machine.into_iter().collect()), true),
            Call::FindMachines { ids } => told(sim.find_machines(&ids).await, true),
            Call::Terminate { ids } => {
                let now = Instant::now();
                for id in &ids {
                    self.state.lock().unwrap().asked_to_end.entry(id.clone()).or_insert(now);
                }
                done(sim.terminate(&ids).await.map_err(Into::into))
            }
            Call::Console { id } => match sim.console(&id).await {
                Ok(text) => Answer::Text(text),
                Err(error) => Answer::Refused(error.into()),
            },
            Call::Personalise(first) => {
                let at = Endpoint { ssh: first.ssh, docker: first.docker };
                let personality = Personality { settings: first.settings, gpus: 0, absolute_end_at: first.end_at, now: first.now };
                let met = sim.personalise(&at, first.bootstrap.as_ref(), &first.identity, &personality, DEADLINE).await;
                met.map_or_else(|error| Answer::Refused(error.into()), Answer::Engine)
            }
            Call::Authorise { ssh, identity, keys } => {
                done(sim.authorise(ssh, &identity, &keys, DEADLINE).await.map_err(Into::into))
            }
            Call::SetEnd { ssh, identity, end_at } => done(sim.set_end(ssh, &identity, end_at, DEADLINE).await.map_err(Into::into)),
        }
    }
}
