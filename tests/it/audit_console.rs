//! What is done in the console is in the audit log, once, as what is done over the API is: who it was, what, to what, from where, and
//! whether it was done. So is who came and who left, and what was refused; never the token that was tried.

use crate::api_support::{Api, CI, OPERATOR, Reply, VIEWER, machine, task_path};
use crate::audit::log;
use crate::console_support::{Browser, form};
use crate::settings_browser::fields;
use crate::support::Bench;
use axum::extract::connect_info::ConnectInfo;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::net::SocketAddr;
use std::sync::Arc;
use uuid::Uuid;
use vm_service::domain::task::Executor;
use vm_service::loops::checks::CheckSettings;

const FROM: &str = "192.0.2.7";

/// Sends a form from [`FROM`], and gives the answer with the id of its request.
async fn send(api: &Api, cookie: &str, path: &str, fields: &[(&str, &str)]) -> (Reply, String) {
    let (builder, body) = form(path, fields);
    let from = ConnectInfo(SocketAddr::new(FROM.parse().unwrap(), 4711));
    let reply = api.send(builder.header("cookie", cookie).extension(from).body(body).unwrap()).await;
    let id = reply.header("x-request-id").to_owned();
    (reply, id)
}

/// The same as who is signed in, with the form token of his session.
async fn act(browser: &Browser<'_>, path: &str, more: &[(&str, &str)]) -> (Reply, String) {
    let token = browser.form_token();
    let all: Vec<_> = [("form_token", token.as_str())].into_iter().chain(more.iter().copied()).collect();
    send(browser.api, &browser.cookie, path, &all).await
}

/// Everything but when, what belongs to the action alone, and which token of a principal it was: one it always is.
fn told(event: &Value) -> Value {
    let Value::Object(mut event) = event.clone() else { panic!("{event}") };
    let token = event["actor"].as_object_mut().unwrap().remove("token_id");
    assert_eq!(token.is_some(), event["actor"]["type"] == "principal", "{event:?}");
    for part in ["id", "version", "occurred_at", "payload", "scope", "link", "hash"] {
        event.remove(part);
    }
    Value::Object(event)
}

/// By a principal of this role; with its status where the event is not of the change itself.
fn event(who: (&str, &str), action: &str, target: Option<(&str, &str)>, request: (&str, &str), status: Option<u16>) -> Value {
    let (name, role) = who;
    let actor = match role {
        "" => json!({ "id": name, "type": "unknown" }),
        role => json!({ "id": name, "type": "principal", "role": role }),
    };
    let (path, id) = request;
    json!({
        "action": action,
        "success": status.is_none_or(|status| status < 400),
        "actor": actor,
        "target": target.map(|(kind, id)| json!({ "id": id, "type": kind })),
        "request": { "id": id, "method": "POST", "path": path, "ip_address": FROM },
        "metadata": status.map_or(json!({}), |status| json!({ "status": status.to_string() })),
    })
}

