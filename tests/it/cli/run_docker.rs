//! `run --executor remote_docker`: what the local command gets, and what becomes of it.

use super::api::{Api, TASK, World, docker};
use super::{Written, io, run_args, until};
use std::future::pending;
use std::path::Path;
use std::time::Duration;
use vm_service::cli::{Interrupt, Pace, run};

async fn execute(api: &Api, words: &[&str], pace: Pace) -> (u8, String) {
    let args = run_args(&api.url, &[&["--executor", "remote_docker", "--project", "p"], words].concat());
    let client = args.client(&Default::default()).unwrap();
    let (mut io, _, err) = io(None);
    let code = run::run(&args, &client, TASK, &mut io, pending(), pace).await;
    (code, err.text())
}

fn ready() -> World {
    World { connection: Some(docker()), ..World::default() }
}

#[tokio::test]
async fn the_command_gets_the_engine_and_private_certificates_and_its_exit_code_is_ours() {
    let api = Api::start(ready()).await;
    let told = tempfile::NamedTempFile::new().unwrap();
    let script = r#"{ echo "$DOCKER_HOST $DOCKER_TLS_VERIFY $DOCKER_CONTEXT."; echo "$DOCKER_CERT_PATH"; stat -c %a "$DOCKER_CERT_PATH"
        cd "$DOCKER_CERT_PATH"; for f in *; do echo "$f $(stat -c %a $f) $(cat $f)"; done; } > "$0"; exit 3"#;
    let file = told.path().to_str().unwrap();
    let (code, err) =
        execute(&api, &["--max-run-seconds", "77", "--class", "large", "--", "sh", "-c", script, file], Pace::default()).await;
    assert_eq!((code, err.as_str()), (3, ""));
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    let folder = lines.remove(1);
    assert_eq!(lines, ["tcp://127.9.9.9:2376 1 .", "700", "ca.pem 600 CA", "cert.pem 600 CERT", "key.pem 600 KEY"]);
    assert!(!Path::new(folder).exists(), "the certificates are still there");
    assert_eq!(api.world().calls, [format!("PUT /api/v1/tasks/{TASK}"), format!("DELETE /api/v1/tasks/{TASK}")]);
    assert_eq!(api.world().tokens, ["Bearer t0ken", "Bearer t0ken"]);
    let asked = serde_json::json!({"executor": "remote_docker", "project_id": "p", "resource_class": "large", "max_run_seconds": 77,
        "lease_seconds": 60, "priority": 0});
    assert_eq!(api.world().bodies, [asked]);
}

#[tokio::test]
async fn a_command_that_is_killed_or_missing_says_so_as_a_shell_does() {
    let api = Api::start(ready()).await;
    assert_eq!(execute(&api, &["--", "sh", "-c", "kill -9 $$"], Pace::default()).await.0, 137);
    let (code, err) = execute(&api, &["--", "/no/such/command"], Pace::default()).await;
    assert_eq!((code, err.contains("/no/such/command cannot be run here")), (127, true), "{err}");
    assert_eq!(execute(&api, &["--", "/etc/passwd"], Pace::default()).await.0, 126);
    assert_eq!(api.count("DELETE"), 3);
}

#[tokio::test]
async fn a_stopped_command_is_signalled_then_killed_and_the_task_is_released() {
    let api = Api::start(ready()).await;
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");
    for (script, grace, expected) in [
        ("trap 'echo term >> \"$0\"; exit 0' TERM; echo $DOCKER_CERT_PATH > \"$0\"; while :; do sleep 0.05; done", 20_000, "term"),
        ("trap '' TERM; echo $DOCKER_CERT_PATH > \"$0\"; while :; do sleep 0.05; done", 200, ""),
    ] {
        std::fs::remove_file(&note).ok();
        let args = run_args(&api.url, &["--executor", "remote_docker", "--", "sh", "-c", script, note.to_str().unwrap()]);
        let client = args.client(&Default::default()).unwrap();
        let (mut io, _, _) = io(None);
        let begun = async {
            until("the command runs", || std::fs::read_to_string(&note).is_ok_and(|text| text.ends_with('\n'))).await;
            Interrupt::Terminated
        };
        let pace = Pace { grace: Duration::from_millis(grace), ..Pace::default() };
        let code = run::run(&args, &client, TASK, &mut io, begun, pace).await;
        assert_eq!(code, 143);
        let text = std::fs::read_to_string(&note).unwrap();
        let (certificates, rest) = text.split_once('\n').unwrap();
        assert_eq!(rest.trim(), expected);
        assert!(!Path::new(certificates).exists());
    }
    assert_eq!(api.count("DELETE"), 2);
}

