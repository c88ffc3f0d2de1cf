//! Checks of settings over the API and the loop that carries them out: what the provider says, what a save would change, one result
//! before the deadline, whoever is killed meanwhile.

use crate::api_support::{Api, OPERATOR, Reply, VIEWER};
use crate::support::Bench;
use axum::body::Body;
use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::sync::Arc;
use vm_service::db::DbError;
use vm_service::domain::settings_check::{CheckResult, Effect};
use vm_service::loops::checks::CheckSettings;
use vm_service::loops::history::History;
use vm_service::loops::{Loop, Providers, World};
use vm_service::sim::Fault;

const CHECKS: &str = "/api/v1/settings/checks";

/// The API and the loops over one database.
struct Scene {
    api: Api,
    bench: Bench,
}

impl Scene {
    async fn new(pool: PgPool) -> Self {
        Self { api: Api::new(pool.clone()).await, bench: Bench::new(pool).await }
    }

    fn checker(&self) -> CheckSettings {
        checker(self.bench.world.clone())
    }

    fn advance(&self, by: TimeDelta) {
        self.api.clock.advance(by);
        self.bench.clock.advance(by);
    }

    async fn ask(&self, body: &Value) -> Reply {
        self.api.with_body(OPERATOR, "POST", CHECKS, &body.to_string()).await
    }

    /// Asks for a check, carries it out, and says what came of it.
    async fn check(&self, body: &Value) -> Value {
        let asked = self.ask(body).await;
        assert_eq!(asked.status, 201, "{asked:?}");
        self.bench.tick(&self.checker()).await;
        self.look(&asked).await
    }

    async fn look(&self, asked: &Reply) -> Value {
        let seen = self.api.call(VIEWER, "GET", asked.header("location")).await;
        assert_eq!(seen.status, 200, "{seen:?}");
        seen.json()
    }
}

fn checker(world: World) -> CheckSettings {
    CheckSettings { world, open: Arc::new(|_| None) }
}