const BOSS: (&str, &str) = ("operator", "operator");

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn who_comes_and_goes_is_told_and_no_token(pool: PgPool) {
    let api = Api::new(pool).await;
    let enter = "/console/sign-in";
    let (wrong, first) = send(&api, "", enter, &[("token", "vms_canary-guess")]).await;
    let (dispatcher, second) = send(&api, "", enter, &[("token", CI)]).await;
    let (right, third) = send(&api, "", enter, &[("token", OPERATOR)]).await;
    assert_eq!((wrong.status, dispatcher.status, right.status), (401, 403, 303));
    let cookie = right.header("set-cookie").split(';').next().unwrap();
    let (gone, fourth) = send(&api, cookie, "/console/sign-out", &[]).await;
    let (nobody, _) = send(&api, cookie, "/console/sign-out", &[]).await;
    assert_eq!((gone.status, nobody.status), (303, 303));
    let events = log(&api).await;
    let text = serde_json::to_string(&events).unwrap();
    for secret in ["canary", CI, OPERATOR, cookie.split_once('=').unwrap().1] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    let (nobody, himself) = (("unknown", ""), Some(("principal", "operator")));
    assert_eq!(
        events.iter().map(told).collect::<Vec<_>>(),
        [
            event(nobody, "user.logged_in", None, (enter, &first), Some(401)),
            event(("ci", "dispatcher"), "user.logged_in", None, (enter, &second), Some(403)),
            event(BOSS, "user.logged_in", himself, (enter, &third), None),
            event(BOSS, "user.logged_out", himself, ("/console/sign-out", &fourth), None),
        ]
    );
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn each_change_of_a_page_is_told_once(pool: PgPool) {
    let api = Api::new(pool).await;
    let (vm, task) = (api.available_vm(Executor::RemoteDocker).await.to_string(), Uuid::from_u128(1).to_string());
    api.put(CI, &task_path(1), &machine()).await;
    let browser = Browser::new(&api, OPERATOR).await;
    let before = log(&api).await.len();
    // The form's path and fields, and what is told of it.
    type Change<'a> = (String, &'a str, (&'a str, &'a str), &'a [(&'a str, &'a str)]);
    let changes: [Change<'_>; 4] = [
        (format!("/console/tasks/{task}/release"), "task.cancel", ("task", &task), &[]),
        (format!("/console/vms/{vm}/hold"), "vm.hold", ("vm", &vm), &[("reason", "look"), ("hours", "2")]),
        (format!("/console/vms/{vm}/let-go"), "vm.unhold", ("vm", &vm), &[]),
        (format!("/console/vms/{vm}/terminate"), "vm.terminate", ("vm", &vm), &[]),
    ];
    let mut expected = Vec::new();
    for (path, action, target, form) in &changes {
        let (reply, id) = act(&browser, path, form).await;
        assert_eq!(reply.status, 303, "{path}: {reply:?}");
        expected.push(event(BOSS, action, Some(*target), (path, &id), None));
    }
    let events = log(&api).await;
    assert_eq!(events[before..].iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(events[before]["payload"]["principal"], "ci", "whose task it was");
    assert_eq!(events[before + 1]["payload"]["reason"], "look");

    // Done again it has no effect: that is told too, as over the API.
    let (path, ..) = &changes[3];
    let (again, id) = act(&browser, path, &[]).await;
    assert_eq!(again.status, 303, "{again:?}");
    let events = log(&api).await;
    assert_eq!(told(events.last().unwrap()), event(BOSS, "vm.terminate", Some(("vm", &vm)), (path, &id), Some(303)));
    assert_eq!(events.len(), before + changes.len() + 1);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_is_refused_is_told_with_who_tried_it(pool: PgPool) {
    let api = Api::new(pool).await;
    let vm = api.available_vm(Executor::Machine).await.to_string();
    let (boss, viewer) = (Browser::new(&api, OPERATOR).await, Browser::new(&api, VIEWER).await);
    let before = log(&api).await.len();
    let path = format!("/console/vms/{vm}/terminate");
    let (forbidden, first) = act(&viewer, &path, &[]).await;
    let (foreign, second) = send(&api, &boss.cookie, &path, &[("form_token", &viewer.form_token())]).await;
    let missing = format!("/console/vms/{}/terminate", Uuid::nil());
    let (nothing, third) = act(&boss, &missing, &[]).await;
    assert_eq!((forbidden.status, foreign.status, nothing.status), (403, 403, 404));
    assert_eq!(
        log(&api).await[before..].iter().map(told).collect::<Vec<_>>(),
        [
            event(("viewer", "viewer"), "vm.terminate", Some(("vm", &vm)), (&path, &first), Some(403)),
            event(BOSS, "vm.terminate", Some(("vm", &vm)), (&path, &second), Some(403)),
            event(BOSS, "vm.terminate", Some(("vm", &Uuid::nil().to_string())), (&missing, &third), Some(404)),
        ]
    );
    assert_eq!(api.call(VIEWER, "GET", &format!("/api/v1/vms/{vm}")).await.json()["state"], "available");
}

fn settings(id: &str) -> Option<(&str, &str)> {
    Some(("settings", id))
}

/// Asks for a check by a form, and has it carried out; the path of the check and the id of the request.
async fn check(browser: &Browser<'_>, bench: &Bench, path: &str, more: &[(&str, &str)]) -> (String, String) {
    let (asked, id) = act(browser, path, more).await;
    assert_eq!(asked.status, 303, "{asked:?}");
    bench.tick(&CheckSettings { world: bench.world.clone(), open: Arc::new(|_| None) }).await;
    (asked.header("location").to_owned(), id)
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_saved_version_a_return_and_a_save_that_came_too_late_are_told(pool: PgPool) {
    let (api, bench) = (Api::new(pool.clone()).await, Bench::new(pool).await);
    let browser = Browser::new(&api, OPERATOR).await;
    let before = log(&api).await.len();
    let page = browser.get("/console/settings/json").await;
    let kept: Vec<_> = fields(&page.text, "settings").into_iter().filter(|(name, _)| name == "version" || name == "seed").collect();
    let typed = async |days: &str| {
        let json = format!("{{\"history_days\": {days}}}");
        let form: Vec<_> =
            kept.iter().map(|(name, text)| (name.as_str(), text.as_str())).chain([("json", json.as_str())]).collect();
        check(&browser, &bench, "/console/settings/json", &form).await
    };
    let (mine, first) = typed("30").await;
    let (late, second) = typed("40").await;
    let save = async |path: &str| act(&browser, &format!("{path}/save"), &[]).await;
    let (saved, third) = save(&mine).await;
    let (overtaken, fourth) = save(&late).await;
    assert_eq!((saved.header("location"), overtaken.header("location")), ("/console/settings?done=saved", late.as_str()));
    let back = "/console/settings/history/1/return";
    api.db().insert_settings(1, &Default::default(), api.state.clock.now(), "somebody").await.unwrap();
    let (returned, fifth) = check(&browser, &bench, back, &[]).await;
    let (saved, sixth) = save(&returned).await;
    assert_eq!(saved.header("location"), "/console/settings?done=saved");

    let events = log(&api).await;
    let json = "/console/settings/json";
    let id = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let paths = [&mine, &late, &returned].map(|path| format!("{path}/save"));
    assert_eq!(
        events[before..].iter().map(told).collect::<Vec<_>>(),
        [
            event(BOSS, "settings.check", settings(&id(&mine)), (json, &first), None),
            event(BOSS, "settings.check", settings(&id(&late)), (json, &second), None),
            event(BOSS, "settings.update", settings("1"), (&paths[0], &third), None),
            event(BOSS, "settings.update", settings(&id(&late)), (&paths[1], &fourth), Some(412)),
            event(BOSS, "settings.check", settings(&id(&returned)), (back, &fifth), None),
            event(BOSS, "settings.update", settings("3"), (&paths[2], &sixth), None),
        ]
    );
    let changed = |at: usize, old: u32, new: u32| {
        let changes = events[before + at]["payload"]["changes"].as_array().unwrap();
        assert!(changes.contains(&json!({ "path": "history_days", "old": old, "new": new })), "{changes:?}");
    };
    changed(0, 90, 30);
    changed(2, 90, 30);
    changed(4, 90, 30);
    changed(5, 90, 30);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn however_often_somebody_comes_goes_and_checks_each_time_is_told(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let boss = Browser::new(&api, OPERATOR).await;
    // His limited events are spent.
    for n in 0..70 {
        api.call(OPERATOR, "DELETE", &format!("/api/v1/vms/{}", Uuid::from_u128(n))).await.problem(404);
    }
    let count = async |action: &str| log(&api).await.iter().filter(|event| event["action"] == action).count();
    assert!(count("vm.terminate").await < 70);
    assert_eq!(api.with_body(OPERATOR, "POST", "/api/v1/settings/checks", "{}").await.status, 201);
    assert_eq!(boss.post("/console/sign-out", &[]).await.status, 303);
    let again = Browser::new(&api, OPERATOR).await;
    let (builder, body) = form("/console/sign-in", &[("token", OPERATOR)]);
    let over = api.send(builder.header("cookie", &again.cookie).body(body).unwrap()).await;
    assert_eq!(over.status, 303, "{over:?}");
    let told = [count("settings.check").await, count("user.logged_in").await, count("user.logged_out").await];
    assert_eq!(told, [1, 3, 2], "the session that another one takes the place of ends too");

    // What cannot be told is not done.
    let mine = over.header("set-cookie").split(';').next().unwrap().to_owned();
    sqlx::query("alter table vms.audit add check (false) not valid").execute(&pool).await.unwrap();
    assert_eq!(send(&api, "", "/console/sign-in", &[("token", OPERATOR)]).await.0.status, 500);
    assert_eq!(send(&api, &mine, "/console/sign-out", &[]).await.0.status, 500);
    assert_eq!(api.with_body(OPERATOR, "POST", "/api/v1/settings/checks", "{}").await.status, 500);
    let left: Vec<i64> = sqlx::query_scalar("select count(*) from vms.sessions union all select count(*) from vms.settings_checks")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(left, [1, 1]);
}
