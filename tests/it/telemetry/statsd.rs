//! The guide's names, read from a real UDP socket as its telegraf reads them; another host of the settings is followed at once.

use super::day::Day;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use sqlx::PgPool;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use vm_service::domain::statsd::address;
use vm_service::loops::gauges::Gauges;
use vm_service::telemetry::recorder;

/// What comes until every one of these lines has; fails after a generous while, with what came.
async fn until(socket: &UdpSocket, wanted: &[&str]) -> BTreeSet<String> {
    let end = Instant::now() + Duration::from_secs(20);
    let (mut seen, mut datagram) = (BTreeSet::new(), vec![0; 65_536]);
    let mut sums: BTreeMap<(String, String), u64> = BTreeMap::new();
    while !wanted.iter().all(|line| seen.contains(*line)) {
        let Ok(received) = timeout_at(end, socket.recv(&mut datagram)).await else {
            let missing: Vec<_> = wanted.iter().filter(|line| !seen.contains(**line)).collect();
            panic!("not sent: {missing:#?}\nbut {seen:#?}");
        };
        let text = std::str::from_utf8(&datagram[..received.unwrap()]).unwrap();
        assert!(text.len() <= 1432, "one packet on any network");
        for line in text.lines() {
            seen.insert(line.to_owned());
            // A counter comes in as many parts as there were flushes: what is looked for is their sum.
            if let Some((name, (count, tags))) = line.split_once(':').and_then(|(name, rest)| Some((name, rest.split_once("|c")?)))
            {
                let sum = sums.entry((name.to_owned(), tags.to_owned())).or_default();
                *sum += count.parse::<u64>().unwrap();
                seen.insert(format!("{name}:{sum}|c{tags}"));
            }
        }
    }
    seen
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_guides_names_arrive_and_follow_the_setting(pool: PgPool) {
    let relay = recorder::install(Duration::from_millis(100)).unwrap();
    let (first, second) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let to = Arc::new(Mutex::new(None::<String>));
    let (asked, stop) = (to.clone(), CancellationToken::new());
    let running = tokio::spawn(relay.run(move || asked.lock().unwrap().as_deref().map(address), stop.clone().cancelled_owned()));
    let mut day = Day::new(pool).await;
    let gauges = Gauges::new(day.bench.world.clone());
    day.bench.set(|settings| settings.preallocated.machine = 1).await;
    day.bench.turn_until_states("available 1", 60).await;
    *to.lock().unwrap() = Some(first.local_addr().unwrap().to_string());

    let (task, _) = day.ask(&json!({"executor": "machine", "project_id": "p"})).await;
    day.ask(&json!({"executor": "remote_docker", "project_id": "p"})).await;
    day.bench.clock.advance(chrono::TimeDelta::seconds(42));
    day.bench.tick(&gauges).await;
    assert_eq!(day.call("GET", &format!("/api/v1/tasks/{task}"), None).await.status, 200);
    assert_eq!(day.call("DELETE", "/api/v1/tasks/00000000-0000-0000-0000-00000000dead", None).await.status, 404);
    let seen = until(
        &first,
        &[
            "vm-service.gauges.vms_by_status:1.0|g|#status:assigned",
            "vm-service.gauges.vms_by_status:0.0|g|#status:booting",
            "vm-service.gauges.tasks_by_status:1.0|g|#status:ready",
            "vm-service.gauges.tasks_by_status:1.0|g|#status:queued",
            "vm-service.gauges.unassigned_tasks_age:42.0|g",
            "circle.vm-service.vm.assigned-vm:1.0|g",
            "circle.vm-service.vms.get.status:1|c|#status:200",
            "circle.vm-service.vms.post.status:2|c|#status:201",
            "circle.vm-service.vms.delete.status:1|c|#status:404",
            "vm_service_tasks:1.0|g|#status:queued",
        ],
    )
    .await;
    let names: BTreeSet<&str> = seen.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert!(names.iter().all(|name| name.starts_with("vm_service_") || name.contains("vm-service.")), "{names:?}");

    *to.lock().unwrap() = Some(second.local_addr().unwrap().to_string());
    until(&second, &["circle.vm-service.vm.assigned-vm:1.0|g"]).await;
    while first.try_recv(&mut [0; 2048]).is_ok() {}
    *to.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_millis(150)).await;
    while second.try_recv(&mut [0; 2048]).is_ok() {}
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(first.try_recv(&mut [0; 2048]).is_err() && second.try_recv(&mut [0; 2048]).is_err(), "no host is set any more");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn without_a_socket_it_waits_until_there_is_one() {
    let relay = recorder::install(Duration::from_millis(100)).unwrap();
    let host = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = Arc::new(Mutex::new(None::<String>));
    let (unset, set) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (asked, counts) = (to.clone(), [unset.clone(), set.clone()]);
    let running = tokio::spawn(relay.run(
        move || {
            let to = asked.lock().unwrap().clone();
            counts[usize::from(to.is_some())].fetch_add(1, Ordering::Relaxed);
            to
        },
        std::future::pending(),
    ));
    let end = Instant::now() + Duration::from_secs(20);
    let until_asked = async |count: &AtomicUsize, times| {
        while count.load(Ordering::Relaxed) < times {
            assert!(!running.is_finished() && Instant::now() < end, "it gave up");
            metrics::gauge!("vm_service_limit").set(1.0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // The exporter has its own socket by then.
    until_asked(&unset, 1).await;
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..files }).unwrap();
    *to.lock().unwrap() = Some(host.local_addr().unwrap().to_string());
    until_asked(&set, 2).await;
    setrlimit(Resource::Nofile, files).unwrap();
    until(&host, &["vm_service_limit:1.0|g"]).await;
    running.abort();
}
