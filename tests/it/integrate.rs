//! What `docs/integrate.md` tells a dispatcher to do works: its shell commands as they stand there, and the four steps of GitLab's custom
//! executor, against the service over the simulated cloud. A stub of ssh stands for the VM: it sees to the key, and runs the command here.

use crate::api_support::CI;
use crate::over_sim::OverSim;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;
use vm_service::domain::api::TaskView;
use vm_service::domain::ids::TaskId;
use vm_service::domain::lifecycle::TaskState;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
const STUB: &str = r#"#!/usr/bin/env bash
while [[ $1 == -* ]]; do
    case $1$2 in
        -i*) [[ $(stat -c %a "$2") == 600 ]] || exit 99 ;;
        -oUserKnownHostsFile=*) grep -q ' ssh-ed25519 ' "${2#*=}" || exit 98 ;;
    esac
    shift 2
done
shift
[[ ! -e ${0%/*}/lost ]] || exit 255
[[ $1 == mkdir ]] || exec bash -c "$*"
"#;

/// A folder with the stub first on the path, and how a command finds the service.
struct Host {
    folder: TempDir,
    url: String,
}

impl Host {
    fn of(service: &OverSim) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ssh = folder.path().join("ssh");
        std::fs::write(&ssh, STUB).unwrap();
        std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, url: service.url.clone() }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", format!("{}:/usr/bin:/bin", self.folder.path().display()));
        command
            .env("TMPDIR", self.folder.path())
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// One step of GitLab's.
    async fn step(&self, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String) {
        let mut command = self.command(&Path::new(DOCS).join("integrate/gitlab").join(name));
        let (build, system) = (("BUILD_FAILURE_EXIT_CODE", "71"), ("SYSTEM_FAILURE_EXIT_CODE", "72"));
        command.args(arguments).envs([build, system]).env("VM_SERVICE_GITLAB", self.folder.path().join("settings"));
        command.env("JOB_RESPONSE_FILE", self.folder.path().join("job.json")).envs(environment.iter().copied());
        command.env("BUILD_EXIT_CODE_FILE", self.folder.path().join("code"));
        said(&command.output().await.unwrap())
    }
}

fn said(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

/// What stands between ```` ```sh ```` and ```` ``` ````.
fn commands(page: &str) -> String {
    page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_commands_of_the_page_work_as_they_stand(pool: PgPool) {
    let service = OverSim::start(&pool, |_| {}).await;
    let host = Host::of(&service);
    let page = std::fs::read_to_string(Path::new(DOCS).join("integrate.md")).unwrap();
    let script = host.file("by-hand", &format!("set -euo pipefail\n{}", commands(&page)));
    let mut bash = host.command(Path::new("bash"));
    bash.arg(script).env("VM_SERVICE_URL", &host.url).env("VM_SERVICE_TOKEN", CI);
    let (code, said) = said(&bash.output().await.unwrap());
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Linux") && said.contains("The job may begin.") && said.trim_end().ends_with("released"), "{said}");
    service.stop().await;
}

async fn task(service: &OverSim, folder: &str) -> TaskView {
    let id: Uuid = std::fs::read_to_string(Path::new(folder).join("task")).unwrap().trim().parse().unwrap();
    service.db.find_task(TaskId(id)).await.unwrap().unwrap().view
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn gitlabs_four_steps_run_a_job_and_give_its_vm_back(pool: PgPool) {
    let service = OverSim::start(&pool, |settings| settings.preallocated.machine = 1).await;
    let host = Host::of(&service);
    let token = host.file("token", CI);
    host.file("settings", &format!("VM_SERVICE_URL={}\nVM_SERVICE_TOKEN_FILE={}\n", host.url, token.display()));
    let job = json!({ "id": 4711, "job_info": { "project_id": 42 }, "runner_info": { "timeout": 3600 } });
    host.file("job.json", &job.to_string());

    let (code, said) = host.step("config", &[], &[]).await;
    assert_eq!(code, 0, "{said}");
    let config: Value = serde_json::from_str(&said).unwrap();
    let folder = config["job_env"]["VM_SERVICE_JOB"].as_str().unwrap().to_owned();
    // A job may say that it is of any project.
    let environment = [("VM_SERVICE_JOB", folder.as_str()), ("CUSTOM_ENV_CI_PROJECT_PATH", "acme/other")];

    let (code, said) = host.step("prepare", &[], &environment).await;
    assert_eq!(code, 0, "{said}");
    let first = task(&service, &folder).await;
    assert_eq!((first.state, first.request.project_id.as_str()), (TaskState::Ready, "gitlab-42"));
    assert_eq!((first.request.max_run_seconds, first.request.docker_layer_caching), (Some(4200), true));

    let good = host.file("good", "echo from the job");
    assert_eq!(host.step("run", &[good.to_str().unwrap(), "build_script"], &environment).await, (0, "from the job\n".to_owned()));
    for (script, code) in [("exit 7", "7"), ("exit 255", "255")] {
        let bad = host.file("bad", script);
        assert_eq!(host.step("run", &[bad.to_str().unwrap(), "build_script"], &environment).await.0, 71, "{script}");
        assert_eq!(std::fs::read_to_string(host.folder.path().join("code")).unwrap().trim(), code);
    }
    host.file("lost", "");
    let (code, said) = host.step("run", &[good.to_str().unwrap(), "build_script"], &environment).await;
    assert_eq!((code, said.as_str()), (72, "vm-service: the VM was lost in the step build_script.\n"));
    std::fs::remove_file(host.folder.path().join("lost")).unwrap();

    // The runner prepares again: the first VM is given back.
    let (code, said) = host.step("prepare", &[], &environment).await;
    assert_eq!(code, 0, "{said}");
    let second = task(&service, &folder).await;
    let first = service.db.find_task(first.id).await.unwrap().unwrap().view;
    assert_eq!((first.state, second.state), (TaskState::Released, TaskState::Ready));

    let (code, said) = host.step("cleanup", &[], &environment).await;
    assert_eq!((code, said.as_str(), Path::new(&folder).exists()), (0, "", false));
    assert_eq!(service.db.find_task(second.id).await.unwrap().unwrap().view.state, TaskState::Released);
    assert_eq!(host.step("cleanup", &[], &environment).await.0, 0, "twice is as once");
    service.stop().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_job_that_gets_no_vm_is_told_why(pool: PgPool) {
    let service = OverSim::start(&pool, |_| {}).await;
    let host = Host::of(&service);
    let token = host.file("token", CI);
    host.file("settings", &format!("VM_SERVICE_URL={}\nVM_SERVICE_TOKEN_FILE={}\n", host.url, token.display()));
    host.file("job.json", "{\"id\": 1, \"job_info\": {\"project_id\": 42}}");
    let folder = host.folder.path().display().to_string();
    let environment = [("VM_SERVICE_JOB", folder.as_str()), ("CUSTOM_ENV_VM_SERVICE_CLASS", "enormous")];
    let (code, said) = host.step("prepare", &[], &environment).await;
    assert_eq!(code, 72);
    assert!(said.contains("There is no resource class \"enormous\" for machine; known are: large, medium."), "{said}");
    service.stop().await;
}