fn two_machines() -> Value {
    json!({ "provider": "on_host", "preallocated": { "machine": 2 } })
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_check_says_what_a_save_would_change_and_changes_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let asked = scene.ask(&two_machines()).await;
    let queued = asked.json();
    assert_eq!((asked.status, &queued["state"], &queued["version"]), (201, &json!("queued"), &json!(0)));
    assert_eq!(queued.get("result"), None);
    scene.bench.tick(&scene.checker()).await;
    let done = scene.api.call(VIEWER, "GET", &format!("{}?wait=60", asked.header("location"))).await.json();
    assert_eq!(done["state"], "done");
    assert_eq!(
        done["changes"],
        json!([
            { "path": "preallocated.machine", "old": 0, "new": 2 },
            { "path": "provider", "old": "none", "new": "on_host" },
        ])
    );
    assert_eq!(
        done["result"],
        json!({
            "findings": [{ "severity": "fine", "what": "trial launch", "detail": "allowed" }],
            "effect": {
                "pools": [{
                    "executor": "machine", "resource_class": "medium", "kept_before": 0, "kept_after": 2, "free": 0, "starts": 2, "ends": 0,
                    "replaced": 0,
                }],
                "cost": null,
            },
        })
    );
    scene.bench.turn(3).await;
    assert_eq!((scene.bench.states().await.as_str(), scene.bench.sim.calls("launch")), ("", 0));
    assert_eq!(scene.bench.sim.calls("check"), 1, "once");
    assert_eq!(scene.api.call(VIEWER, "GET", "/api/v1/settings").await.header("etag"), "\"0\"");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_the_provider_refuses_is_told(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.bench.sim.inject(Fault::Refuse("UnauthorizedOperation: may not run instances".to_owned()));
    let finding = |view: &Value| view["result"]["findings"][0].clone();
    let denied = scene.check(&two_machines()).await;
    assert_eq!(
        finding(&denied),
        json!({ "severity": "problem", "what": "trial launch", "detail": "refused: UnauthorizedOperation: may not run instances" })
    );
    assert_eq!(denied["result"]["effect"]["pools"][0]["starts"], 2, "what would change is told all the same");
    assert_eq!(finding(&scene.check(&two_machines()).await)["severity"], "fine", "another check is another look");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_provider_that_throttles_is_asked_again_while_there_is_time(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.bench.sim.inject(Fault::Throttle);
    let asked = scene.ask(&two_machines()).await;
    let turn = async |seconds| {
        scene.advance(TimeDelta::seconds(seconds));
        scene.bench.tick(&scene.checker()).await;
        scene.look(&asked).await
    };
    assert_eq!(turn(0).await["state"], "running");
    assert_eq!((turn(1).await["state"].clone(), scene.bench.sim.calls("check")), (json!("running"), 1), "it rests");
    let done = turn(1).await;
    assert_eq!((&done["state"], &done["result"]["findings"][0]["severity"]), (&json!("done"), &json!("fine")), "{done}");

    // To the end of its time.
    let asked = scene.ask(&two_machines()).await;
    let mut seconds = 0;
    let view = loop {
        scene.bench.sim.inject(Fault::Throttle);
        scene.bench.tick(&scene.checker()).await;
        let view = scene.look(&asked).await;
        if view["state"] != "running" {
            break view;
        }
        scene.advance(TimeDelta::seconds(1));
        seconds += 1;
    };
    assert_eq!(
        (&view["result"]["findings"][0], seconds, scene.bench.sim.calls("check")),
        (&json!({ "severity": "warning", "what": "trial launch", "detail": "not checked: throttled" }), 46, 2 + 6)
    );
    assert_eq!(view["result"]["effect"]["pools"][0]["starts"], 2, "what would change is told all the same");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn limits_below_what_is_there_are_told(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.bench.set(|settings| settings.preallocated.machine = 3).await;
    scene.bench.turn_until_states("available 3", 5).await;
    let view = scene.check(&json!({ "provider": "on_host", "preallocated": { "machine": 1 }, "limits": { "vms": 2 } })).await;
    let findings = view["result"]["findings"].as_array().unwrap();
    let warned: Vec<_> = findings.iter().filter(|finding| finding["severity"] == "warning").collect();
    assert_eq!(warned.len(), 1, "{view}");
    assert_eq!(warned[0]["what"], "limits.vms");
    let pool = &view["result"]["effect"]["pools"][0];
    assert_eq!((&pool["kept_before"], &pool["kept_after"], &pool["ends"]), (&json!(3), &json!(1), &json!(2)));
    let view = scene.check(&json!({ "provider": "on_host", "preallocated": { "machine": 5 }, "limits": { "vms": 4 } })).await;
    assert_eq!(view["result"]["effect"]["pools"][0]["starts"], 1, "the proposed limits leave one: {view}");
    assert_eq!(scene.bench.states().await, "available 3");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_check_whose_worker_is_killed_is_taken_over_and_has_one_result(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let asked = scene.ask(&two_machines()).await;
    let first = scene.bench.db.lease_settings_checks(scene.bench.now(), 10).await.unwrap().remove(0);
    assert_eq!(scene.look(&asked).await["state"], "running");
    scene.advance(TimeDelta::seconds(5));
    assert_eq!(scene.checker().tick(scene.bench.now(), 10).await.unwrap().len(), 0, "it is somebody's");
    scene.advance(TimeDelta::seconds(5));
    scene.bench.tick(&scene.checker()).await;
    let done = scene.look(&asked).await;
    assert_eq!((&done["state"], done["result"]["findings"].as_array().unwrap().len()), (&json!("done"), 1));
    let late = CheckResult { findings: Vec::new(), effect: Effect::default() };
    let refused = scene.bench.db.finish_settings_check(&first, &late, scene.bench.now()).await;
    assert!(matches!(refused, Err(DbError::LostLease)), "{refused:?}");
    assert_eq!(scene.look(&asked).await, done);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn after_its_deadline_a_check_has_no_result_any_more(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let asked = scene.ask(&two_machines()).await;
    scene.advance(TimeDelta::seconds(55));
    let late = scene.bench.db.lease_settings_checks(scene.bench.now(), 10).await.unwrap().remove(0);
    scene.advance(TimeDelta::seconds(5));
    let result = CheckResult { findings: Vec::new(), effect: Effect::default() };
    let refused = scene.bench.db.finish_settings_check(&late, &result, scene.bench.now()).await;
    assert!(matches!(refused, Err(DbError::LostLease)), "{refused:?}");
    scene.advance(TimeDelta::seconds(10));
    scene.bench.tick(&scene.checker()).await;
    let expired = scene.look(&asked).await;
    assert_eq!((&expired["state"], expired.get("result")), (&json!("expired"), None));
    assert_eq!(scene.bench.sim.calls("check"), 0, "nobody looks for nothing");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_process_without_the_provider_leaves_a_check_to_one_that_has_it(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let without = checker(World { providers: Providers::new(Vec::new()), ..scene.bench.world.clone() });
    let asked = scene.ask(&two_machines()).await;
    scene.bench.tick(&without).await;
    assert_eq!(scene.look(&asked).await["state"], "running");
    scene.advance(TimeDelta::seconds(1));
    scene.bench.tick(&scene.checker()).await;
    assert_eq!(scene.look(&asked).await["result"]["findings"][0]["severity"], "fine");
    let asked = scene.ask(&json!({ "provider": "ec2" })).await;
    for _ in 0..6 {
        scene.bench.tick(&without).await;
        scene.advance(TimeDelta::seconds(1));
    }
    let told = scene.look(&asked).await["result"]["findings"][0].clone();
    assert_eq!((&told["severity"], &told["detail"]), (&json!("problem"), &json!("Set ec2.region: no region is named.")));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_check_of_another_binary_holds_up_no_other_and_is_left_to_it(pool: PgPool) {
    let scene = Scene::new(pool.clone()).await;
    let theirs = scene.ask(&two_machines()).await;
    assert_eq!(theirs.status, 201);
    sqlx::query("update vms.settings_checks set body = '{\"colour\": 1}'").execute(&pool).await.unwrap();
    assert_eq!(scene.check(&two_machines()).await["state"], "done");
    let free =
        "select count(*) from vms.settings_checks where body -> 'colour' is not null and lease_until is null and result is null";
    assert_eq!(scene.bench.count(free).await, 1);
    let told = scene.api.call(VIEWER, "GET", theirs.header("location")).await.problem(409);
    assert!(told.contains("another vm-service") && told.contains("check the settings again"), "{told}");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_check_is_made_on_top_of_what_was_seen_and_keeps_no_plain_secret(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let key = json!({ "access_key": { "id": "AKIAIOSFODNN7EXAMPLE", "secret": "canary-secret" } });
    let asked = scene.ask(&json!({ "ec2": { "authentication": key } })).await;
    assert_eq!(asked.status, 201);
    let kept: String = sqlx::query_scalar("select string_agg(c::text, '') from vms.settings_checks c")
        .fetch_one(&scene.bench.db.pool)
        .await
        .unwrap();
    assert!(kept.contains("sealed") && !kept.contains("canary"), "{kept}");
    let shown = scene.look(&asked).await.to_string();
    assert!(shown.contains("[secret]") && !shown.contains("canary"), "{shown}");
    let stale = Api::request(OPERATOR, "POST", CHECKS).header("content-type", "application/json").header("if-match", "\"7\"");
    scene.api.send(stale.body(Body::from("{}")).unwrap()).await.problem(412);
    scene.ask(&json!({ "history_days": 0 })).await.problem(422);
    scene.api.call(VIEWER, "GET", &format!("{CHECKS}/00000000-0000-0000-0000-000000000001")).await.problem(404);
    scene.api.call(VIEWER, "GET", &format!("{}?wait=61", asked.header("location"))).await.problem(400);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn checks_are_forgotten_after_a_day(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.ask(&two_machines()).await;
    let left = "select count(*) from vms.settings_checks";
    scene.advance(TimeDelta::hours(23));
    scene.bench.tick(&History(scene.bench.world.clone())).await;
    assert_eq!(scene.bench.count(left).await, 1);
    scene.advance(TimeDelta::hours(1));
    scene.bench.tick(&History(scene.bench.world.clone())).await;
    assert_eq!(scene.bench.count(left).await, 0);
}
