//! The settings page over HTTP, without a script: shown, checked, saved, overtaken, gone back. The forms are read out of the pages, as a
//! browser reads them.

use crate::api_support::{Api, OPERATOR, Reply, VIEWER};
use crate::settings_browser::{Browser, fields, with};
use crate::support::Bench;
use serde_json::json;
use sqlx::PgPool;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;
use vm_service::db::settings::Versioned;
use vm_service::domain::settings::Settings;
use vm_service::loops::checks::CheckSettings;
use vm_service::loops::settings::TakeSettings;
use vm_service::loops::{Loop as _, Providers};

const SETTINGS: &str = "/console/settings";

async fn scene(pool: &PgPool) -> (Api, Bench) {
    (Api::new(pool.clone()).await, Bench::new(pool.clone()).await)
}

async fn carry_out(bench: &Bench) {
    bench.tick(&CheckSettings { world: bench.world.clone(), open: Arc::new(|_| None) }).await;
}

/// Fills the form in and asks for a check of it; the path of the check.
async fn check(browser: &Browser<'_>, page: &Reply, changes: &[(&str, &str)]) -> String {
    let form = with(fields(&page.text, "settings"), changes);
    let sent = browser.send(SETTINGS, &with(form, &[("do", "check")])).await;
    assert_eq!(sent.status, 303, "{}", sent.text);
    sent.header("location").to_owned()
}

async fn in_force(api: &Api) -> (String, serde_json::Value) {
    let reply = api.call(OPERATOR, "GET", "/api/v1/settings").await;
    (reply.header("etag").to_owned(), reply.json())
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_change_is_checked_saved_and_in_force_in_every_process(pool: PgPool) {
    let (api, bench) = scene(&pool).await;
    let browser = Browser::sign_in(&api, OPERATOR).await;
    let page = browser.get(SETTINGS).await;
    assert_eq!(page.status, 200);
    let first = |text: &str| page.text.find(text).unwrap_or_else(|| panic!("{text} is missing"));
    assert!(first("id=\"preallocated-machine\"") < first("id=\"provider\""), "preallocation comes first");
    assert!(page.text.contains("Timeout for waiting for ssh to connect to VM") && page.text.contains("Default: 180000 ms"));

    let ids: Vec<&str> = page.text.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let distinct: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), distinct.len(), "an id is there twice: {ids:?}");

    let changes = [("provider", "on_host"), ("preallocated.machine", "2"), ("resource_classes[1].price_per_hour", "0.1")];
    let path = check(&browser, &page, &changes).await;
    let running = browser.get(&path).await;
    assert_eq!((running.status, running.header("refresh")), (200, "1"), "a page without a script follows");
    assert!(running.text.contains("data-state=\"queued\"") && !running.text.contains("id=\"save\""));
    let early = browser.send(&format!("{path}/save"), &fields(&page.text, "settings")).await;
    assert_eq!(early.status, 409);
    carry_out(&bench).await;
    let done = browser.get(&path).await;
    assert_eq!(done.header("refresh"), "");
    for told in ["data-state=\"done\"", "<code>preallocated.machine</code>", "data-starts>2<", "146.00 a month", "trial launch"] {
        assert!(done.text.contains(told), "{told}: {}", done.text);
    }
    assert_eq!(in_force(&api).await.0, "\"0\"", "nothing is saved by a check");

    let takers: Vec<_> = (0..2).map(|_| taker(&bench)).collect();
    let saved = browser.send(&format!("{path}/save"), &fields(&done.text, "/save")).await;
    assert_eq!((saved.status, saved.header("location")), (303, "/console/settings?done=saved"));
    assert!(browser.get("/console/settings?done=saved").await.text.contains("The settings are saved"));
    for (taker, follow) in &takers {
        taker.tick(bench.now(), 0).await.unwrap();
        assert_eq!((follow.borrow().version, follow.borrow().settings.preallocated.machine), (1, 2));
    }
    assert_eq!(in_force(&api).await.1["resource_classes"]["medium"]["price_per_hour"], json!(0.1));
    assert!(browser.get(&path).await.text.contains("These settings are in force, as version 1"));
}

