//! Jobs from the wish to nothing left: in the gate one with a Docker engine, in one VM; by `make ec2-lab` one of each kind at a time,
//! and one that shuts its VM down.

use super::lab::{Lab, deadline, ended, touch, wait_for};
use super::{apart, disk};
use std::path::Path;
use std::process::Output;
use std::time::Instant;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use vm_service::domain::api::VmView;
use vm_service::domain::lifecycle::VmState;
use vm_service::domain::task::Executor;

#[test]
fn a_remote_docker_job_and_a_volume() {
    apart::run("ec2_lab::jobs::one_vm");
}

#[test]
#[ignore = "by make ec2-lab: three VMs"]
fn jobs_of_both_kinds_a_volume_and_a_shutdown() {
    apart::run("ec2_lab::jobs::three_vms");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of a_remote_docker_job_and_a_volume, in a network of its own"]
async fn one_vm() {
    let began = Instant::now();
    let lab = Lab::start("one").await;
    let context = context();
    let mut job = docker_job(&lab, context.path());
    let vm = at_work(&lab, Executor::RemoteDocker, &mut job).await;
    println!("figure ec2_lab_ready {:.1} s", began.elapsed().as_secs_f64());
    disk::comes_and_goes(&lab, &vm).await;
    touch(&context.path().join("go"));
    has_built(&lab, &job.wait_with_output().await.unwrap());
    lab.holds_nothing().await;
    lab.stop();
    println!("figure ec2_lab_one_vm {:.1} s", began.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of jobs_of_both_kinds_a_volume_and_a_shutdown, in a network of its own"]
async fn three_vms() {
    let began = Instant::now();
    let lab = Lab::start("three").await;
    let context = context();
    let mut docker = docker_job(&lab, context.path());
    let script = "id -un; sudo -n true && echo may sudo; until [ -e /tmp/go ]; do sleep 0.2; done; echo over >&2; exit 9";
    let mut machine = lab.client(&["run", "--quiet", "--project", "a", "--", "sh", "-c", script]).spawn().unwrap();

    let vm = at_work(&lab, Executor::Machine, &mut machine).await;
    disk::comes_and_goes(&lab, &vm).await;
    let guest = lab.guest(&vm).await;
    assert!(guest.exec("touch /tmp/go", b"", 1000, deadline()).await.unwrap().status.success());
    let (code, out, err) = ended(&machine.wait_with_output().await.unwrap());
    assert_eq!((code, out.as_str(), err.as_str()), (Some(9), "circleci\nmay sudo\n", "over\n"), "{}", lab.log());

    let other = at_work(&lab, Executor::RemoteDocker, &mut docker).await;
    assert_ne!((other.id, &other.address), (vm.id, &vm.address), "each job has a VM and an address of its own");
    touch(&context.path().join("go"));
    has_built(&lab, &docker.wait_with_output().await.unwrap());
    lab.holds_nothing().await;
    println!("figure ec2_lab_two_jobs {:.1} s", began.elapsed().as_secs_f64());

    shutdown_from_inside(&lab).await;
    lab.holds_nothing().await;
    lab.stop();
    println!("figure ec2_lab_three_vms {:.1} s", began.elapsed().as_secs_f64());
}

/// It ends the instance, as its launch has asked for, and nobody else has to: the VM is held, so the service may not.
async fn shutdown_from_inside(lab: &Lab) {
    let mut job = lab.client(&["run", "--quiet", "--project", "a", "--", "sleep", "1000"]).spawn().unwrap();
    let vm = at_work(lab, Executor::Machine, &mut job).await;
    let (id, instance) = (vm.id.to_string(), vm.provider_id.clone().unwrap());
    assert!(lab.client(&["vms", "hold", &id, "--reason", "a look", "--for", "1h"]).status().await.unwrap().success());
    // The connection may end before its answer.
    drop(lab.guest(&vm).await.exec("sudo poweroff", b"", 1000, deadline()).await);
    // Once it is seen to be dead the service asks for its end all the same, which is idempotent; so this looks at once.
    let asked = wait_for("the instance has ended", lab, async || {
        let asked = lab.cloud.calls("TerminateInstances");
        let lives = lab.cloud.instances().await.iter().any(|instance| instance.lives());
        (!lives).then_some(asked)
    })
    .await;
    assert!(!asked.iter().any(|call| call.params.list("InstanceId").contains(&instance.as_str())), "{asked:?}");
    let (code, _, err) = ended(&job.wait_with_output().await.unwrap());
    assert_eq!(code, Some(125), "{err}\n{}", lab.log());
    wait_for("nothing is left of it", lab, async || lab.vms.left().is_empty().then_some(())).await;
    assert!(lab.client(&["vms", "unhold", &id]).status().await.unwrap().success());
}

/// What is built, and later the file that the job waits for.
fn context() -> tempfile::TempDir {
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("hello.txt"), "hello").unwrap();
    std::fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY hello.txt /\n").unwrap();
    context
}

fn docker_job(lab: &Lab, context: &Path) -> Child {
    let script = "docker build -q -t built . && docker image ls -q built && echo $DOCKER_HOST
        until [ -e go ]; do sleep 0.2; done";
    let mut command = lab.client(&["run", "--executor", "remote_docker", "--project", "b", "--", "sh", "-c", script]);
    command.current_dir(context).spawn().unwrap()
}

fn has_built(lab: &Lab, output: &Output) {
    let (code, out, err) = ended(output);
    assert_eq!(code, Some(0), "{out}\n{err}\n{}", lab.log());
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("sha256:"), "{out}");
    assert!(lines[2].starts_with("tcp://127.") && lines[2].ends_with(":2376"), "{out}");
}

/// The VM of a job that runs.
async fn at_work(lab: &Lab, executor: Executor, job: &mut Child) -> VmView {
    wait_for("the job has its VM", lab, async || {
        if let Some(status) = job.try_wait().unwrap() {
            let mut said = String::new();
            job.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
            panic!("the job ended: {status}: {said}\n{}", lab.log());
        }
        lab.rows().await.into_iter().find(|vm| vm.state == VmState::Assigned && vm.executor == executor)
    })
    .await
}
