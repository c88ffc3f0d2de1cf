//! moto runs while this value lives and no longer: it is ended with it, and by the kernel where the test is killed.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What `.ci/setup --test` installs; the name says the version.
const FOLDER: &str = "vm-service/moto-5.2.5";
/// It starts in 1 to 3 s; this is for a machine that is very busy, and below the limit of a test.
const STARTS_WITHIN: Duration = Duration::from_secs(200);
/// The owner of Ubuntu's images.
const CANONICAL: &str = "099720109477";
/// The account of everybody who asks moto.
const OURS: &str = "123456789012";
/// An image of our own, with the root device `/dev/sda1`.
pub(super) const OWN_IMAGE: &str = "ami-0a11ce00000000001";
/// The newer of Canonical's.
pub(super) const CANONICAL_IMAGE: &str = "ami-0c10000000000002b";

/// A moto server of this test alone.
pub(crate) struct Moto {
    child: Child,
    pub(crate) url: String,
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
    /// Starts it on a free port of the loopback and waits until it answers. The port is taken here and handed over as it is: no other
    /// process can come between.
    pub(crate) async fn start(http: &reqwest::Client) -> Self {
        let images = tempfile::NamedTempFile::with_prefix("vm-service-images-").unwrap();
        std::fs::write(images.path(), all_images()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let child = command(port, listener, images.path()).spawn().unwrap();
        let moto = Self { child, url: format!("http://127.0.0.1:{port}"), _images: images };
        // It waits in the listener's queue; where moto has ended, nobody listens any more.
        let asked = http.get(format!("{}/moto-api/data.json", moto.url)).timeout(STARTS_WITHIN).send().await;
        asked.unwrap_or_else(|error| panic!("moto does not start: {error:?}"));
        moto
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

/// `setpriv` has the kernel end moto when the thread that started it is gone. Its server takes a socket that listens already, as its own
/// reloader hands one over (werkzeug, `serving.run_simple`).
fn command(port: u16, listener: TcpListener, images: &std::path::Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(folder().join("bin/python"));
    command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
    command.env("WERKZEUG_RUN_MAIN", "true").env("WERKZEUG_SERVER_FD", "0").stdin(OwnedFd::from(listener));
    command.env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false").env("MOTO_AMIS_PATH", images);
    command.env("MOTO_ENABLE_AMI_VALIDATION", "true");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
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