/// A process that takes the newest settings over.
fn taker(bench: &Bench) -> (TakeSettings, watch::Receiver<Versioned>) {
    let (settings, follow) = watch::channel(Versioned { version: 0, settings: Settings::default() });
    let taker = TakeSettings {
        db: bench.db.clone(),
        providers: Providers::new(vec![Arc::new(bench.sim.clone())]),
        open: Arc::new(|_| None),
        sealer: bench.world.sealer.clone(),
        settings,
        problem: watch::channel(None).0,
    };
    (taker, follow)
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_is_wrong_is_shown_at_its_field_and_what_was_typed_stays(pool: PgPool) {
    let (api, _bench) = scene(&pool).await;
    let browser = Browser::sign_in(&api, OPERATOR).await;
    let page = browser.get(SETTINGS).await;
    let typed = [("preallocated.machine", "many"), ("timeouts.task_hours", "12"), ("do", "check")];
    let again = browser.send(SETTINGS, &with(fields(&page.text, "settings"), &typed)).await;
    assert_eq!(again.status, 422);
    for told in ["id=\"preallocated-machine-error-1\"", "value=\"many\"", "href=\"#preallocated-machine\"", "is not a whole number"]
    {
        assert!(again.text.contains(told), "{told}");
    }
    assert!(fields(&again.text, "settings").contains(&("timeouts.task_hours".to_owned(), "12".to_owned())));
    assert_eq!(in_force(&api).await.0, "\"0\"");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn rows_come_and_go_and_the_week_follows_what_is_typed(pool: PgPool) {
    let (api, _bench) = scene(&pool).await;
    let browser = Browser::sign_in(&api, OPERATOR).await;
    let page = browser.get(SETTINGS).await;
    let press =
        async |page: &Reply, changes: &[(&str, &str)]| browser.send(SETTINGS, &with(fields(&page.text, "settings"), changes)).await;
    let added = press(&page, &[("do", "add:preallocated.schedules"), ("history_days", "30")]).await;
    assert_eq!(added.status, 200);
    assert!(fields(&added.text, "settings").contains(&("preallocated.schedules[0].cron".to_owned(), "0 8 * * 1-5".to_owned())));
    assert!(fields(&added.text, "settings").contains(&("history_days".to_owned(), "30".to_owned())), "nothing typed is lost");
    let shown = press(&added, &[("do", "preview"), ("preallocated.schedules[0].count", "5")]).await;
    assert!(shown.text.contains("data-pool=\"Machine Executor, medium\"") && shown.text.contains("5 at most"), "{}", shown.text);
    // From Monday 14:13 UTC on the schedule of eight o'clock has held already.
    assert!(shown.text.contains("<path class=\"kept\" d=\"M0 40L0 2H700V40Z\">"), "{}", shown.text);
    let removed = press(&shown, &[("do", "remove:preallocated.schedules[0]")]).await;
    assert!(!removed.text.contains("preallocated.schedules[0]"));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn who_was_overtaken_is_told_by_whom_and_loses_nothing(pool: PgPool) {
    let (api, bench) = scene(&pool).await;
    let (mine, theirs) = (Browser::sign_in(&api, OPERATOR).await, Browser::sign_in_as(&api, "anna").await);
    let (page, other) = (mine.get(SETTINGS).await, theirs.get(SETTINGS).await);
    let path = check(&mine, &page, &[("preallocated.machine", "2"), ("history_days", "30")]).await;
    let first = check(&theirs, &other, &[("preallocated.remote_docker", "4"), ("history_days", "60")]).await;
    carry_out(&bench).await;
    let before = mine.get(&path).await;
    let done = theirs.get(&first).await;
    assert_eq!(theirs.send(&format!("{first}/save"), &fields(&done.text, "/save")).await.status, 303);

    // The page was loaded before; the save meets a newer version.
    let late = mine.send(&format!("{path}/save"), &fields(&before.text, "/save")).await;
    assert_eq!((late.status, late.header("location")), (303, path.as_str()));
    let told = mine.get(&path).await;
    for text in [
        "id=\"conflict\"",
        "<strong id=\"overtaken-by\">anna</strong> saved version 1",
        "<code>preallocated.remote_docker</code>",
        "<code>history_days</code>: yours is kept",
    ] {
        assert!(told.text.contains(text), "{text}: {}", told.text);
    }
    assert!(!told.text.contains("id=\"save\""));
    assert_eq!(in_force(&api).await.1["preallocated"]["machine"], 0);

    let again = mine.send(&format!("{path}/rebase"), &fields(&told.text, "/rebase")).await;
    let path = again.header("location").to_owned();
    carry_out(&bench).await;
    let done = mine.get(&path).await;
    assert!(done.text.contains("on top of version 1"), "{}", done.text);
    assert_eq!(mine.send(&format!("{path}/save"), &fields(&done.text, "/save")).await.status, 303);
    let (version, settings) = in_force(&api).await;
    assert_eq!(version, "\"2\"");
    let kept = (&settings["preallocated"]["machine"], &settings["preallocated"]["remote_docker"], &settings["history_days"]);
    assert_eq!(kept, (&json!(2), &json!(4), &json!(30)), "both changes are in, and mine where both are");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_form_whose_version_is_gone_is_shown_again_and_never_put_on_another(pool: PgPool) {
    let (api, bench) = scene(&pool).await;
    let browser = Browser::sign_in(&api, OPERATOR).await;
    api.db().insert_settings(0, &Settings::default(), bench.now(), "anna").await.unwrap();
    let typed = [("version", "7"), ("history_days", "30"), ("do", "check")];
    let again = browser.send(SETTINGS, &with(fields(&browser.get(SETTINGS).await.text, "settings"), &typed)).await;
    assert!(again.status == 412 && again.text.contains("began with is gone"), "{}", again.text);
    let form = fields(&again.text, "settings");
    assert!(
        [("version", "1"), ("history_days", "30")].iter().all(|(name, text)| form.contains(&(name.to_string(), text.to_string())))
    );
    let json = "/console/settings/json";
    let typed = [("version", "7"), ("json", "{\"history_days\": 30}")];
    let again = browser.send(json, &with(fields(&browser.get(json).await.text, "settings"), &typed)).await;
    assert!(again.status == 422 && again.text.contains("began with is gone") && again.text.contains("30}"), "{}", again.text);
    assert_eq!(bench.count("select count(*) from vms.settings_checks").await, 0);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_was_typed_outlives_its_session_and_a_database_that_is_away(pool: PgPool) {
    let (api, _bench) = scene(&pool).await;
    let browser = Browser::sign_in(&api, OPERATOR).await;
    let proxies = "a.example,\nb \"quoted\" <c>";
    let typed = [("history_days", "30"), ("guest.no_proxy", proxies), ("ec2.authentication.secret", "canary"), ("do", "check")];
    let form = with(fields(&browser.get(SETTINGS).await.text, "settings"), &typed);
    sqlx::query("delete from vms.sessions").execute(&pool).await.unwrap();
    let told = browser.send(SETTINGS, &form).await;
    assert!(told.status == 401 && told.text.contains("id=\"sign-in-beside\"") && !told.text.contains("canary"), "{told:?}");
    let kept = fields(&told.text, "kept");
    // The sign-in in another tab gave the browser another session.
    let browser = Browser::sign_in(&api, OPERATOR).await;
    let told = browser.send(SETTINGS, &with(kept, &[("do", "preview")])).await;
    assert!(told.status == 403 && !told.text.contains("id=\"sign-in-beside\""), "{told:?}");
    let again = browser.send(SETTINGS, &with(fields(&told.text, "kept"), &[("do", "preview")])).await;
    let form = fields(&again.text, "settings");
    for (name, text) in [("history_days", "30"), ("guest.no_proxy", proxies)] {
        assert!(form.contains(&(name.to_owned(), text.to_owned())), "{name}: {form:?}");
    }
    let json = "/console/settings/json";
    let form = with(fields(&browser.get(json).await.text, "settings"), &[("json", "{\"history_days\": 30}")]);
    api.db().pool.close().await;
    let told = browser.send(json, &form).await;
    assert_eq!((told.status, fields(&told.text, "kept")), (503, form), "{}", told.text);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_typed_secret_stays_with_the_form_and_with_its_key(pool: PgPool) {
    let (api, bench) = scene(&pool).await;
    let browser = Browser::sign_in(&api, OPERATOR).await;
    let key = |id: &str, secret: &str| {
        [("ec2.authentication", "access_key"), ("ec2.authentication.id", id), ("ec2.authentication.secret", secret)]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
    };
    let typed = |form: Vec<(String, String)>, id: &str, secret: &str| {
        let changes = key(id, secret);
        let changes: Vec<(&str, &str)> = changes.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        with(form, &changes)
    };
    // Shown again twice, for the week and for a mistake, before it is checked.
    let form = typed(fields(&browser.get(SETTINGS).await.text, "settings"), "AKIAIOSFODNN7EXAMPLE", "canary");
    let week = browser.send(SETTINGS, &with(form, &[("do", "preview")])).await;
    let wrong = with(fields(&week.text, "settings"), &[("history_days", "0"), ("do", "check")]);
    let wrong = browser.send(SETTINGS, &wrong).await;
    assert!(wrong.status == 422 && !week.text.contains("canary") && !wrong.text.contains("canary"));
    let path = browser.send(SETTINGS, &with(fields(&wrong.text, "settings"), &[("history_days", "30"), ("do", "check")])).await;
    let path = path.header("location").to_owned();
    carry_out(&bench).await;
    let done = browser.get(&path).await;
    assert_eq!(browser.send(&format!("{path}/save"), &fields(&done.text, "/save")).await.status, 303);
    let sealed = in_force(&api).await.1["ec2"]["authentication"]["access_key"]["sealed"].as_str().unwrap().to_owned();
    let sealed = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, sealed).unwrap();
    assert_eq!(api.state.sealer.open(vm_service::seal::settings_row(), &sealed).unwrap().as_slice(), b"canary");
    // Another key does not take its secret over.
    let (version, mut saved) = in_force(&api).await;
    let other = typed(fields(&browser.get(SETTINGS).await.text, "settings"), "AKIAI44QH8DHBEXAMPLE", "");
    let refused = browser.send(SETTINGS, &with(other, &[("do", "check")])).await;
    assert!(refused.status == 422 && refused.text.contains("needs the secret half"), "{}", refused.text);
    saved["ec2"]["authentication"]["access_key"]["id"] = "AKIAI44QH8DHBEXAMPLE".into();
    let put =
        Api::request(OPERATOR, "PUT", "/api/v1/settings").header("if-match", version).header("content-type", "application/json");
    let refused = api.send(put.body(axum::body::Body::from(saved.to_string())).unwrap()).await.problem(422);
    assert!(refused.contains("secret half"), "{refused}");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn every_version_has_who_and_when_and_a_way_back(pool: PgPool) {
    let (api, bench) = scene(&pool).await;
    let browser = Browser::sign_in(&api, OPERATOR).await;
    for days in ["30", "40"] {
        let path = check(&browser, &browser.get(SETTINGS).await, &[("history_days", days)]).await;
        carry_out(&bench).await;
        let done = browser.get(&path).await;
        assert_eq!(browser.send(&format!("{path}/save"), &fields(&done.text, "/save")).await.status, 303);
    }
    let list = browser.get("/console/settings/history").await;
    assert!(list.text.contains("data-version=\"1\"") && list.text.contains("data-version=\"2\""), "{}", list.text);
    let first = browser.get("/console/settings/history/1").await;
    assert!(first.text.contains("Saved by operator") && first.text.contains("id=\"return\""), "{}", first.text);
    let sent = browser.send("/console/settings/history/1/return", &fields(&first.text, "/return")).await;
    let path = sent.header("location").to_owned();
    carry_out(&bench).await;
    let done = browser.get(&path).await;
    assert!(
        done.text.contains("on top of version 2") && done.text.contains("<td class=\"wrap\">40</td><td class=\"wrap\">30</td>")
    );
    assert_eq!(browser.send(&format!("{path}/save"), &fields(&done.text, "/save")).await.status, 303);
    let (version, settings) = in_force(&api).await;
    assert_eq!((version.as_str(), &settings["history_days"]), ("\"3\"", &json!(30)));
    assert_eq!(browser.get("/console/settings/history/9").await.status, 404);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn settings_of_another_binary_are_told_and_left_for_a_version_that_can_be_read(pool: PgPool) {
    let (api, bench) = scene(&pool).await;
    let old = Settings { history_days: 30, ..Settings::default() };
    api.db().insert_settings(0, &old, bench.now(), "anna").await.unwrap();
    sqlx::query("insert into vms.settings (body, created_at, created_by) values ('{\"colour\": 1}', now(), 'new')")
        .execute(&pool)
        .await
        .unwrap();
    let browser = Browser::sign_in(&api, OPERATOR).await;
    let told = browser.get(SETTINGS).await;
    assert!(told.status == 409 && told.text.contains("/console/settings/history"), "{told:?}");
    assert!(browser.get("/console/settings/history").await.text.contains("Version 2</a> <small>in force"));
    let first = browser.get("/console/settings/history/1").await;
    assert!(first.text.contains("cannot be compared") && first.text.contains("id=\"return\""), "{}", first.text);
    let sent = browser.send("/console/settings/history/1/return", &fields(&first.text, "/return")).await;
    let path = sent.header("location").to_owned();
    carry_out(&bench).await;
    let done = browser.get(&path).await;
    assert_eq!(browser.send(&format!("{path}/save"), &fields(&done.text, "/save")).await.status, 303);
    let (version, settings) = in_force(&api).await;
    assert_eq!((version.as_str(), &settings["history_days"]), ("\"3\"", &json!(30)));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_viewer_sees_everything_and_changes_nothing(pool: PgPool) {
    let (api, _bench) = scene(&pool).await;
    let viewer = Browser::sign_in(&api, VIEWER).await;
    let page = viewer.get(SETTINGS).await;
    assert!(page.text.contains("<fieldset class=\"all\" disabled>") && !page.text.contains("id=\"check\""));
    let form = fields(&page.text, "settings");
    for path in [SETTINGS, "/console/settings/json", "/console/settings/history/1/return"] {
        assert_eq!(viewer.send(path, &with(form.clone(), &[("do", "check")])).await.status, 403, "{path}");
    }
    assert_eq!(viewer.get("/console/settings/history").await.status, 200);
    let json = viewer.get("/console/settings/json").await;
    assert!(json.text.contains("readonly") && !json.text.contains("id=\"check\""));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn json_is_checked_too_and_a_secret_is_never_shown(pool: PgPool) {
    let (api, bench) = scene(&pool).await;
    let browser = Browser::sign_in(&api, OPERATOR).await;
    let page = browser.get("/console/settings/json").await;
    let send =
        async |json: &str| browser.send("/console/settings/json", &with(fields(&page.text, "settings"), &[("json", json)])).await;
    for (json, told) in [("{", "cannot be read"), ("{\"history_days\": 0}", "history_days"), ("{\"colour\": 1}", "unknown field")] {
        let refused = send(json).await;
        assert_eq!(refused.status, 422, "{json}");
        assert!(refused.text.contains(told), "{told}: {}", refused.text);
    }
    let typed = [
        ("ec2.authentication", "access_key"),
        ("ec2.authentication.id", "AKIAIOSFODNN7EXAMPLE"),
        ("ec2.authentication.secret", "canary"),
    ];
    let path = check(&browser, &browser.get(SETTINGS).await, &typed).await;
    carry_out(&bench).await;
    let done = browser.get(&path).await;
    assert!(done.text.contains("[secret]") && !done.text.contains("canary"), "{}", done.text);
    assert_eq!(browser.send(&format!("{path}/save"), &fields(&done.text, "/save")).await.status, 303);
    let sealed = in_force(&api).await.1["ec2"]["authentication"]["access_key"]["sealed"].clone();
    // Saved once more without the secret, the key stays as it is.
    let page = browser.get(SETTINGS).await;
    assert!(!page.text.contains("canary"));
    let path = check(&browser, &page, &[("history_days", "30")]).await;
    carry_out(&bench).await;
    let done = browser.get(&path).await;
    assert_eq!(browser.send(&format!("{path}/save"), &fields(&done.text, "/save")).await.status, 303);
    assert_eq!(in_force(&api).await.1["ec2"]["authentication"]["access_key"]["sealed"], sealed);
    assert!(!api.logs.text().contains("canary"));
}