#[tokio::test]
async fn heartbeats_go_on_while_the_command_runs_and_stop_it_when_the_task_is_over() {
    let api = Api::start(ready()).await;
    let pace = Pace { heartbeat: Duration::from_millis(50), ..Pace::default() };
    let both = async {
        until("three heartbeats", || api.count("POST") >= 3).await;
        let detail = "The VM stopped answering.".to_owned();
        api.world().fails =
            Some(vm_service::domain::failure::Failure { code: vm_service::domain::failure::FailureCode::VmLost, detail });
    };
    let ((code, err), ()) = tokio::join!(execute(&api, &["--", "sleep", "60"], pace), both);
    assert_eq!(code, 125);
    assert_eq!(err, format!("vm-service: Task {TASK} ended without its command: The VM stopped answering. (vm_lost)\n"));
    assert_eq!(api.count(&format!("POST /api/v1/tasks/{TASK}/heartbeat")), api.count("POST"));
    assert_eq!(api.count("DELETE"), 1);
}

#[tokio::test]
async fn a_release_that_is_not_answered_has_a_deadline_and_leaves_the_exit_code_alone() {
    let api = Api::start(World { silent_release: true, ..ready() }).await;
    let pace = Pace { release: Duration::from_millis(200), ..Pace::default() };
    let (code, err) = execute(&api, &["--", "sh", "-c", "exit 9"], pace).await;
    assert_eq!(code, 9);
    assert!(err.contains("could not be released"), "{err}");
}

/// Not a test: the process that `signals_release_the_task` sends signals to.
#[tokio::test]
#[ignore = "the child process of another test"]
async fn child_of_signals() {
    use clap::Parser;
    let words = ["vm-service", "run", "--executor", "remote_docker", "--", "sleep", "60"];
    let command = super::Cli::try_parse_from(words).unwrap().command;
    let code = vm_service::cli::run(command, &Default::default(), vm_service::cli::Io::process()).await;
    std::process::exit(code.into());
}

#[tokio::test]
async fn signals_release_the_task_once_and_a_second_one_does_not_skip_it() {
    for (signal, expected) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let api = Api::start(ready()).await;
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["cli::run_docker::child_of_signals", "--exact", "--ignored", "--nocapture"])
            .env("VM_SERVICE_URL", &api.url)
            .env("VM_SERVICE_TOKEN", "t0ken")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.unwrap();
        until("the command began", || api.count("PUT") == 1).await;
        let pid = child.id().unwrap().to_string();
        let mut sent = 0;
        let code = loop {
            // Again and again, as an impatient person does.
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
            tokio::process::Command::new("/bin/sh").args(["-c", "kill -$0 $1", signal, &pid]).status().await.unwrap();
            sent += 1;
            assert!(sent < 500, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(code, Some(expected), "SIG{signal}");
        assert_eq!(api.count("DELETE"), 1, "SIG{signal}");
    }
}

#[tokio::test]
async fn a_panic_in_between_releases_the_task_too() {
    let api = Api::start(World { polls: 1000, events: vec![super::api::event(1, "task.waiting", "x")], ..ready() }).await;
    let args = run_args(&api.url, &["--executor", "remote_docker", "--", "true"]);
    let client = args.client(&Default::default()).unwrap();
    let (mut io, _, _) = io(None);
    io.err = Box::new(Panics(Written::default()));
    let pace = Pace { reasons: Duration::from_millis(10), ..Pace::default() };
    assert_eq!(run::run(&args, &client, TASK, &mut io, pending(), pace).await, 125);
    assert_eq!(api.count("DELETE"), 1);
}

/// Panics when the first message is written.
struct Panics(Written);

impl tokio::io::AsyncWrite for Panics {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let mut written = self.0.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let first = written.is_empty();
        written.extend_from_slice(data);
        if first {
            std::panic::resume_unwind(Box::new(()));
        }
        std::task::Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
