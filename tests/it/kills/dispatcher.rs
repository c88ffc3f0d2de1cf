//! A dispatcher under trouble: asks any replica, asks again under the same id until it is answered, and looks closely at what it gets.

use super::checks::Seen;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use uuid::Uuid;
use vm_service::domain::api::TaskView;
use vm_service::domain::identity::Bootstrap;
use vm_service::domain::lifecycle::TaskState;
use vm_service::provider::MachineState;
use vm_service::sim::Sim;

/// One try: longer than a long poll of [`POLL`] seconds.
const TRY: Duration = Duration::from_secs(5);
const POLL: u32 = 3;
/// A replica that did not answer is not asked for a while, as behind a load balancer.
const AVOID: Duration = Duration::from_secs(6);
/// Without any answer, or without a VM, for this long: it is lost. Far more than any trouble here lasts.
const PATIENCE: Duration = Duration::from_secs(90);

/// What all dispatchers share.
pub(super) struct Shared {
    pub(super) http: reqwest::Client,
    pub(super) replicas: Vec<SocketAddr>,
    pub(super) token: String,
    pub(super) cloud: Sim,
    /// No new task once set.
    pub(super) enough: AtomicBool,
    /// Tries that came to nothing.
    pub(super) failed_tries: AtomicU32,
}

pub(super) struct Dispatcher {
    shared: Arc<Shared>,
    rng: StdRng,
    /// Who did not answer, and when.
    silent: BTreeMap<SocketAddr, Instant>,
}

impl Dispatcher {
    pub(super) fn new(shared: Arc<Shared>, seed: u64) -> Self {
        Self { shared, rng: StdRng::seed_from_u64(seed), silent: BTreeMap::new() }
    }

    /// One task after the other until it is enough.
    pub(super) async fn run(mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        while !self.shared.enough.load(Ordering::Relaxed) {
            let mut seen = Seen { task: Uuid::new_v4(), ..Seen::default() };
            if let Err(wrong) = self.serve(&mut seen).await {
                seen.wrong.push(wrong);
            }
            all.push(seen);
            self.pause(0..300).await;
        }
        all
    }

