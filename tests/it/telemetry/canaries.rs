//! No secret is told to anybody: a whole day with planted and with freshly made ones, and every line of the log at TRACE, the metrics, the
//! StatsD packets, the events and the timelines are looked through for each of them.

use super::day::{Day, TOKEN};
use crate::api_support::Logs;
use serde_json::json;
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vm_service::db::events::EventFilter;
use vm_service::domain::identity::Bootstrap;
use vm_service::telemetry::logs::{Format, everything};
use vm_service::telemetry::recorder;

/// Of the settings: never in a log, wherever it comes from.
const AWS_SECRET: &str = "canary+aws/secret0123456789abcdefghijkl";
const PROXY_PASSWORD: &str = "canary-proxy-password";

/// Name and text of each.
type Canaries = BTreeMap<String, String>;

/// The lines of a key in PEM form, without what frames it: each alone would give it away.
fn add_key(canaries: &mut Canaries, name: &str, pem: &str) {
    let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----") && line.len() >= 16).collect();
    assert!(lines.len() >= 2, "{name} is no key");
    canaries.extend(lines.iter().enumerate().map(|(at, line)| (format!("{name}, line {}", at + 1), (*line).to_owned())));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_canary_is_told(pool: PgPool) {
    let logs = Logs::default();
    let to = logs.clone();
    tracing::subscriber::set_global_default(everything(Format::Json, move || to.clone())).unwrap();
    let relay = recorder::install(Duration::from_millis(100)).unwrap();
    let statsd = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (host, stop) = (statsd.local_addr().unwrap().to_string(), CancellationToken::new());
    let relayed = tokio::spawn(relay.run(move || Some(host.clone()), stop.clone().cancelled_owned()));
    let mut packets = String::new();

    let mut day = Day::new(pool.clone()).await;
    let mut canaries = Canaries::from([
        ("token".to_owned(), TOKEN.to_owned()),
        ("sealing key".to_owned(), day.sealing_key.clone()),
        ("AWS secret".to_owned(), AWS_SECRET.to_owned()),
        ("proxy password".to_owned(), PROXY_PASSWORD.to_owned()),
    ]);
    save_settings(&day).await;
    let proxy = format!("http://user:{PROXY_PASSWORD}@proxy.example:3128");
    day.bench.set(|settings| (settings.guest.http_proxy, settings.guest.https_proxy) = (Some(proxy.clone()), Some(proxy))).await;

    for (job, answer) in day.live().await.into_iter().enumerate() {
        add_key(&mut canaries, &format!("SSH key of job {job}"), answer["connection"]["ssh"]["private_key"].as_str().unwrap());
        if let Some(key) = answer["connection"]["docker"]["key"].as_str() {
            add_key(&mut canaries, &format!("Docker key of job {job}"), key);
        }
    }
    // What a launch is met with first is sealed in its row until its last machine has been met.
    day.bench.sim.set_boot_time(chrono::TimeDelta::seconds(5));
    let (waiting, _) = day.ask(&json!({"executor": "machine", "project_id": "bootstrap"})).await;
    day.bench.turn(1).await;
    let rows: Vec<(Uuid, Vec<u8>)> =
        sqlx::query_as("select id, bootstrap_sealed from vms.launches where bootstrap_sealed is not null")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert!(!rows.is_empty());
    for (launch, sealed) in rows {
        let plain = day.bench.world.sealer.open(launch, &sealed).unwrap();
        let bootstrap: Bootstrap = serde_json::from_slice(&plain).unwrap();
        add_key(&mut canaries, "bootstrap login", bootstrap.login_private.expose());
        add_key(&mut canaries, "bootstrap host key", bootstrap.host_private.expose());
    }
    day.bench.turn_until(waiting, vm_service::domain::lifecycle::TaskState::Ready, 60).await;
    assert!(canaries.keys().any(|name| name.starts_with("Docker")) && canaries.len() > 30, "{:?}", canaries.keys());

    let metrics = day.metrics().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut datagram = vec![0; 65_536];
    while let Ok(length) = statsd.try_recv(&mut datagram) {
        packets.push_str(std::str::from_utf8(&datagram[..length]).unwrap());
    }
    stop.cancel();
    relayed.await.unwrap();
    let events = day.bench.db.list_events(&EventFilter { limit: 100_000, ..EventFilter::default() }).await.unwrap();
    let timeline = day.call("GET", &format!("/api/v1/tasks/{waiting}/timeline"), None).await.text;
    let told = [
        ("log", logs.text()),
        ("metrics", metrics),
        ("StatsD", packets),
        ("events", format!("{events:?}")),
        ("timeline", timeline),
    ];
    for (place, text) in &told {
        assert!(text.len() > 500, "hardly anything was told in the {place}: {text}");
        assert_eq!(given_away(text, &canaries), None, "in the {place}");
    }
    let levels = ["TRACE", "DEBUG", "INFO", "WARN"].map(|level| told[0].1.contains(&format!("\"level\":\"{level}\"")));
    assert_eq!(levels, [true; 4], "every level is captured");
    // One that is told on purpose is seen.
    tracing::trace!(header = format!("Bearer {TOKEN}"), "on purpose");
    assert!(
        given_away(&logs.text(), &canaries).is_some_and(|found| found.starts_with("the token: ") && found.contains("on purpose"))
    );
}

/// The first canary in the text, with what stands around it.
fn given_away(text: &str, canaries: &Canaries) -> Option<String> {
    let (name, at) = canaries.iter().find_map(|(name, canary)| Some((name, text.find(canary.as_str())?)))?;
    Some(format!("the {name}: {}", around(text, at)))
}

/// An access key, given to the API as a person gives it.
async fn save_settings(day: &Day) {
    let read = day.call("GET", "/api/v1/settings", None).await;
    let mut settings = read.json();
    settings["ec2"]["authentication"] = json!({"access_key": {"id": "AKIAIOSFODNN7EXAMPLE", "secret": AWS_SECRET}});
    let etag = read.header("etag").to_owned();
    let saved = day.put_settings(&settings, &etag).await;
    assert!(saved.status < 300, "{saved:?}");
    assert!(!saved.text.contains(AWS_SECRET));
}

fn around(text: &str, at: usize) -> String {
    text.chars().skip(text[..at].chars().count().saturating_sub(200)).take(500).collect()
}
