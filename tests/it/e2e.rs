//! The whole service with real VMs, as its users meet it. Five boots, one of them for a snapshot.

use crate::service::{Service, text};
use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use vm_service::clock::{Clock as _, ServiceClock};

/// From the wish to a command's output, a Docker build over TLS, and nothing left of either. The first VM boots; the other two go on
/// from the snapshot of one that has, and have nothing of it and of each other.
#[test]
fn jobs_each_in_a_vm_of_its_own_booted_and_restored() {
    let mut service = Service::start("jobs");
    service.set(|settings| {
        settings["on_host"]["snapshots"] = true.into();
        settings["on_host"]["addresses"] = "127.200.0.0/16".into();
    });

    // The network is closed: not even the host's own end of it answers.
    let port = service.port();
    let job = &format!(
        "echo on stdout; echo on stderr >&2; id -un; sudo -n true && echo may sudo
        timeout 5 bash -c '</dev/tcp/10.0.2.2/{port}' 2>/dev/null && echo reached the API
        timeout 5 bash -c '</dev/tcp/10.0.2.2/22' 2>/dev/null && echo reached a VM
        exit 9"
    );
    let machine = service.command(&["run", "--quiet", "--project", "a", "--", "sh", "-c", job]).output().unwrap();
    let (out, err) = text(&machine);
    assert_eq!((machine.status.code(), out.as_str()), (Some(9), "on stdout\ncircleci\nmay sudo\n"), "{err}\n{}", service.log());
    assert_eq!(err, "on stderr\n");

    wait(&service, "a snapshot is made", |service| service.log().contains("made a snapshot of a machine"));
    let begin = |arguments: &[&str], folder: &Path| {
        let mut job = service.command(&["run", "--quiet"]);
        job.args(arguments).current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped());
        job.spawn().unwrap()
    };
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("hello.txt"), "hello").unwrap();
    std::fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY hello.txt /\n").unwrap();
    let build = "docker build -q -t built . && docker image ls -q built && echo $DOCKER_HOST && docker info -f '{{.Name}}'";
    let docker = begin(&["--executor", "remote_docker", "--project", "b", "--", "sh", "-c", build], context.path());
    let others = ["one", "two"].map(|name| (name, begin(&["--project", name, "--", "sh", "-c", WHO], context.path())));
    let docker = docker.wait_with_output().unwrap();
    let (out, err) = text(&docker);
    assert_eq!(docker.status.code(), Some(0), "{out}\n{err}\n{}", service.log());
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == 4 && lines[0].starts_with("sha256:") && lines[2].starts_with("tcp://127.200.0."), "{out}");
    let said = others.map(|(name, job)| {
        let (out, err) = text(&job.wait_with_output().unwrap());
        let lines: Vec<String> = out.lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 6, "{name}: {out}\n{err}\n{}", service.log());
        lines
    });
    assert_eq!(service.log().matches("restored=true").count(), 3, "{}", service.log());
    for (one, other) in said[0].iter().zip(&said[1]).take(4) {
        assert!(one.len() > 8 && one != other, "host name, machine id, host key and random numbers are its own: {said:?}");
    }
    let now = ServiceClock::new().now().timestamp();
    for lines in &said {
        assert!((now - lines[4].parse::<i64>().unwrap()).abs() < 120, "it knows the time: {lines:?}");
        assert_eq!(lines[5], "active", "its engine works");
    }
    // Whoever reads the snapshot learns nothing of a VM, and finds no key at all.
    let kept = service.data.join("onhost/snapshots-of-machines");
    let kept = std::fs::read_dir(kept).unwrap().flatten().map(|entry| entry.path()).find(|path| path.is_dir()).unwrap();
    let secrets = said.iter().flat_map(|lines| &lines[..3]).map(String::as_str).chain(["PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA"]);
    let secrets: Vec<&str> = secrets.collect();
    for file in ["memory", "state", "disk.qcow2"] {
        assert_eq!(found(&kept.join(file), &secrets), Vec::<&str>::new(), "in {file}");
    }
    assert_eq!(found(&kept.join("memory"), &["vm-service: waits for its identity"]).len(), 1, "the search finds what is there");

    service.assert_nothing_left();
    let tasks = service.json(&["tasks", "list"]);
    assert!(tasks.as_array().unwrap().iter().all(|task| task["state"] == "released"), "{tasks}");
    assert!(service.stop(), "{}", service.log());
    assert!(!service.data.join("postgres/data/postmaster.pid").exists(), "Postgres was stopped");
    let log = service.log();
    assert!(log.contains("personalised"), "{log}");
    assert!(!log.contains("PRIVATE KEY") && !log.contains(service.token().trim()), "a secret is in the log");
}

/// Six lines by which one machine is told from another.
const WHO: &str = "hostname; cat /etc/machine-id; cut -d ' ' -f 2 /etc/ssh/ssh_host_ed25519_key.pub
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; date +%s; systemctl is-active docker.service";

/// Which of these texts are in a file.
fn found<'a>(file: &Path, texts: &[&'a str]) -> Vec<&'a str> {
    const PIECE: usize = 16 << 20;
    let longest = texts.iter().map(|text| text.len()).max().unwrap();
    let mut file = std::fs::File::open(file).unwrap();
    let (mut buffer, mut found) = (Vec::new(), std::collections::BTreeSet::new());
    loop {
        let kept = buffer.len().min(longest);
        buffer.drain(..buffer.len() - kept);
        if (&mut file).take(PIECE as u64).read_to_end(&mut buffer).unwrap() == 0 {
            return found.into_iter().collect();
        }
        // Most of a memory is zeros.
        if buffer.iter().all(|byte| *byte == 0) {
            continue;
        }
        let finds = |text: &&str| memchr::memmem::find(&buffer, text.as_bytes()).is_some();
        found.extend(texts.iter().copied().filter(finds));
    }
}

