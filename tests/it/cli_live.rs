//! `settings`, `audit`, `events`, `why` and `tasks --watch` against the whole API over a real database.

use crate::api_support::{Api, CI, OPERATOR, eventually, machine, task_path};
use clap::Parser;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt};
use uuid::Uuid;
use vm_service::cli::{self, Command, Io, Stdin};
use vm_service::domain::ids::TaskId;
use vm_service::domain::task::Executor;
use vm_service::http::state::Limits;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The service at a port of this machine.
async fn serve(api: &Api) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = api.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl tokio::io::AsyncWrite for Written {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.0.lock().unwrap().extend_from_slice(data);
        std::task::Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

fn command(url: &str, words: &[&str]) -> Command {
    let (first, rest) = words.split_first().unwrap();
    let words = ["vm-service", first, "--url", url, "--token", OPERATOR].into_iter().chain(rest.iter().copied());
    Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{e}")).command
}

type Input = Option<Box<dyn AsyncRead + Send + Unpin>>;

async fn with_input(url: &str, words: &[&str], input: Input) -> (u8, String, String) {
    let (out, err) = (Written::default(), Written::default());
    let io = Io { stdin: Stdin::Given(input), out: Box::new(out.clone()), err: Box::new(err.clone()) };
    let code = cli::run(command(url, words), &Default::default(), io).await;
    (code, out.text(), err.text())
}

async fn run(url: &str, words: &[&str]) -> (u8, String, String) {
    with_input(url, words, None).await
}

/// A command that goes on: what it has written so far, until it is dropped.
fn begin(url: &str, words: &[&str]) -> (Written, tokio::task::JoinHandle<u8>) {
    let out = Written::default();
    let io = Io { stdin: Stdin::Given(None), out: Box::new(out.clone()), err: Box::new(Written::default()) };
    let command = command(url, words);
    (out, tokio::spawn(async move { cli::run(command, &Default::default(), io).await }))
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn settings_are_read_changed_told_and_turned_back(pool: PgPool) {
    let api = Api::new(pool).await;
    let url = serve(&api).await;
    assert_eq!(run(&url, &["settings", "get", "preallocated.machine"]).await, (0, "0\n".to_owned(), String::new()));
    let (code, _, err) = run(&url, &["settings", "get", "colour"]).await;
    assert_eq!((code, err.contains("no setting \"colour\"")), (1, true), "{err}");

    let set = ["settings", "set", "preallocated.machine=2", "ec2.region=eu-west-1"];
    let (code, out, err) = run(&url, &set).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("preallocated.machine: 0 -> 2") && err.contains("ec2.region: null -> \"eu-west-1\""), "{err}");
    assert!(err.contains("say --yes"), "{err}");
    assert_eq!(with_input(&url, &set, Some(Box::new(&b"n\n"[..]))).await.0, 1);
    assert_eq!(api.call(OPERATOR, "GET", "/api/v1/settings").await.header("etag"), "\"0\"", "nothing was saved");
    let (code, out, err) = with_input(&url, &set, Some(Box::new(&b"y\n"[..]))).await;
    assert_eq!((code, out.as_str()), (0, "Saved as version 1; in force within seconds.\n"), "{err}");
    let again = run(&url, &[&set[..], &["--yes"]].concat()).await;
    assert_eq!((again.0, again.1.as_str()), (0, "Nothing would change: nothing is saved.\n"));

    let key = "ec2.authentication={\"access_key\":{\"id\":\"AKIAIOSFODNN7EXAMPLE\",\"secret\":\"canary-secret\"}}";
    let (code, out, err) = run(&url, &["settings", "set", key, "--yes", "--json"]).await;
    assert_eq!((code, serde_json::from_str::<Value>(&out).unwrap()["preallocated"]["machine"].clone()), (0, json!(2)), "{err}");
    assert!(!format!("{out}{err}").contains("canary-secret"), "{out}{err}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    std::fs::write(&file, "{\"history_days\": 7}").unwrap();
    let set = ["settings", "set", "--yes", "--file", file.to_str().unwrap()];
    let on_top_of = async |version: &str| run(&url, &[&set[..], &["--on-top-of", version]].concat()).await;
    assert_eq!(on_top_of("2").await.0, 0);
    std::fs::write(&file, "{\"history_days\": 0}").unwrap();
    let (code, _, err) = on_top_of("3").await;
    assert_eq!((code, err.contains("history_days")), (1, true), "{err}");
    std::fs::write(&file, "{\"colour\": 1}").unwrap();
    assert!(on_top_of("3").await.2.contains("no settings that this vm-service knows"));

    let (_, out, _) = run(&url, &["settings", "history"]).await;
    let versions: Vec<&str> = out.lines().skip(1).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(versions, ["3", "2", "1"], "{out}");
    let (_, out, _) = run(&url, &["settings", "history", "1"]).await;
    assert!(out.contains("saved by operator") && out.contains("  preallocated.machine: 0 -> 2\n"), "{out}");
    let (_, out, _) = run(&url, &["settings", "history", "3"]).await;
    assert!(out.contains("since version 2") && out.contains("history_days: 90 -> 7"), "{out}");
    let (code, out, err) = run(&url, &["settings", "revert", "2", "--yes"]).await;
    assert_eq!((code, out.as_str()), (0, "Saved as version 4; in force within seconds.\n"), "{err}");
    let now = api.call(OPERATOR, "GET", "/api/v1/settings").await.json();
    assert_eq!(now, api.call(OPERATOR, "GET", "/api/v1/settings/history/2").await.json()["settings"]);
    assert!(run(&url, &["settings", "revert", "9", "--yes"]).await.2.contains("no version 9"));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_file_goes_on_top_of_the_version_that_it_was_made_of_and_no_other(pool: PgPool) {
    let api = Api::new(pool).await;
    let url = serve(&api).await;
    assert_eq!(run(&url, &["settings", "set", "history_days=7", "--yes"]).await.0, 0);
    let (_, mine, told) = run(&url, &["settings", "get"]).await;
    assert_eq!(told, "vm-service: These are version 1.\n");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    std::fs::write(&file, mine.replace("\"history_days\": 7", "\"history_days\": 8")).unwrap();
    assert_eq!(run(&url, &["settings", "set", "pause_launches=true", "--yes"]).await.0, 0);

    let set = ["settings", "set", "--yes", "--file", file.to_str().unwrap()];
    let (code, _, err) = run(&url, &set).await;
    assert!(code == 1 && err.contains("--on-top-of"), "{err}");
    let (code, _, err) = run(&url, &[&set[..], &["--on-top-of", "1"]].concat()).await;
    assert!(code == 1 && err.contains("Somebody else saved settings meanwhile"), "{err}");
    assert_eq!(run(&url, &["settings", "get", "pause_launches"]).await.1, "true\n", "nobody's change is lost");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn settings_of_another_binary_are_turned_back(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let url = serve(&api).await;
    assert_eq!(run(&url, &["settings", "set", "history_days=7", "--yes"]).await.0, 0);
    sqlx::query("insert into vms.settings (body, created_at, created_by) values ('{\"colour\": 1}', now(), 'new')")
        .execute(&pool)
        .await
        .unwrap();
    let (code, _, err) = run(&url, &["settings"]).await;
    assert!(code == 1 && err.contains("Version 2") && err.contains("settings revert"), "{err}");
    let (code, out, err) = run(&url, &["settings", "revert", "1", "--yes"]).await;
    assert_eq!((code, out.as_str()), (0, "Saved as version 3; in force within seconds.\n"), "{err}");
    assert_eq!(run(&url, &["settings", "get", "history_days"]).await.1, "7\n");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn two_people_saving_the_second_is_told(pool: PgPool) {
    let api = Api::new(pool).await;
    let url = serve(&api).await;
    let (mut person, input) = tokio::io::duplex(100);
    let asked = with_input(&url, &["settings", "set", "history_days=7"], Some(Box::new(input)));
    let meanwhile = async {
        eventually(async || api.logs.text().contains("/api/v1/settings")).await;
        assert_eq!(run(&url, &["settings", "set", "history_days=8", "--yes"]).await.0, 0);
        person.write_all(b"yes\n").await.unwrap();
    };
    let ((code, out, err), ()) = tokio::join!(asked, meanwhile);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("Somebody else saved settings meanwhile, and nothing of yours was saved"), "{err}");
    assert_eq!(run(&url, &["settings", "get", "history_days"]).await.1, "8\n");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_audit_log_is_read_exported_and_verified(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let url = serve(&api).await;
    for n in 1..=3 {
        api.put(CI, &task_path(n), &machine()).await;
    }
    api.call(CI, "GET", "/api/v1/vms").await.problem(403);
    api.db().seal_audit(500).await.unwrap();
    let (code, out, err) = run(&url, &["audit", "--actor", "ci", "--action", "task.create"]).await;
    assert_eq!((code, err.as_str(), out.lines().count()), (0, "", 4), "{out}");
    let row: Vec<&str> = out.lines().last().unwrap().split_whitespace().skip(1).collect();
    let id = Uuid::from_u128(1).to_string();
    assert_eq!(row, ["principal", "ci", "task.create", "task", &id, "yes", "-"]);
    assert!(run(&url, &["audit", "--denied"]).await.1.contains("no 403"));
    let (_, out, _) = run(&url, &["audit", "--format", "csv"]).await;
    assert_eq!((out.lines().count(), out.starts_with("id,version,action,")), (5, true), "{out}");
    let (_, out, _) = run(&url, &["audit", "--format", "jsonl", "--target", &id]).await;
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["target"]["id"], id);
    let (_, out, _) = run(&url, &["audit", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap().as_array().unwrap().len(), 4);
    let (code, out, _) = run(&url, &["audit", "verify"]).await;
    assert_eq!((code, out.starts_with("The chain holds: 4 links; the last is ")), (0, true), "{out}");
    assert!(run(&url, &["audit", "verify", "--after", "3"]).await.1.starts_with("The chain holds: 1 links; the last is "));
    for sql in ["alter table vms.audit disable trigger user", "update vms.audit set success = false where link = 2"] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    let (code, out, err) = run(&url, &["audit", "verify"]).await;
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("The audit log was edited: at link 2, event ") && err.contains("this row was changed"), "{err}");
    let (code, out, _) = run(&url, &["audit", "verify", "--json"]).await;
    let check: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &check["holds"], &check["broken"]["link"]), (3, &json!(false), &json!(2)), "{out}");
    assert_eq!(run("http://127.0.0.1:1", &["audit", "verify"]).await.0, 1, "it cannot tell");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn events_are_followed_over_breaks_each_once(pool: PgPool) {
    let api = Api::with_limits(pool, Limits { stream: Duration::from_millis(300), ..Limits::default() }).await;
    let url = serve(&api).await;
    api.put(CI, &task_path(1), &machine()).await;
    let (out, following) = begin(&url, &["events", "--follow", "--json"]);
    eventually(async || api.logs.text().contains("/api/v1/events")).await;
    // The first is told; the second falls into the pause after the first connection, whose end nobody is told of.
    for n in 2..=4 {
        api.put(CI, &task_path(n), &machine()).await;
        if n == 2 {
            eventually(async || out.text().lines().count() == 2).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    }
    eventually(async || out.text().lines().count() >= 6).await;
    following.abort();
    let events: Vec<Value> = out.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<String> =
        events.iter().map(|e| format!("{} {}", e["kind"].as_str().unwrap(), &e["task_id"].as_str().unwrap()[35..])).collect();
    assert_eq!(told, ["task.created 2", "task.queued 2", "task.created 3", "task.queued 3", "task.created 4", "task.queued 4"]);
    let (_, out, _) = run(&url, &["events", "--task", &Uuid::from_u128(1).to_string()]).await;
    assert_eq!(out.lines().count(), 3, "{out}");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn why_says_what_a_task_waits_for_and_where_its_seconds_went(pool: PgPool) {
    let api = Api::new(pool).await;
    let url = serve(&api).await;
    let id = Uuid::from_u128(1).to_string();
    api.put(CI, &task_path(1), &machine()).await;
    let reason = vec![(TaskId(Uuid::from_u128(1)), "A VM is starting.".to_owned())];
    api.db().note_waits(&reason, vm_service::clock::Clock::now(&api.clock)).await.unwrap();
    let (code, out, err) = run(&url, &["why", &id]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("now    A VM is starting.\n") && out.contains("waited for a VM"), "{out}");
    api.call(CI, "DELETE", &task_path(1)).await;

    api.available_vm(Executor::Machine).await;
    api.put(CI, &task_path(2), &machine()).await;
    api.clock.advance(chrono::TimeDelta::seconds(30));
    api.call(CI, "DELETE", &task_path(2)).await;
    let (_, out, _) = run(&url, &["why", &Uuid::from_u128(2).to_string()]).await;
    let job = out.lines().find(|line| line.starts_with("job")).unwrap_or_else(|| panic!("{out}"));
    assert!(job.contains("30.000 s") && job.contains("100 %"), "{out}");
    let (_, out, _) = run(&url, &["why", "--json", &Uuid::from_u128(2).to_string()]).await;
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["phases"][2], json!({ "phase": "job", "seconds": 30.0 }));
    assert!(run(&url, &["why", &Uuid::from_u128(9).to_string()]).await.2.contains("(404)"));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_watched_list_tells_each_change_once_where_there_is_no_terminal(pool: PgPool) {
    let api = Api::new(pool).await;
    let url = serve(&api).await;
    api.put(CI, &task_path(1), &machine()).await;
    let (out, watching) = begin(&url, &["tasks", "--watch"]);
    eventually(async || out.text().contains("queued")).await;
    api.call(CI, "DELETE", &task_path(1)).await;
    eventually(async || out.text().contains("cancelled")).await;
    watching.abort();
    assert_eq!(out.text().lines().count(), 2, "{}", out.text());
    let (code, _, err) = run(&url, &["tasks", "--watch", "show", &Uuid::from_u128(1).to_string()]).await;
    assert_eq!((code, err.contains("--watch goes with the list")), (1, true), "{err}");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_watched_task_is_followed_when_newer_ones_fill_the_list(pool: PgPool) {
    let api = Api::new(pool).await;
    let url = serve(&api).await;
    api.put(CI, &task_path(1), &machine()).await;
    let (out, watching) = begin(&url, &["tasks", "--watch"]);
    eventually(async || out.text().contains("queued")).await;
    for n in 2..=201 {
        api.clock.advance(chrono::TimeDelta::milliseconds(1));
        assert_eq!(api.put(CI, &task_path(n), &machine()).await.status, 201);
    }
    eventually(async || out.text().contains(&Uuid::from_u128(201).to_string())).await;
    api.call(CI, "DELETE", &task_path(1)).await;
    eventually(async || out.text().contains("cancelled")).await;
    watching.abort();
    assert_eq!(out.text().matches(&Uuid::from_u128(1).to_string()).count(), 2, "{}", out.text());
}
