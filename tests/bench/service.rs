//! The real binary, `vm-service up` with a closed network, and one task after the other on it, as a dispatcher sees them.
//!
//! `end` leaves nothing: VMs first, then the service, then whatever process still has its folder in the service's.

use crate::bare::Recipe;
use crate::spans::{LogLines, Seen, Spans};
use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use reqwest::{Method, RequestBuilder};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;
use vm_service::clock::{Clock as _, ServiceClock};
use vm_service::domain::api::{EventView, Page, TaskView};
use vm_service::domain::lifecycle::{TaskState, VmState};
use vm_service::domain::settings::{OnHostSettings, ProviderChoice, Settings, VmNetwork};

/// From start to an API, with a database made from nothing.
const UP: Duration = Duration::from_secs(60);
/// From a PUT to `ready`, some ten times what it takes with an emulated CPU; below the time after which the service itself gives a VM up.
const READY: Duration = Duration::from_secs(120);
/// What is shown of a console, bytes.
const CONSOLE_END: usize = 3000;
/// For a boot beside everything else, which comes before it.
const SNAPSHOT: Duration = Duration::from_secs(300);
/// From a release to the end of its machine.
const GONE: Duration = Duration::from_secs(30);

/// A running service.
pub(crate) struct Service {
    data: PathBuf,
    log: PathBuf,
    process: Child,
    url: String,
    token: String,
    http: reqwest::Client,
}

