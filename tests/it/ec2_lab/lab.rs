//! The service as an operator runs it on EC2: `migrate`, a token, then `serve`, `scaler` and `gc` as processes over a Postgres, and
//! settings saved over the API; only the address of the EC2 API is another.
//!
//! Everything ends with this value, also after a failed test: roles, VMs, Postgres, moto, and the folder.

use super::vms::Vms;
use crate::ec2_wire::backing::Stands;
use crate::ec2_wire::proxy::Cloud;
use crate::ec2_wire::rules::Rules;
use crate::kills::postgres::Postgres;
use crate::service::{BINARY, data_folder, free_port};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;
use vm_service::domain::api::{Connection, Page, VmView};
use vm_service::domain::ids::InstallationId;
use vm_service::domain::lifecycle::VmState;
use vm_service::domain::secret::Secret;
use vm_service::domain::settings::Settings;
use vm_service::provider::Provider as _;
use vm_service::provider::ec2::Ec2;
use vm_service::seal::Sealer;
use vm_service::ssh::{Session, Target};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

/// A service on EC2, and all that is under it.
pub(super) struct Lab {
    pub(super) cloud: Cloud,
    pub(super) vms: Arc<Vms>,
    roles: Vec<(&'static str, Child)>,
    environment: Vec<(&'static str, String)>,
    installation: InstallationId,
    token: String,
    port: u16,
    http: reqwest::Client,
    _postgres: Postgres,
    folder: Folder,
}

/// A folder that everybody can enter, gone when dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

impl Lab {
    /// Starts everything; the settings are in force within a second.
    pub(super) async fn start(name: &str) -> Self {
        let folder = Folder(data_folder(name));
        std::fs::create_dir_all(folder.0.join("postgres")).unwrap();
        let vms = Arc::new(Vms::open(&folder.0.join("host")).await);
        let cloud = Cloud::over(vms.clone(), Rules { budgets: true, ..Rules::default() }).await;
        let postgres = Postgres::start(&folder.0.join("postgres"));
        let installation = InstallationId(Uuid::new_v4());
        let environment = vec![
            ("PATH", "/usr/bin:/bin".to_owned()),
            ("POSTGRES_HOST", folder.0.join("postgres").display().to_string()),
            ("POSTGRES_USER", "postgres".to_owned()),
            ("POSTGRES_PASSWORD", "trusted".to_owned()),
            ("POSTGRES_SSLMODE", "disable".to_owned()),
            ("VM_SERVICE_SEALING_KEYS", Sealer::fresh_key().unwrap().to_string()),
            ("VM_SERVICE_INSTALLATION", installation.to_string()),
            // From the beginning: a VM that a killed test leaves behind ends itself the sooner.
            ("VM_SERVICE_SETTINGS", r#"{"timeouts": {"task_hours": 1, "vm_idle_hours": 1}}"#.to_owned()),
        ];
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let (roles, token, port) = (Vec::new(), String::new(), free_port());
        let mut lab = Self { cloud, vms, roles, environment, installation, token, port, http, _postgres: postgres, folder };
        lab.finished(&["migrate"]);
        lab.token = lab.finished(&["tokens", "create", "lab", "--role", "operator"]).trim().to_owned();
        lab.begin("serve", &["--listen", &format!("127.0.0.1:{port}")]);
        lab.begin("scaler", &[]);
        lab.begin("gc", &[]);
        lab.save_settings().await;
        lab
    }

    /// A role or a command of the service, in its own environment and no other.
    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("--config").arg(self.folder.0.join("no-files")).args(arguments).env_clear();
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }

    fn finished(&self, arguments: &[&str]) -> String {
        let output = self.program(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn begin(&mut self, role: &'static str, arguments: &[&str]) {
        let log = File::create(self.log_file(role)).unwrap();
        let mut command = self.program(&[&[role], arguments].concat());
        let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.roles.push((role, process));
    }

    fn log_file(&self, role: &str) -> PathBuf {
        self.folder.0.join(role).with_extension("log")
    }

    /// What the roles have said, without the looks of those who wait.
    pub(super) fn log(&self) -> String {
        let said = |role: &&str| std::fs::read_to_string(self.log_file(role)).unwrap_or_default();
        let all: String = ["serve", "scaler", "gc"].iter().map(said).collect();
        all.lines().filter(|line| !line.contains("answered method=GET")).map(|line| format!("{line}\n")).collect()
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn get(&self, path: &str) -> reqwest::Result<reqwest::Response> {
        self.http.get(self.url(path)).bearer_auth(&self.token).send().await?.error_for_status()
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> T {
        self.get(path).await.unwrap().json().await.unwrap()
    }

    /// EC2 as the settings name it.
    fn ec2_settings(&self) -> serde_json::Value {
        let subnets: Vec<String> = self.cloud.subnets().into_iter().map(|subnet| subnet.id).collect();
        serde_json::json!({
            "region": self.cloud.region(),
            "subnets": subnets,
            "security_group": self.cloud.security_group(),
            "images": { self.cloud.region(): self.cloud.image() },
            "endpoint": self.cloud.endpoint(),
            "authentication": { "access_key": { "id": "AKIAIOSFODNN7EXAMPLE", "secret": SECRET } },
        })
    }

    async fn save_settings(&self) {
        let now = wait_for("the API", self, async || self.get("/api/v1/settings").await.ok()).await;
        let etag = now.headers()["etag"].clone();
        let mut settings: serde_json::Value = now.json().await.unwrap();
        settings["provider"] = "ec2".into();
        settings["ec2"] = self.ec2_settings();
        let call = self.http.put(self.url("/api/v1/settings")).bearer_auth(&self.token).header("if-match", etag);
        let saved = call.json(&settings).send().await.unwrap();
        assert!(saved.status().is_success(), "{}", saved.text().await.unwrap());
    }

    /// The provider of this service, for what its roles do not do yet.
    pub(super) fn ec2(&self) -> Ec2 {
        let settings = Settings { ec2: serde_json::from_value(self.ec2_settings()).unwrap(), ..Settings::default() };
        let ec2 = Ec2::new(self.installation, self.cloud.region(), vm_service::domain::outbound::Outbound::default());
        ec2.configure(&settings, Some(&Secret::new(SECRET)));
        ec2
    }

    pub(super) fn installation(&self) -> InstallationId {
        self.installation
    }

    /// A client command, as users run it.
    pub(super) fn client(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(BINARY);
        command.args(arguments).env("VM_SERVICE_URL", self.url("")).env("VM_SERVICE_TOKEN", &self.token);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Every VM of which there is a row.
    pub(super) async fn rows(&self) -> Vec<VmView> {
        self.read::<Page<VmView>>("/api/v1/vms").await.items
    }

    /// A login in a VM, as an operator has it.
    pub(super) async fn guest(&self, vm: &VmView) -> Session {
        let Connection { ssh, .. } = self.read(&format!("/api/v1/vms/{}/connection", vm.id)).await;
        let addr = SocketAddr::new(ssh.host.parse().unwrap(), ssh.port);
        let target = Target { addr, user: ssh.user, host_key: ssh.host_key, login: Secret::new(ssh.private_key) };
        Session::connect(&target, deadline()).await.unwrap()
    }

    /// Waits until nothing is left: no machine and no volume in the cloud's books, none on the host, and no row that says otherwise.
    pub(super) async fn holds_nothing(&self) {
        wait_for("nothing is left", self, async || {
            let instances = self.cloud.instances().await;
            let is_clean = !instances.iter().any(|instance| instance.lives())
                && self.cloud.volumes().await.is_empty()
                && self.vms.left().is_empty()
                && self.rows().await.iter().all(|vm| vm.state == VmState::Terminated);
            is_clean.then_some(())
        })
        .await;
        assert_eq!(self.cloud.violations(), Vec::<String>::new());
    }

    /// What is there, for the message of a failed test.
    async fn state(&self) -> String {
        let mut instances = Vec::new();
        for instance in self.cloud.instances().await.into_iter().filter(|instance| instance.lives()) {
            use crate::ec2_wire::backing::Backing as _;
            let stands: Stands = self.vms.look(&instance.id).await;
            instances.push((instance.id, stands));
        }
        let volumes = self.cloud.volumes().await;
        let rows = self.get("/api/v1/vms").await;
        let rows = match rows {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        format!("in the books {instances:?} {volumes:?}; on the host {:?}; rows {rows}\n{}", self.vms.left(), self.log())
    }

    /// Stops the roles as systemd does; each ends by itself and well, and has told no secret.
    pub(super) fn stop(mut self) {
        for (role, mut process) in std::mem::take(&mut self.roles) {
            kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
            assert!(process.wait().unwrap().success(), "{role}:\n{}", self.log());
        }
        let log = self.log();
        assert!(log.contains("personalised") && !log.contains(" ERROR "), "{log}");
        assert!(!log.contains(SECRET) && !log.contains("PRIVATE KEY") && !log.contains(&self.token), "a secret is in the log");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (_, process) in &mut self.roles {
            process.kill().ok();
            process.wait().ok();
        }
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.vms.end_all()));
    }
}

/// For one step inside a guest.
pub(super) fn deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(60)
}

/// Looks again until there is something.
pub(super) async fn wait_for<T>(what: &str, lab: &Lab, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        if began.elapsed() > Duration::from_secs(240) {
            panic!("not within 240 s: {what}\n{}", lab.state().await);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What a command wrote, and its exit code.
pub(super) fn ended(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Makes the file that a job waits for.
pub(super) fn touch(path: &Path) {
    drop(File::create(path).unwrap());
}
