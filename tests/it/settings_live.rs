//! Settings that are saved at one replica are acted on by every other within five seconds, without a restart: in a moment where wake-ups
//! arrive, and by looking each second where they do not.

use crate::api_support::{CI, OPERATOR};
use crate::over_sim::OverSim;
use crate::service::free_port;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use std::time::{Duration, Instant};

/// What an operator is promised.
const WITHIN: Duration = Duration::from_secs(5);
/// Saved so often, with a moment of its own each time: a look each second may come at once, or late.
const SAVES: u32 = 7;
const APART: Duration = Duration::from_millis(370);
/// Between two questions.
const AGAIN: Duration = Duration::from_millis(10);

fn client() -> reqwest::Client {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Saves over the API of one replica, with or without the class `night`.
async fn save(client: &reqwest::Client, at: &OverSim, night: bool) {
    let url = format!("{}/api/v1/settings", at.url);
    let read = client.get(&url).bearer_auth(OPERATOR).send().await.unwrap();
    let tag = read.headers()["etag"].clone();
    let mut settings: Value = read.json().await.unwrap();
    let classes = settings["resource_classes"].as_object_mut().unwrap();
    let medium = classes["medium"].clone();
    classes.remove("night");
    if night {
        classes.insert("night".to_owned(), medium);
    }
    let saved = client.put(&url).bearer_auth(OPERATOR).header("if-match", tag).json(&settings).send().await.unwrap();
    assert_eq!(saved.status(), 200, "{}", saved.text().await.unwrap());
}

/// Whether a replica knows the class: new tasks are refused all the time, so that no question changes anything, or wakes anybody.
async fn knows_the_class(client: &reqwest::Client, at: &OverSim) -> bool {
    let body = json!({ "executor": "machine", "project_id": "acme/app", "resource_class": "night" });
    let url = format!("{}/api/v1/tasks", at.url);
    match client.post(url).bearer_auth(CI).json(&body).send().await.unwrap().status().as_u16() {
        503 => true,
        422 => false,
        other => panic!("status {other}"),
    }
}

/// The longest time from the beginning of a save at one replica until the other acts on it.
async fn longest(one: &OverSim, other: &OverSim) -> Duration {
    let client = client();
    let mut longest = Duration::ZERO;
    for night in (0..SAVES).map(|n| n % 2 == 0) {
        tokio::time::sleep(APART).await;
        let began = Instant::now();
        save(&client, one, night).await;
        while knows_the_class(&client, other).await != night {
            assert!(began.elapsed() < WITHIN, "the other replica has not acted on it yet");
            tokio::time::sleep(AGAIN).await;
        }
        longest = longest.max(began.elapsed());
    }
    longest
}

async fn listeners(pool: &PgPool) -> i64 {
    let count = "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen%'";
    sqlx::query_scalar(count).fetch_one(pool).await.unwrap()
}

async fn one(pool: &PgPool) -> OverSim {
    OverSim::start(pool, |settings| settings.refuse_new_tasks = true).await
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_replica_that_is_woken_acts_in_a_moment(pool: PgPool) {
    let one = one(&pool).await;
    let other = one.another(&pool, (*pool.connect_options()).clone()).await;
    crate::api_support::eventually(async || listeners(&pool).await == 2).await;
    println!("figure settings_live_longest {:.0} ms", longest(&one, &other).await.as_secs_f64() * 1000.0);
    other.stop().await;
    one.stop().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_replica_that_hears_nothing_acts_at_its_next_look(pool: PgPool) {
    let one = one(&pool).await;
    crate::api_support::eventually(async || listeners(&pool).await == 1).await;
    let nowhere = PgConnectOptions::new().host("127.0.0.1").port(free_port());
    let other = one.another(&pool, nowhere).await;
    println!("figure settings_live_without_listen_longest {:.0} ms", longest(&one, &other).await.as_secs_f64() * 1000.0);
    assert_eq!(listeners(&pool).await, 1, "the other replica hears nothing");
    other.stop().await;
    one.stop().await;
}
