//! A Postgres of the test's own, because it is killed and stopped while the service works on it.
//!
//! What was committed survives every end of its processes (`synchronous_commit` is on); only the machine's own power is trusted
//! (`fsync` is off). It runs as a child, so that it ends with the test, whatever ends that.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vm_service::db::connect::Server;
use vm_service::domain::secret::Secret;

const PORT: u16 = 5432;

pub(crate) struct Postgres {
    pub(super) folder: PathBuf,
    child: Child,
}

/// How a server is reached whose socket is in this folder.
pub(super) fn server(folder: &Path) -> Server {
    Server::Socket { folder: folder.to_owned(), port: PORT, user: "postgres".to_owned(), password: Secret::new("") }
}

/// The newest installed version's programs.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap().flatten();
    let number = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok());
    versions.map(|entry| entry.path()).max_by_key(number).unwrap().join("bin")
}

/// One of its programs, as its user: it refuses to run as root.
fn program(name: &str, folder: &Path) -> Command {
    let path = programs().join(name);
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    command.current_dir(folder).stdin(Stdio::null());
    command
}

impl Postgres {
    /// Makes one in `folder`, which must be empty.
    pub(crate) fn start(folder: &Path) -> Self {
        if rustix::process::geteuid().is_root() {
            assert!(Command::new("chown").arg("postgres").arg(folder).status().unwrap().success());
        }
        let made = program("initdb", folder).args(["-D", "data", "-A", "trust", "-U", "postgres", "--no-sync"]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut postgres = Self { folder: folder.to_owned(), child: spawn(folder) };
        postgres.wait();
        postgres
    }

    /// Starts it again after an end.
    pub(super) fn start_again(&mut self) {
        self.child = spawn(&self.folder);
        self.wait();
    }

    /// Ends it: `QUIT` as by a crash, without a word to its clients; `INT` in order, at once.
    pub(super) fn end(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap();
    }

    /// Until it takes connections.
    fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let ready = || program("pg_isready", &self.folder).arg("-q").arg("-h").arg(&self.folder).status().unwrap().success();
        while !ready() {
            assert!(Instant::now() < deadline, "{}", std::fs::read_to_string(self.folder.join("log")).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn spawn(folder: &Path) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let socket = format!("unix_socket_directories={}", folder.display());
    let settings = [&socket, "listen_addresses=", "fsync=off", "synchronous_commit=on", "max_connections=120"];
    let mut command = program("postgres", folder);
    command.args(["-D", "data", "-p", &PORT.to_string()]);
    for setting in settings {
        command.args(["-c", setting]);
    }
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end(Signal::QUIT);
        }
    }
}
