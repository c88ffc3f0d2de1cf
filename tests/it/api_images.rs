//! Images over the API: registered all or none, tried, promoted or refused on what was measured, retired.

use crate::api_support::{Api, OPERATOR, Reply, VIEWER, start};
use crate::support::Bench;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;
use vm_service::domain::image::JUDGED_BY;
use vm_service::loops::images::Images;
use vm_service::sim::SimImage;

/// An image's row, and its path.
async fn image(api: &Api, n: u128, more: &str) -> String {
    let sql = format!(
        "insert into vms.images (id, name, provider, place, architecture, kind, provider_id, facts, registered_at, registered_by, changed_at,
             changed_by, due_at)
         values ($1, 'guest', 'ec2', 'eu-west-1', 'x86_64', 'base', 'ami-{n}', '{{\"distribution\": \"debian-12\"}}', $2, 'op', $2, 'op', $2)"
    );
    let id = Uuid::from_u128(n);
    let at = start() + chrono::TimeDelta::seconds(i64::try_from(n).unwrap());
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).bind(at).execute(&api.db().pool).await.unwrap();
    if !more.is_empty() {
        let sql = format!("update vms.images set {more} where id = $1");
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).execute(&api.db().pool).await.unwrap();
    }
    format!("/api/v1/images/{id}")
}

/// So many boots of an image were good, and took so long, and so many failed.
async fn boots(api: &Api, n: u128, good: i32, seconds: i32, failed: i32) {
    let sql = "insert into vms.image_boots (vm_id, image_id, asked_at, ready_at, failed_at)
               select gen_random_uuid(), $1, $2, case when n <= $3 then $2 + make_interval(secs => $4) end, case when n > $3 then $2 end
               from generate_series(1, $3 + $5) as n";
    let query = sqlx::query(sql).bind(Uuid::from_u128(n)).bind(start()).bind(good).bind(f64::from(seconds)).bind(failed);
    query.execute(&api.db().pool).await.unwrap();
}

