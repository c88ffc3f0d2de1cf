//! The real binary as a user runs it: `up` over a data folder of its own, and client commands against it.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use vm_service::domain::settings::{OnHostSettings, ProviderChoice, Settings, VmNetwork};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_vm-service");

/// A running service; ended, with all that it left, when it is dropped.
pub(crate) struct Service {
    pub(crate) data: PathBuf,
    port: u16,
    environment: Vec<(String, String)>,
    process: Child,
}

/// A folder that the service's user can reach, gone when dropped.
pub(crate) fn data_folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(format!("/var/tmp/vm-service-test-{}-{name}", std::process::id()));
    drop(std::fs::remove_dir_all(&folder));
    folder
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Service {
    pub(crate) fn start(name: &str) -> Self {
        Self::start_on(name, None)
    }

    /// With VMs from these images, or from those that the environment names.
    pub(crate) fn start_on(name: &str, images: Option<&Path>) -> Self {
        let images = images.map(|images| ("VM_SERVICE_IMAGES", images.to_str().unwrap()));
        Self::start_with(name, images.as_slice())
    }

    /// With these words in its environment.
    pub(crate) fn start_with(name: &str, environment: &[(&str, &str)]) -> Self {
        let (data, port) = (data_folder(name), free_port());
        let environment: Vec<_> = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let process = spawn(&data, port, &environment);
        let mut service = Self { data, port, environment, process };
        service.wait_for_up();
        service
    }

    fn wait_for_up(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.command(&["tasks", "list"]).output().unwrap().status.code() != Some(0) {
            assert!(self.process.try_wait().unwrap().is_none(), "the service ended:\n{}", self.log());
            assert!(Instant::now() < deadline, "the service did not come up:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        // Scripts (`.ci/lib.sh`) and the benchmark read it.
        let line = format!(" up api=http://127.0.0.1:{} ", self.port);
        assert!(self.log().contains(&line), "the log has no line with \"{line}\":\n{}", self.log());
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(log_file(&self.data)).unwrap_or_default()
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.data.join("operator.token")).unwrap_or_default()
    }

    /// A client command against this service.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .env("VM_SERVICE_URL", format!("http://127.0.0.1:{}", self.port))
            .env("VM_SERVICE_TOKEN", self.token())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.command(arguments).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Changes the live settings.
    pub(crate) fn set(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let url = format!("http://127.0.0.1:{}/api/v1/settings", self.port);
        let token = self.token();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
            let client = reqwest::Client::new();
            let now = client.get(&url).bearer_auth(token.trim()).send().await.unwrap();
            let etag = now.headers()["etag"].clone();
            let mut settings: serde_json::Value = now.json().await.unwrap();
            change(&mut settings);
            let saved = client.put(&url).bearer_auth(token.trim()).header("if-match", etag).json(&settings).send().await.unwrap();
            assert!(saved.status().is_success(), "{}", saved.text().await.unwrap());
        });
    }

    /// The states of all VMs.
    pub(crate) fn vm_states(&self) -> Vec<String> {
        let list = self.json(&["vms", "list"]);
        list.as_array().unwrap().iter().map(|vm| vm["state"].as_str().unwrap().to_owned()).collect()
    }

    /// `kill -9`, as a crash: nothing of the service's own clean-up runs.
    pub(crate) fn crash(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, on the same data and port.
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(&self.data, self.port, &self.environment);
        self.wait_for_up();
    }

    /// Stops it as systemd does; true when it ended by itself and well.
    pub(crate) fn stop(&mut self) -> bool {
        assert!(Command::new("kill").arg(self.process.id().to_string()).status().unwrap().success());
        self.process.wait().unwrap().success()
    }

    /// What there is of this service's machines, whatever its rows say: their processes by name, and their folders.
    pub(crate) fn machines(&self) -> Vec<String> {
        let folder = self.data.join("onhost/machines");
        let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|process| process.path());
        let ours = processes.filter(|process| std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder)));
        let mut found: Vec<String> = ours.filter_map(|process| std::fs::read_to_string(process.join("comm")).ok()).collect();
        found.extend(std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|folder| folder.path().display().to_string()));
        found
    }

    /// After a failed test: what it left is ended too.
    fn end_all_vms(&self) {
        // One that waits for jobs would be replaced. The test has failed already, so this may fail too.
        let idle = || self.set(|settings| settings["preallocated"] = serde_json::json!({}));
        drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(idle)));
        let list = self.command(&["vms", "list", "--json"]).output().unwrap().stdout;
        let vms: Vec<serde_json::Value> = serde_json::from_slice(&list).unwrap_or_default();
        for vm in vms.iter().filter(|vm| vm["state"] != "terminated") {
            drop(self.command(&["vms", "terminate", vm["id"].as_str().unwrap_or_default()]).output());
        }
        // A volume is unmounted first, for up to two minutes.
        let deadline = Instant::now() + Duration::from_secs(150);
        while !vms.is_empty() && !self.machines().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until no machine is left, and says what is left if that does not happen.
    pub(crate) fn assert_nothing_left(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.machines().is_empty() || self.vm_states().iter().any(|state| state != "terminated") {
            assert!(Instant::now() < deadline, "left: {:?} {:?}\n{}", self.machines(), self.vm_states(), self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            self.end_all_vms();
        }
        drop(Command::new("kill").arg(self.process.id().to_string()).status());
        let deadline = Instant::now() + Duration::from_secs(20);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(self.process.kill());
        drop(self.process.wait());
        drop(std::fs::remove_dir_all(&self.data));
        drop(std::fs::remove_file(log_file(&self.data)));
    }
}

fn log_file(data: &Path) -> PathBuf {
    data.with_extension("log")
}

fn spawn(data: &Path, port: u16, environment: &[(String, String)]) -> Child {
    let log = File::options().create(true).append(true).open(log_file(data)).unwrap();
    // Each test boots the VMs that it asks for, and none beside them.
    let mut settings = Settings { provider: ProviderChoice::OnHost, ..Settings::default() };
    settings.on_host = OnHostSettings { network: VmNetwork::Closed, snapshots: false, ..OnHostSettings::default() };
    Command::new(BINARY)
        .args(["up", "--listen", &format!("127.0.0.1:{port}"), "--data"])
        .arg(data)
        .env("VM_SERVICE_SETTINGS", serde_json::to_string(&settings).unwrap())
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

pub(crate) fn text(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}
