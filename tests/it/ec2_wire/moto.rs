//! moto runs while this value lives and no longer: it is ended with it, and by the kernel where the test is killed.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What `.ci/setup --test` installs; the name says the version.
const FOLDER: &str = "vm-service/moto-5.2.5";
/// It starts in 1 to 3 s; this is for a machine that is busy.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// The owner of Ubuntu's images.
const CANONICAL: &str = "099720109477";
/// The account of everybody who asks moto.
const OURS: &str = "123456789012";
/// An image of our own, with the root device `/dev/sda1`.
pub(super) const OWN_IMAGE: &str = "ami-0a11ce00000000001";
/// The newer of Canonical's.
pub(super) const CANONICAL_IMAGE: &str = "ami-0c10000000000002b";

/// A moto server of this test alone.
pub(super) struct Moto {
    child: Child,
    pub(super) url: String,
    _images: tempfile::NamedTempFile,
}

/// The virtual environment of moto and botocore.
#[allow(clippy::disallowed_methods, reason = "where the test set-up put its tools is no configuration of the service")]
pub(super) fn folder() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map_or_else(home, PathBuf::from);
    let folder = cache.join(FOLDER);
    assert!(folder.join("complete").exists(), "{} is missing: run .ci/setup --test", folder.display());
    folder
}

impl Moto {
    /// Starts it on a free port of the loopback and waits until it answers.
    pub(super) async fn start(http: &reqwest::Client) -> Self {
        let images = tempfile::NamedTempFile::with_prefix("vm-service-images-").unwrap();
        std::fs::write(images.path(), all_images()).unwrap();
        // Another process may take the port between the two lines: then moto ends at once, and another port is tried.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut child = command(port, images.path()).spawn().unwrap();
            let url = format!("http://127.0.0.1:{port}");
            if answers(http, &url, &mut child).await {
                return Self { child, url, _images: images };
            }
        }
        panic!("moto does not start");
    }

    /// Its number among the processes.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `setpriv` has the kernel end moto when the thread that started it is gone.
fn command(port: u16, images: &std::path::Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(folder().join("bin/python"));
    command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
    command.env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false").env("MOTO_AMIS_PATH", images);
    command.env("MOTO_ENABLE_AMI_VALIDATION", "true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

async fn answers(http: &reqwest::Client, url: &str, child: &mut Child) -> bool {
    let began = Instant::now();
    while began.elapsed() < STARTS_WITHIN {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if http.get(format!("{url}/moto-api/data.json")).send().await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    child.kill().ok();
    child.wait().ok();
    false
}

/// The images that there are: moto's own `RegisterImage` forgets the architecture.
fn all_images() -> String {
    let image = |id: &str, owner: &str, name: &str, date: &str| {
        serde_json::json!({
            "ami_id": id,
            "name": name,
            "description": name,
            "owner_id": owner,
            "public": owner != OURS,
            "architecture": "x86_64",
            "virtualization_type": "hvm",
            "hypervisor": "xen",
            "root_device_type": "ebs",
            "root_device_name": "/dev/sda1",
            "state": "available",
            "creation_date": format!("{date}T00:00:00.000Z"),
        })
    };
    let ubuntu = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server";
    let older = image("ami-0c10000000000001a", CANONICAL, &format!("{ubuntu}-20250115"), "2025-01-15");
    let newer = image(CANONICAL_IMAGE, CANONICAL, &format!("{ubuntu}-20260301"), "2026-03-01");
    serde_json::json!([image(OWN_IMAGE, OURS, "vm-service-guest", "2026-06-01"), older, newer]).to_string()
}