/// The service is killed while a VM boots; started again, it serves the task with the same VM, and nothing is left over.
#[test]
fn killed_while_a_vm_boots() {
    let mut service = Service::start("killed");
    let job = service.command(&["run", "--", "echo", "served"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while service.vm_states() != ["booting"] {
        assert!(Instant::now() < deadline, "{:?}\n{}", service.vm_states(), service.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    service.crash();
    let alive = service.machines();
    assert!(alive.iter().any(|name| name.starts_with("qemu-system")), "the VM lives on: {alive:?}");
    service.start_again();
    let job = job.wait_with_output().unwrap();
    let (out, err) = text(&job);
    assert_eq!((job.status.code(), out.as_str()), (Some(0), "served\n"), "{err}\n{}", service.log());
    assert_eq!(service.vm_states().len(), 1, "no second VM was made");
    service.assert_nothing_left();
    assert!(service.stop(), "{}", service.log());
}

/// A job's build, as a shell script: it says how long it took, and fails when a layer is not what it was before.
const BUILD: &str = r#"set -e
    mkdir -p ~/context && cd ~/context && cp /bin/busybox . 2>/dev/null || cp "$(command -v busybox)" .
    printf 'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "sh", "-c", "/bin/busybox head -c 20000000 /dev/urandom > /work; /bin/busybox md5sum /work > /sum"]\n' >Dockerfile
    DOCKER_BUILDKIT=1 sudo -E docker build --progress=plain -t built . >build.log 2>&1 || { cat build.log >&2; exit 1; }
    echo cached $(grep -c CACHED build.log || true)
    sudo docker run --rm built /bin/busybox cat /sum"#;

/// Two VMs that wait: the first job builds an image, and leaves a container behind that would start again; the second job of the project
/// finds every layer, and no container. A VM that waits is given at once and replaced at once; a hold on it moves the end that the VM
/// itself keeps; and the garbage collection, asked what it would do, finds nothing.
#[test]
fn a_warm_vm_is_claimed_at_once_with_the_projects_layers_replaced_and_held() {
    let mut service = Service::start("warm");
    service.set(|settings| {
        settings["preallocated"]["machine"] = 1.into();
        // A mount takes seconds, and minutes on a machine that runs the whole gate.
        settings["cache"]["wait_seconds"] = 300.into();
    });
    wait(&service, "a VM waits for jobs", |service| service.vm_states() == ["available"]);
    let cached = |script: &str| {
        let mut job = service.command(&["run", "--docker-layer-caching", "--project", "layers", "--", "sh", "-c", script]);
        job.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let first = format!("{BUILD}\nsudo docker run -d --restart always --name left built /bin/busybox sleep 100000 >/dev/null");
    let first = cached(&first).wait_with_output().unwrap();
    let (built, err) = text(&first);
    assert!(first.status.success() && built.starts_with("cached 0\n"), "{built}{err}\n{}", service.log());

    wait(&service, "another VM waits for jobs", |service| service.vm_states().contains(&"available".to_owned()));
    wait(&service, "the volume is free", |service| service.json(&["volumes"])[0]["state"] == "available");
    let warm = service.json(&["vms", "list", "--state", "available"])[0].clone();
    let before: i64 = epoch(&warm["absolute_end_at"]);
    // The job sees its own VM's end move while it runs.
    let script = format!(
        "{BUILD}\nsudo docker ps -aq\nuntil [ $(sudo cat /var/lib/vm-service/end-at) -gt {} ]; do sleep 0.2; done; echo moved",
        before + 86_400
    );
    let job = cached(&script);
    let id = warm["id"].as_str().unwrap();
    wait(&service, "the job has the VM", |service| service.json(&["vms", "show", id])["state"] == "assigned");
    // What was begun in its place is not needed.
    service.set(|settings| settings["preallocated"]["machine"] = 0.into());
    let held = service.command(&["vms", "hold", id, "--reason", "a look", "--for", "3d"]).output().unwrap();
    assert!(held.status.success(), "{held:?}");
    let (out, err) = text(&job.wait_with_output().unwrap());
    assert_eq!(out, built.replace("cached 0", "cached 2") + "moved\n", "{err}\n{}", service.log());
    let volume = &service.json(&["volumes"])[0];
    assert_eq!((&volume["project"]["jobs"], &volume["project"]["hits"]), (&2.into(), &1.into()), "{volume}");

    assert_eq!(service.json(&["vms", "show", id])["state"], "assigned", "its job is over, and its hold is not");
    wait(&service, "no other VM is left", |service| service.vm_states().iter().filter(|state| *state != "terminated").count() == 1);
    let data = service.data.to_str().unwrap().to_owned();
    let dry = service.command(&["gc", "--dry-run", "--data", &data]).output().unwrap();
    assert_eq!(text(&dry).0, "Nothing to do.\n", "{dry:?}");
    assert!(service.command(&["vms", "unhold", id]).status().unwrap().success());
    service.assert_nothing_left();
    let volume = &service.json(&["volumes"])[0];
    assert_eq!((&volume["state"], &volume["jobs"]), (&"available".into(), &2.into()), "{volume}");
    assert!(service.stop(), "{}", service.log());
}

fn wait(service: &Service, what: &str, there: impl Fn(&Service) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(400);
    while !there(service) {
        assert!(Instant::now() < deadline, "not within 400 s: {what}: {:?}\n{}", service.vm_states(), service.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn epoch(time: &serde_json::Value) -> i64 {
    time.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp()
}