    async fn pause(&mut self, ms: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.rng.random_range(ms))).await;
    }

    /// Any that is not known to be silent; any when all are.
    fn choose(&mut self) -> SocketAddr {
        self.silent.retain(|_, since| since.elapsed() < AVOID);
        let all = &self.shared.replicas;
        let answering = all.iter().filter(|replica| !self.silent.contains_key(replica)).choose(&mut self.rng);
        *answering.or_else(|| all.choose(&mut self.rng)).unwrap()
    }

    /// Asks until somebody answers; a 4xx is an answer.
    async fn ask(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<(u16, String), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let replica = self.choose();
            let url = format!("http://{replica}{path}");
            let mut request = self.shared.http.request(method.clone(), url).bearer_auth(&self.shared.token).timeout(TRY);
            if let Some(body) = body {
                request = request.json(body);
            }
            let tried = match request.send().await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    match response.text().await {
                        Ok(text) if status < 500 && status != 429 => return Ok((status, text)),
                        // The database is away, or this replica asks for patience.
                        Ok(_) if [503, 429].contains(&status) => String::new(),
                        Ok(text) => return Err(format!("{method} {path} was answered {status}: {text}")),
                        Err(error) => format!("{error:?}"),
                    }
                }
                Err(error) => {
                    self.silent.insert(replica, Instant::now());
                    format!("{error:?}")
                }
            };
            self.shared.failed_tries.fetch_add(1, Ordering::Relaxed);
            if Instant::now() > deadline {
                return Err(format!("{method} {path} was not answered for {PATIENCE:?}: {tried}"));
            }
            self.pause(50..250).await;
        }
    }

    async fn view(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<(u16, TaskView), String> {
        let (status, text) = self.ask(method.clone(), path, body).await?;
        let view = serde_json::from_str(&text).map_err(|error| format!("{method} {path}: {status} {error}: {text}"))?;
        Ok((status, view))
    }

    async fn serve(&mut self, seen: &mut Seen) -> Result<(), String> {
        let path = format!("/api/v1/tasks/{}", seen.task);
        let project = format!("project-{}", self.rng.random_range(0..4));
        let mut body = json!({"executor": "machine", "project_id": project});
        let key = self.rng.random_bool(0.5).then(|| Bootstrap::generate().unwrap().login_public);
        if let Some(key) = &key {
            body["ssh_public_keys"] = json!([key]);
        }
        self.view(Method::PUT, &path, Some(&body)).await?;
        seen.accepted = true;
        if self.rng.random_bool(0.3) {
            let (status, _) = self.view(Method::PUT, &path, Some(&body)).await?;
            if status != 200 {
                return Err(format!("the second PUT was answered {status}"));
            }
        }
        if self.rng.random_bool(0.1) {
            seen.cancelled = true;
            self.pause(0..1500).await;
            return self.let_go(&path, seen).await;
        }
        let ready = self.until_ready(&path).await?;
        seen.ready_at = Some(Instant::now());
        seen.machine = ready.vm.as_ref().and_then(|vm| vm.provider_id.clone());
        self.look_at_machine(&ready, key.as_deref())?;
        for _ in 0..self.rng.random_range(1..5) {
            self.pause(100..700).await;
            let (_, now) = self.view(Method::GET, &path, None).await?;
            if now != ready {
                return Err(format!(
                    "what was ready changed from {:?} {:?} to {:?} {:?}",
                    ready.state, ready.vm, now.state, now.vm
                ));
            }
            self.look_at_machine(&ready, key.as_deref())?;
        }
        self.let_go(&path, seen).await
    }

    async fn until_ready(&mut self, path: &str) -> Result<TaskView, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, view) = self.view(Method::GET, &format!("{path}?wait={POLL}"), None).await?;
            if view.state == TaskState::Ready {
                return Ok(view);
            }
            if view.state.is_terminal() {
                return Err(format!("it is {} instead of ready: {:?}", view.state, view.failure));
            }
            if Instant::now() > deadline {
                return Err(format!("it is still {} after {PATIENCE:?}", view.state));
            }
        }
    }

    /// The machine behind what was answered, as it is.
    fn look_at_machine(&self, ready: &TaskView, key: Option<&str>) -> Result<(), String> {
        let vm = ready.vm.as_ref().ok_or("it is ready without a VM")?;
        let ssh = &ready.connection.as_ref().ok_or("it is ready without a way in")?.ssh;
        let id = vm.provider_id.as_deref().ok_or("its VM has no machine")?;
        let live = self.shared.cloud.live();
        let machine = live.get(id).ok_or_else(|| format!("its machine {id} is gone"))?;
        if machine.state != MachineState::Running || machine.end.is_some() {
            return Err(format!("its machine {id} is {:?}, ended by {:?}", machine.state, machine.end));
        }
        if machine.personalised_as.as_ref() != Some(&ssh.host_key) || machine.keys.host != ssh.host_key {
            return Err(format!("its machine {id} has another host key than the answer"));
        }
        if machine.address.map(|ip| ip.to_string()).as_ref() != Some(&ssh.host) {
            return Err(format!("its machine {id} is at {:?} and not at {}", machine.address, ssh.host));
        }
        let own = &machine.keys.logins[1..];
        let wanted: Vec<String> = key.map(str::to_owned).into_iter().collect();
        if own != wanted { Err(format!("its machine {id} lets in {own:?} and not {wanted:?}")) } else { Ok(()) }
    }

    /// The job is over.
    async fn let_go(&mut self, path: &str, seen: &mut Seen) -> Result<(), String> {
        seen.let_go_at = Some(Instant::now());
        let (_, view) = self.view(Method::DELETE, path, None).await?;
        seen.ended = Some(view.state.to_string());
        if !view.state.is_terminal() || view.connection.is_some() {
            return Err(format!("after its release it is {} with {:?}", view.state, view.connection.map(|way| way.ssh.host)));
        }
        Ok(())
    }
}