impl Service {
    /// `snapshots`: VMs go on from one, once it is there.
    pub(crate) async fn start(data: &Path, log: &Path, images: &Path, snapshots: bool) -> anyhow::Result<Self> {
        let mut settings = Settings { provider: ProviderChoice::OnHost, ..Settings::default() };
        settings.on_host = OnHostSettings { network: VmNetwork::Closed, snapshots, ..OnHostSettings::default() };
        let file = File::create(log)?;
        let process = Command::new(env!("CARGO_BIN_EXE_vm-service"))
            .args(["up", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .env("VM_SERVICE_SETTINGS", serde_json::to_string(&settings)?)
            .env("VM_SERVICE_IMAGES", images)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Out of reach of the terminal's signals: its end comes from here.
            .process_group(0)
            .spawn()
            .context("starting the service")?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(45)).no_proxy().build()?;
        let (url, token) = (String::new(), String::new());
        let mut service = Self { data: data.canonicalize()?, log: log.to_owned(), process, url, token, http };
        if let Err(error) = service.wait_for_up().await {
            service.tell_log();
            service.end().await;
            return Err(error);
        }
        Ok(service)
    }

    async fn wait_for_up(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + UP;
        loop {
            ensure!(self.process.try_wait()?.is_none(), "the service ended");
            ensure!(Instant::now() < deadline, "the service did not come up");
            let log = std::fs::read_to_string(&self.log)?;
            if let Some((_, after)) = log.split_once(" up api=") {
                after.split_whitespace().next().context("an address")?.clone_into(&mut self.url);
                std::fs::read_to_string(self.data.join("operator.token"))?.trim().clone_into(&mut self.token);
                if self.call(Method::GET, "/status").send().await.is_ok() {
                    return Ok(());
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    /// A task from its PUT to the end of its machine; how to boot the same machine without the service comes with it.
    pub(crate) async fn serve_one(&self) -> anyhow::Result<(Spans, Recipe)> {
        let task = format!("/api/v1/tasks/{}", Uuid::now_v7());
        let ask = self.call(Method::PUT, &task).json(&json!({"executor": "machine", "project_id": "bench"})).build()?;
        let deadline = Instant::now() + READY;
        let clock = ServiceClock::new();

        let put_sent = clock.now();
        let answer = self.http.execute(ask).await?.error_for_status()?;
        let put_answered = clock.now();
        let mut view: TaskView = answer.json().await?;
        let ready_seen = loop {
            if view.state == TaskState::Ready {
                break clock.now();
            }
            ensure!(!view.state.is_terminal() && Instant::now() < deadline, "the task is {}: {:?}", view.state, view.failure);
            view = self.call(Method::GET, &format!("{task}?wait=30")).send().await?.error_for_status()?.json().await?;
        };

        let vm = view.vm.as_ref().context("a ready task has a VM")?;
        let provider_id = vm.provider_id.clone().context("its machine has a name")?;
        let folder = self.machines().join(&provider_id);
        let recipe = Recipe::of_machine(&folder)?;
        let qemu_started = DateTime::<Utc>::from(std::fs::metadata(folder.join("started"))?.modified()?);
        let mut events = self.events(&format!("vm_id={}", vm.id)).await?;
        events.extend(self.events(&format!("task_id={}", view.id)).await?);
        self.call(Method::DELETE, &task).send().await?.error_for_status()?;
        self.wait_for_no_machines().await?;

        let ssh = &view.connection.as_ref().context("a ready task has its way in")?.ssh;
        let text = std::fs::read_to_string(&self.log)?;
        let log = LogLines { text: &text, ssh: format!("{}:{}", ssh.host, ssh.port), provider_id };
        let seen = Seen { put_sent, put_answered, ready_seen, qemu_started };
        Ok((Spans::of(&seen, &events, &log)?, recipe))
    }

    async fn events(&self, filter: &str) -> anyhow::Result<Vec<EventView>> {
        let path = format!("/api/v1/events?limit=200&{filter}");
        let page: Page<EventView> = self.call(Method::GET, &path).send().await?.error_for_status()?.json().await?;
        Ok(page.items)
    }

    fn machines(&self) -> PathBuf {
        self.data.join("onhost/machines")
    }

    /// Until VMs of the class that all tasks here have go on from a snapshot.
    pub(crate) async fn wait_for_snapshot(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + SNAPSHOT;
        while !std::fs::read_to_string(&self.log)?.contains("made a snapshot of a machine") {
            ensure!(Instant::now() < deadline, "no snapshot was made");
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn wait_for_no_machines(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + GONE;
        while std::fs::read_dir(self.machines())?.next().is_some() {
            ensure!(Instant::now() < deadline, "a machine does not end in {}", self.machines().display());
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The number of its process.
    pub(crate) fn process(&self) -> anyhow::Result<u32> {
        self.process.id().context("the service ended")
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The end of its log, for whoever looks why something failed.
    pub(crate) fn tell_log(&self) {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("the service's log ends with:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
    }

    /// What the machines that are there say and do, for whoever looks why one did not come up; then they are ended.
    pub(crate) async fn give_up_machines(&self) -> anyhow::Result<()> {
        for folder in std::fs::read_dir(self.machines())?.flatten().map(|entry| entry.path()) {
            let of = |name: &str| std::fs::read(folder.join(name)).unwrap_or_default();
            let (console, log) = (of("console"), of("qemu.log"));
            let console = &console[console.len().saturating_sub(CONSOLE_END)..];
            let (console, log) = (String::from_utf8_lossy(console), String::from_utf8_lossy(&log));
            eprintln!("{}\nconsole, its end: {console:?}\nQEMU's words: {log:?}", folder.display());
            for process in processes_in(&folder) {
                for thread in std::fs::read_dir(format!("/proc/{process}/task"))?.flatten() {
                    eprint!("thread: {}", std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
                }
            }
        }
        self.end_machines().await
    }

    /// Leaves nothing that runs.
    pub(crate) async fn end(&mut self) {
        if let Err(error) = self.end_well().await {
            eprintln!("the service did not end well: {error:#}");
        }
        drop(self.process.kill().await);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let left = processes_in(&self.data);
            for process in left.iter().filter_map(|process| Pid::from_raw(i32::try_from(*process).ok()?)) {
                kill_process(process, Signal::KILL).ok();
            }
            if left.is_empty() || Instant::now() > deadline {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Tasks first: one whose VM is gone is given another.
    async fn end_machines(&self) -> anyhow::Result<()> {
        let tasks = self.call(Method::GET, "/api/v1/tasks?limit=200").send().await?.error_for_status()?;
        let tasks: Page<TaskView> = tasks.json().await?;
        for task in tasks.items.iter().filter(|task| !task.state.is_terminal()) {
            self.call(Method::DELETE, &format!("/api/v1/tasks/{}", task.id)).send().await?.error_for_status()?;
        }
        for state in [VmState::Requested, VmState::Launching, VmState::Booting, VmState::Available, VmState::Assigned] {
            self.call(Method::POST, "/api/v1/vms/terminate").json(&json!({"state": state})).send().await?.error_for_status()?;
        }
        self.wait_for_no_machines().await
    }

    async fn end_well(&mut self) -> anyhow::Result<()> {
        let Some(id) = self.process.id() else { bail!("it had ended already") };
        if !self.url.is_empty() {
            self.end_machines().await?;
        }
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("a process")?;
        kill_process(pid, Signal::TERM)?;
        let status = timeout(Duration::from_secs(20), self.process.wait()).await.context("it does not stop")??;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

/// The processes whose working folder is in `folder`: machines, keepers, Postgres.
pub(crate) fn processes_in(folder: &Path) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    numbers.filter(|id| std::fs::read_link(format!("/proc/{id}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))).collect()
}
