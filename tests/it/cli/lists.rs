//! `tasks` and `vms`: what people and programs read.

use super::api::{Api, World, event, task, vm};
use super::{io, parse};
use chrono::TimeDelta;
use serde_json::{Value, json};
use uuid::Uuid;
use vm_service::cli;
use vm_service::domain::api::Hold;
use vm_service::domain::ids::TaskId;
use vm_service::domain::lifecycle::TaskState;

async fn execute(api: &Api, words: &[&str]) -> (u8, String, String) {
    let (io, out, err) = io(None);
    let code = cli::run(parse(&api.url, words), &Default::default(), io).await;
    (code, out.text(), err.text())
}

fn world() -> World {
    let held = Hold { reason: "kernel\u{7} bug".to_owned(), until: super::api::now() + TimeDelta::hours(1) };
    let vms = (1..=5)
        .map(|number| {
            let mut one = vm(number);
            one.hold = (number == 2).then(|| held.clone());
            one
        })
        .collect();
    let tasks = (1..=3).map(|number| task(TaskId(Uuid::from_u128(number)), TaskState::Queued)).collect();
    let events = vec![event(1, "task.created", "Asked."), event(2, "task.waiting", "A VM is starting.")];
    World { vms, tasks, events, ..World::default() }
}

#[tokio::test]
async fn a_list_follows_its_pages_and_shows_ages_and_whole_ids() {
    let api = Api::start(world()).await;
    let (code, out, err) = execute(&api, &["vms"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<Vec<_>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "STATE", "EXECUTOR", "CLASS", "AGE", "MACHINE", "ADDRESS", "TASK", "NOTE"]);
    assert_eq!(lines.len(), 6);
    let id = Uuid::from_u128(2).to_string();
    assert_eq!(
        lines[2],
        [id.as_str(), "available", "machine", "medium", "5h", "onhost", "vm-2", "-", "-", "held:", "kernel", "bug"]
    );
    assert_eq!(api.world().calls, ["", "&cursor=2", "&cursor=4"].map(|rest| format!("GET /api/v1/vms?limit=200{rest}")));
    let (_, out, _) = execute(&api, &["tasks", "list", "--state", "queued", "--project", "a&b"]).await;
    assert_eq!(out.lines().count(), 4);
    assert!(out.lines().nth(1).unwrap().contains(" 3m "), "{out}");
    assert!(
        api.world().calls.iter().skip(3).all(|call| call.contains("?state=queued&project_id=a%26b&limit=200")),
        "{:?}",
        api.world().calls
    );
}

#[tokio::test]
async fn json_is_the_apis_own_one_document_and_whole() {
    let api = Api::start(world()).await;
    for words in [["vms", "--json"].as_slice(), &["vms", "list", "--json"]] {
        let (code, out, _) = execute(&api, words).await;
        assert_eq!(code, 0);
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), serde_json::to_value(&api.world().vms).unwrap());
    }
    let (_, out, _) = execute(&api, &["tasks", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), serde_json::to_value(&api.world().tasks).unwrap());
    let id = Uuid::from_u128(1).to_string();
    let (_, out, _) = execute(&api, &["tasks", "timeline", &id, "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), serde_json::to_value(&api.world().events).unwrap());
    let (_, out, _) = execute(&api, &["vms", "show", &id, "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), serde_json::to_value(vm(1)).unwrap());
}

#[tokio::test]
async fn one_task_its_timeline_and_its_release() {
    let api = Api::start(world()).await;
    let id = TaskId(Uuid::from_u128(1));
    api.world().task = Some(task(id, TaskState::Queued));
    let (code, out, _) = execute(&api, &["tasks", "show", &id.to_string()]).await;
    assert_eq!(code, 0);
    assert!(out.contains(&id.to_string()) && out.contains("branch=main"), "{out}");
    let (_, out, _) = execute(&api, &["tasks", "timeline", &id.to_string()]).await;
    assert_eq!(out.lines().last().unwrap().split_whitespace().collect::<Vec<_>>()[1..4], ["+1.500", "s", "task.waiting"]);
    let (code, out, _) = execute(&api, &["tasks", "release", &id.to_string()]).await;
    assert_eq!((code, out), (0, format!("Task {id} is over; its VM is taken away.\n")));
    assert_eq!(api.count("DELETE"), 1);
}

#[tokio::test]
async fn a_hold_ends_by_the_services_clock() {
    let api = Api::start(world()).await;
    let id = Uuid::from_u128(3).to_string();
    let (code, out, err) = execute(&api, &["vms", "hold", &id, "--reason", "look", "--for", "1h30m"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(api.world().bodies, [json!({"reason": "look", "seconds": 5400})]);
    let until = "2026-11-22T13:30:00Z";
    assert!(out.contains(until), "{out}");
    assert_eq!(execute(&api, &["vms", "unhold", &id]).await.0, 0);
    assert_eq!(api.count(&format!("DELETE /api/v1/vms/{id}/hold")), 1);
}

#[tokio::test]
async fn every_vm_is_tried_and_one_that_is_not_there_is_an_error() {
    let api = Api::start(world()).await;
    let [a, b, c] = [1, 99, 2].map(|number| Uuid::from_u128(number).to_string());
    let (code, out, err) = execute(&api, &["vms", "terminate", &a, &b, &c]).await;
    let ended = format!("VM {a} is being terminated.\nVM {c} is being terminated.\n");
    let refused = format!("vm-service: VM {b} is not terminated: There is no VM {b} (404).\n");
    assert_eq!((code, out, err.as_str()), (1, ended, refused.as_str()));
    assert_eq!(api.count("DELETE"), 3);
    let (code, out, err) = execute(&api, &["vms", "terminate", "--json", &a, &b]).await;
    let ended: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!((code, ended.len(), &ended[0]["id"], err), (1, 1, &json!(a), refused));
}

#[tokio::test]
async fn unknown_machines_are_ended_by_one_call() {
    let api = Api::start(world()).await;
    let (code, out, err) = execute(&api, &["vms", "terminate", "--unknown"]).await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "Machine m-1 is going to be ended.\n", ""));
    assert_eq!(api.world().bodies, [json!({ "unknown": true })]);
}

#[tokio::test]
async fn a_closed_pipe_is_not_an_error() {
    let api = Api::start(world()).await;
    let (mut io, _, err) = io(None);
    let (to, from) = tokio::io::duplex(10);
    drop(from);
    io.out = Box::new(to);
    let code = cli::run(parse(&api.url, &["vms"]), &Default::default(), io).await;
    assert_eq!((code, err.text().as_str()), (0, ""));
}
