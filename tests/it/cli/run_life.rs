//! `run` between the request and the command: waiting, restarts of the service, refusals.

use super::api::{Api, TASK, World, docker, event};
use super::{io, run_args, until};
use axum::http::StatusCode;
use serde_json::json;
use std::future::pending;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vm_service::cli::{Interrupt, Pace, run};
use vm_service::domain::failure::{Failure, FailureCode};

const QUICK: Duration = Duration::from_millis(10);

async fn execute(url: &str, options: &[&str], pace: Pace) -> (u8, String) {
    let args = run_args(url, &[&["--executor", "remote_docker"], options, &["--", "true"]].concat());
    let client = args.client(&Default::default()).unwrap();
    let (mut io, out, err) = io(None);
    let code = run::run(&args, &client, TASK, &mut io, pending(), pace).await;
    assert_eq!(out.text(), "");
    (code, err.text())
}

fn ready() -> World {
    World { connection: Some(docker()), ..World::default() }
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_is_sent_again_with_the_same_id_and_body() {
    let api = Api::start(World { lost_puts: 2, ..ready() }).await;
    assert_eq!(execute(&api.url, &[], Pace::default()).await, (0, String::new()));
    assert_eq!(api.count(&format!("PUT /api/v1/tasks/{TASK}")), 3);
    let bodies = api.world().bodies.clone();
    assert_eq!((&bodies[0], &bodies[0]), (&bodies[1], &bodies[2]));
    assert_eq!(api.count("DELETE"), 1);
}

#[tokio::test]
async fn a_service_that_restarts_during_the_wait_is_waited_for() {
    let off = CancellationToken::new();
    let api = Api::start(World { polls: 3, ..ready() }).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    api.listen(listener, off.clone());
    api.world().dies = Some(off.clone());
    let restart = async {
        off.cancelled().await;
        // Long enough for calls that find nobody.
        tokio::time::sleep(Duration::from_millis(500)).await;
        api.listen(tokio::net::TcpListener::bind(addr).await.unwrap(), CancellationToken::new());
    };
    let url = format!("http://{addr}");
    let (ended, ()) = tokio::join!(execute(&url, &["--quiet"], Pace::default()), restart);
    assert_eq!(ended, (0, String::new()));
    assert_eq!(api.count("DELETE"), 1);
    assert!(api.count(&format!("GET /api/v1/tasks/{TASK}?wait=30")) >= 3, "{:?}", api.world().calls);
}

#[tokio::test]
async fn reasons_to_wait_are_told_once_each_and_not_at_all_when_quiet() {
    let events = vec![
        event(1, "task.created", "Asked."),
        event(2, "task.waiting", "A VM is launched for it."),
        event(3, "task.waiting", "A VM is\u{1b}[2J starting."),
        event(4, "task.claimed", "Given VM 7."),
    ];
    let pace = Pace { reasons: QUICK, ..Pace::default() };
    let api = Api::start(World { polls: 8, events: events.clone(), ..ready() }).await;
    let (code, err) = execute(&api.url, &[], pace).await;
    assert_eq!(code, 0);
    assert_eq!(
        err,
        "vm-service: waiting: A VM is launched for it.\nvm-service: waiting: A VM is [2J starting.\nvm-service: Given VM 7.\n"
    );
    assert!(api.count(&format!("GET /api/v1/tasks/{TASK}/timeline")) > 1);
    let api = Api::start(World { polls: 8, events, ..ready() }).await;
    assert_eq!(execute(&api.url, &["--quiet"], pace).await, (0, String::new()));
}

#[tokio::test]
async fn ctrl_c_while_it_waits_gives_the_place_in_the_queue_back() {
    let api = Api::start(World { polls: 1_000_000, ..ready() }).await;
    let args = run_args(&api.url, &["--", "true"]);
    let client = args.client(&Default::default()).unwrap();
    let (mut io, _, _) = io(None);
    let waits = async {
        until("it waits", || api.count("GET") > 0).await;
        Interrupt::Interrupted
    };
    assert_eq!(run::run(&args, &client, TASK, &mut io, waits, Pace::default()).await, 130);
    assert_eq!(api.count("DELETE"), 1);
}

#[tokio::test]
async fn a_task_that_fails_says_why_and_is_the_services_failure() {
    let failure = Failure { code: FailureCode::VmStartFailed, detail: "Three VMs did not start.".to_owned() };
    let api = Api::start(World { polls: 5, fails: Some(failure), ..ready() }).await;
    let (code, err) = execute(&api.url, &[], Pace::default()).await;
    let sentence = format!("vm-service: Task {TASK} ended without its command: Three VMs did not start. (vm_start_failed)\n");
    assert_eq!((code, err), (125, sentence));
    assert_eq!(api.count("DELETE"), 1);
}

#[tokio::test]
async fn a_refusal_becomes_a_sentence_with_what_is_wrong_and_leaves_nothing_to_release() {
    let document = json!({"type": "about:blank", "status": 422, "title": "Unprocessable Entity", "detail": "Change two fields.",
        "errors": [{"field": "resource_class", "message": "there is no class \"huge\""}, {"field": "project_id", "message": "too long"}]});
    let api = Api::start(World { refuse_put: Some((StatusCode::UNPROCESSABLE_ENTITY, document)), ..ready() }).await;
    let (code, err) = execute(&api.url, &["--timings"], Pace::default()).await;
    assert_eq!(code, 125);
    assert_eq!(
        err,
        "vm-service: Change two fields (422):\n  - resource_class: there is no class \"huge\"\n  - project_id: too long\n"
    );
    assert_eq!(api.world().calls, [format!("PUT /api/v1/tasks/{TASK}")]);
}

#[tokio::test]
async fn a_service_that_is_overloaded_is_asked_again_until_patience_ends() {
    let document = json!({"detail": "The database cannot be reached."});
    let api = Api::start(World { refuse_put: Some((StatusCode::SERVICE_UNAVAILABLE, document)), ..ready() }).await;
    let (code, err) = execute(&api.url, &[], Pace { patience: Duration::from_secs(1), ..Pace::default() }).await;
    assert_eq!((code, err.as_str()), (125, "vm-service: The database cannot be reached (503).\n"));
    assert!(api.count("PUT") > 2, "{:?}", api.world().calls);
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (code, err) = execute(&url, &[], Pace::default()).await;
    assert_eq!(code, 125);
    let sentence = format!("vm-service: Nothing answers at {url}: is the service running? Start it with `make up`");
    assert!(err.starts_with(&sentence), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
}

#[tokio::test]
async fn timings_have_a_row_for_each_phase() {
    let events = ["task.created", "task.waiting", "task.claimed", "task.ready", "task.released"];
    let events = (0..).zip(events).map(|(id, kind)| event(id, kind, "-")).collect();
    let api = Api::start(World { events, ..ready() }).await;
    let (code, err) = execute(&api.url, &["--timings"], Pace::default()).await;
    assert_eq!(code, 0);
    let rows: Vec<Vec<_>> = err.lines().map(|line| line.split_whitespace().skip(1).collect()).collect();
    assert_eq!(
        rows[..4],
        [
            vec!["PHASE", "AT", "TOOK"],
            vec!["queued", "12:00:00.000Z", "0.000", "s"],
            vec!["claimed", "12:00:03.000Z", "3.000", "s"],
            vec!["ready", "12:00:04.500Z", "1.500", "s"],
        ]
    );
    assert_eq!((rows[4][0], rows[5][..2].to_vec()), ("command", vec!["released", "12:00:06.000Z"]));
    assert!(rows[4][1].parse::<f64>().unwrap() > 0.0, "{err}");
}