async fn post(api: &Api, path: &str, body: &Value) -> Reply {
    api.with_body(OPERATOR, "POST", path, &body.to_string()).await
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_image_is_shown_with_its_figures_beside_the_promoted_ones(pool: PgPool) {
    let api = Api::new(pool).await;
    image(&api, 1, "state = 'promoted', promoted_at = registered_at").await;
    let path = image(&api, 2, "share = 10").await;
    boots(&api, 1, 9, 20, 1).await;
    boots(&api, 2, 2, 30, 0).await;
    let at = "2026-09-21T14:13:22Z";
    let figures = |vms, ready, failed, ms| json!({ "vms": vms, "ready": ready, "failed": failed, "median_ms": ms, "p90_ms": ms, "tasks": 0, "tasks_failed": 0 });
    let shown = json!({
        "id": Uuid::from_u128(2), "name": "guest", "provider": "ec2", "place": "eu-west-1", "architecture": "x86_64", "kind": "base",
        "provider_id": "ami-2", "facts": { "distribution": "debian-12" }, "state": "candidate", "share": 10, "reason": null,
        "registered_at": at, "registered_by": "op", "changed_at": at, "changed_by": "op",
        "figures": figures(2, 2, 0, 30_000), "promoted": figures(10, 9, 1, 20_000),
    });
    assert_eq!(api.call(VIEWER, "GET", &path).await.json(), shown);
    let items = |reply: Value| reply["items"].as_array().unwrap().len();
    for (query, found) in [("", 2), ("?state=promoted", 1), ("?state=retired", 0), ("?place=eu-west-1", 2), ("?place=here", 0)] {
        assert_eq!(items(api.call(VIEWER, "GET", &format!("/api/v1/images{query}")).await.json()), found, "{query}");
    }
    let first = api.call(VIEWER, "GET", "/api/v1/images?limit=1").await.json();
    assert_eq!(first["items"][0]["id"], json!(Uuid::from_u128(2)), "newest first");
    let next = format!("/api/v1/images?limit=1&cursor={}", first["next_cursor"].as_str().unwrap());
    assert_eq!(api.call(VIEWER, "GET", &next).await.json()["items"][0]["id"], json!(Uuid::from_u128(1)));
    api.call(VIEWER, "GET", "/api/v1/images?state=lost").await.problem(400);
    let newer = "insert into vms.image_boots (vm_id, image_id, asked_at)
                 select gen_random_uuid(), $1, '2027-01-01' from generate_series(1, $2)";
    sqlx::query(newer).bind(Uuid::from_u128(2)).bind(JUDGED_BY.cast_signed()).execute(&api.db().pool).await.unwrap();
    let judged = &api.call(VIEWER, "GET", &path).await.json()["figures"];
    assert_eq!((&judged["vms"], &judged["ready"]), (&json!(JUDGED_BY), &json!(0)), "by its last machines alone");
    api.call(VIEWER, "GET", &format!("/api/v1/images/{}", Uuid::from_u128(9))).await.problem(404);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn promotion_asks_for_good_figures_or_force_and_retires_the_one_before(pool: PgPool) {
    let api = Api::new(pool).await;
    let old = image(&api, 1, "state = 'promoted', promoted_at = registered_at").await;
    let new = image(&api, 2, "").await;
    boots(&api, 1, 10, 20, 0).await;
    let refused = post(&api, &format!("{new}/promote"), &json!({})).await.problem(409);
    assert!(refused.contains("none was tried") && refused.contains("\"force\""), "{refused}");
    boots(&api, 2, 5, 20, 5).await;
    let refused = post(&api, &format!("{new}/promote"), &json!({})).await.problem(409);
    assert!(refused.contains("Clearly worse: 50 % of its boots failed"), "{refused}");
    let done = post(&api, &format!("{new}/promote"), &json!({ "force": true })).await.json();
    assert_eq!((&done["state"], &done["changed_by"]), (&json!("promoted"), &json!("operator")));
    assert_eq!(done["reason"], "promoted whatever was measured");
    assert_eq!(post(&api, &format!("{new}/promote"), &json!({})).await.status, 200, "again changes nothing");
    let before = api.call(VIEWER, "GET", &old).await.json();
    assert_eq!((&before["state"], &before["reason"]), (&json!("retired"), &json!("ami-2 was promoted")));
    assert_eq!(post(&api, &format!("{old}/promote"), &json!({})).await.json()["state"], "promoted", "back");

    let gone = image(&api, 3, "missing_at = registered_at").await;
    assert!(post(&api, &format!("{gone}/promote"), &json!({ "force": true })).await.problem(409).contains("gone at its provider"));
    post(&api, &format!("/api/v1/images/{}/promote", Uuid::from_u128(9)), &json!({})).await.problem(404);
    post(&api, &format!("{new}/promote"), &json!({ "forces": true })).await.problem(400);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn shares_are_of_candidates_and_what_the_settings_name_is_not_retired(pool: PgPool) {
    let api = Api::new(pool).await;
    let (a, b) = (image(&api, 1, "").await, image(&api, 2, "").await);
    let share = async |path: &str, share: u32| api.put(OPERATOR, &format!("{path}/share"), &json!({ "share": share })).await;
    assert_eq!(share(&a, 60).await.json()["share"], 60);
    assert!(share(&b, 41).await.problem(409).contains("more than all launches"));
    assert_eq!(share(&b, 40).await.json()["share"], 40);
    share(&b, 101).await.problem(422);
    let retire = async |path: &str| post(&api, &format!("{path}/retire"), &json!({ "reason": "kernel bug" })).await;
    assert_eq!(retire(&a).await.json()["reason"], "kernel bug");
    assert_eq!(retire(&a).await.status, 200, "again changes nothing");
    assert!(share(&a, 1).await.problem(409).contains("only a candidate has a share"));
    post(&api, &format!("{b}/retire"), &json!({ "reason": "" })).await.problem(422);
    api.settings.send_modify(|newest| drop(newest.settings.ec2.images.insert("eu-west-1".to_owned(), "ami-2".to_owned())));
    assert!(retire(&b).await.problem(409).contains("The settings name ami-2"));
}

/// The API writes the wish, a loop asks the provider, and the API answers.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_manifest_is_registered_whole_after_a_look_at_the_provider(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let bench = Bench::new(pool).await;
    bench.sim.put_image("ami-0123456789abcdef0", SimImage { ours: false, ..SimImage::default() });
    let build = |region: &str, id: &str| {
        json!({ "builds": [{ "name": "guest", "builder_type": "amazon-ebs", "packer_run_uuid": "1", "artifact_id": format!("{region}:{id}"),
                             "custom_data": { "architecture": "x86_64", "kind": "base", "store": "classic" } }],
                "last_run_uuid": "1" })
    };
    let register = async |manifest: Value| {
        let body = json!({ "manifest": manifest, "share": 5 });
        let loops = async {
            loop {
                bench.tick(&Images(bench.world.clone())).await;
                bench.clock.advance(chrono::TimeDelta::seconds(1));
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            reply = post(&api, "/api/v1/images", &body) => reply,
            () = loops => unreachable!(),
        }
    };
    let made = register(build("sim-1", "ami-0123456789abcdef0")).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    assert_eq!((&made["images"][0]["share"], &made["images"][0]["place"]), (&json!(5), &json!("sim")));
    assert_eq!(made["images"][0]["facts"], json!({ "store": "classic", "warnings": ["It is not ours."] }));
    let again = register(build("sim-1", "ami-0123456789abcdef0")).await;
    assert_eq!((again.status, again.json()), (200, made));
    assert!(
        register(build("sim-1", "ami-0123456789abcdef1")).await.problem(422).contains("There is no image ami-0123456789abcdef1")
    );
    assert!(register(build("nowhere-1", "ami-0123456789abcdef1")).await.problem(422).contains("No provider of this service"));
    assert!(register(json!({ "builds": [] })).await.problem(422).contains("made no AMI"));
    let count: i64 = sqlx::query_scalar("select count(*) from vms.images").fetch_one(&api.db().pool).await.unwrap();
    assert_eq!(count, 1);
}
