//! The layer cache with real VMs, through the real binary: what it saves, what it keeps apart, and what it outlives. Long runs.
//!
//! Every job is a VM of its own. Figures are printed as `figure NAME VALUE UNIT`. Not here: the rules without VMs (`cache_scenes`).

use crate::service::{Service, text};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

mod apart;
mod both_stores;
mod damaged;
mod full;
mod killed;
mod parallel;
mod remote;

/// What each script here begins with. `layer NAME MIB [FROM]` builds an image whose layer holds files with random bytes and their sums,
/// and prints how many steps were cached; `whole NAME` reads all of an image's files, and fails unless they are as they were written.
const TOOLS: &str = r#"set -e
layer() {
    rm -rf ~/context && mkdir -p ~/context && cd ~/context && cp "$(command -v busybox)" .
    if [ -n "${3:-}" ]; then echo "FROM $3" >Dockerfile; else printf 'FROM scratch\nCOPY busybox /bin/busybox\n' >Dockerfile; fi
    printf 'RUN ["/bin/busybox", "sh", "-c", "b=/bin/busybox; $b mkdir -p /%s; cd /%s; for n in 1 2 3 4; do $b head -c %s /dev/urandom >$n; done; $b md5sum /%s/* >/%s.sum"]\n' \
        "$1" "$1" "$(($2 * 262144))" "$1" "$1" >>Dockerfile
    DOCKER_BUILDKIT=1 sudo -E docker build --progress=plain -t "$1" . >build.log 2>&1 || { cat build.log >&2; return 1; }
    echo "$1 cached $(grep -c CACHED build.log || true)"
}
whole() {
    sudo docker run --rm "$1" /bin/busybox sh -c 'for s in /*.sum; do /bin/busybox md5sum -c $s >/said || { /bin/busybox cat /said; exit 1; }; done'
}
folder=/var/lib/vm-service/cache
disk() { findmnt -no SOURCE $folder; }
"#;

/// A service with small VMs and volumes of so many GiB.
fn start(name: &str, volume_gib: u32) -> Service {
    start_on(name, volume_gib, None)
}

fn start_on(name: &str, volume_gib: u32, images: Option<&Path>) -> Service {
    let service = Service::start_on(name, images);
    service.set(|settings| {
        // The second VM and all after it are there in seconds.
        settings["on_host"]["snapshots"] = true.into();
        settings["resource_classes"]["medium"]["memory_mib"] = 2048.into();
        settings["limits"]["vms"] = 6.into();
        settings["limits"]["in_flight"] = 6.into();
        settings["limits"]["volumes"] = 12.into();
        settings["cache"]["volume_gib"] = volume_gib.into();
        settings["cache"]["wait_seconds"] = 300.into();
        // The machine may have much else to do.
        settings["timeouts"]["ssh_connect_ms"] = 600_000.into();
        settings["timeouts"]["vm_start_ms"] = 900_000.into();
    });
    service
}

/// One VM that waits.
fn start_warm(name: &str, volume_gib: u32) -> Service {
    let service = start(name, volume_gib);
    service.set(|settings| settings["preallocated"]["machine"] = 1.into());
    service
}

/// A cached job of a project, with [`TOOLS`].
fn job(service: &Service, project: &str, options: &[&str], script: &str) -> Child {
    let mut command = service.command(&["run", "--quiet", "--docker-layer-caching", "--project", project]);
    command.args(options).args(["--", "sh", "-c", &format!("{TOOLS}{script}")]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What a job said that ended well.
#[track_caller]
fn said(service: &Service, job: Child) -> String {
    let output = job.wait_with_output().unwrap();
    let (out, err) = text(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}\n{}\n{}", timelines(service), service.log());
    out
}

/// Runs a job to its end, and waits until its volume rests.
#[track_caller]
fn run(service: &Service, project: &str, options: &[&str], script: &str) -> String {
    let began = Instant::now();
    let out = said(service, job(service, project, options, script));
    println!("job of {project} {options:?}, {:.0} s: {}", began.elapsed().as_secs_f64(), out.replace('\n', "; "));
    at_rest(service);
    out
}

/// Waits until no volume is at work, on its way or about to be deleted; what is in quarantine rests too.
#[track_caller]
fn at_rest(service: &Service) {
    wait(service, "the volumes rest", |service| {
        volumes(service).iter().all(|it| it["state"] == "available" || it["state"] == "quarantined")
    });
}

/// All volumes that are there.
fn volumes(service: &Service) -> Vec<serde_json::Value> {
    let all = service.json(&["volumes"]).as_array().unwrap().clone();
    all.into_iter().filter(|it| it["state"] != "deleted").collect()
}

#[track_caller]
fn wait(service: &Service, what: &str, there: impl Fn(&Service) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !there(service) {
        assert!(Instant::now() < deadline, "not within 300 s: {what}: {:?}\n{}", volumes(service), service.log());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What the newest task of a project says of its cache.
fn cache_of_newest(service: &Service, project: &str) -> (bool, String) {
    let cache = &service.json(&["tasks", "list", "--project", project])[0]["cache"];
    (cache["hit"] == true, cache["reason"].as_str().unwrap_or_default().to_owned())
}

/// The sentences of the newest task's timeline, one a line.
fn timeline_of_newest(service: &Service, project: &str) -> String {
    let id = service.json(&["tasks", "list", "--project", project])[0]["id"].as_str().unwrap().to_owned();
    text(&service.command(&["tasks", "timeline", &id]).output().unwrap()).0
}

/// Every task's timeline.
fn timelines(service: &Service) -> String {
    let ids: Vec<String> =
        service.json(&["tasks", "list"]).as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
    ids.iter().map(|id| text(&service.command(&["tasks", "timeline", id]).output().unwrap()).0).collect::<Vec<_>>().join("\n")
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

#[allow(clippy::disallowed_methods, reason = "long runs are told how long, as those of kills are")]
fn number_from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |number| number.parse().unwrap())
}
