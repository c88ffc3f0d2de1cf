//! Issue point 12: a task's timeline says each decision in plain words, from the queue to the job, in order and as a whole.

use crate::api_support::{Api, CI};
use crate::support::Bench;
use chrono::TimeDelta;
use sqlx::PgPool;
use vm_service::domain::ids::TaskId;
use vm_service::domain::lifecycle::TaskState;

/// The sentences of the timeline, as its owner gets them over HTTP; ids are replaced by what they name.
async fn told(api: &Api, task: TaskId) -> Vec<String> {
    let reply = api.call(CI, "GET", &format!("/api/v1/tasks/{task}/timeline")).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let page = reply.json();
    page["items"].as_array().unwrap().iter().map(|item| without_ids(item["message"].as_str().unwrap())).collect()
}

fn without_ids(message: &str) -> String {
    let word = |word: &str| match uuid::Uuid::parse_str(word.trim_end_matches('.')) {
        Ok(_) => word.replace(word.trim_end_matches('.'), "<id>"),
        Err(_) => word.to_owned(),
    };
    message.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Point 12: it waited behind another, its project had as many as it may, the pool was empty, there was no room; then it was launched for.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_timeline_tells_everything_in_order(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let bench = Bench::new(pool).await;
    bench
        .set(|settings| {
            settings.limits.vms_per_project = Some(1);
            settings.limits.vms = Some(2);
        })
        .await;
    let (other, _, _) = bench.job("other").await;
    let first = bench.ask(&bench.request("p")).await.view.id;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(first, TaskState::Ready, 5).await;
    bench.turn(2).await;
    bench.set(|settings| settings.limits.vms_per_project = Some(2)).await;
    bench.turn(2).await;
    bench.sim.set_boot_time(TimeDelta::seconds(3));
    bench.db.release_task(other, bench.now()).await.unwrap();
    bench.turn_until(task, TaskState::Ready, 20).await;
    bench.db.release_task(task, bench.now()).await.unwrap();
    bench.turn(3).await;
    let machine = bench.task(task).await.view.vm.unwrap();
    let (machine, address) = (machine.provider_id.unwrap(), machine.address.unwrap());
    let wanted = [
        "Asked for a machine VM of class medium.".to_owned(),
        "Waits for a machine VM of class medium; one other task waits too.".to_owned(),
        "Project p has as many VMs as it may.".to_owned(),
        "There are as many VMs as there may be; it is next when one ends.".to_owned(),
        "No VM is free: one is launched for it.".to_owned(),
        "Wanted for a task that waits: one of 1 of class medium from sim at sim, in launch <id>.".to_owned(),
        "A VM is starting.".to_owned(),
        format!("The provider made machine {machine}."),
        format!("The machine runs at {address}; its first contact is awaited."),
        "First contact: personalised; a job may take it.".to_owned(),
        "Given VM <id>.".to_owned(),
        "The job may begin.".to_owned(),
        "The job is over.".to_owned(),
        "To be terminated: the job is over.".to_owned(),
        "The provider confirmed that it is gone.".to_owned(),
    ];
    let mut told = told(&api, task).await;
    // Which of the two loops wrote first within one second says nothing.
    let at = |told: &[String], text: &str| {
        told.iter().position(|line| line.starts_with(text)).unwrap_or_else(|| panic!("{text}: {told:#?}"))
    };
    let (wants, launches) = (at(&told, "Wanted for"), at(&told, "No VM is free"));
    if wants < launches {
        told.swap(wants, launches);
    }
    let (starting, made) = (at(&told, "A VM is starting."), at(&told, "The provider made"));
    if made < starting {
        let line = told.remove(starting);
        told.insert(made, line);
    }
    assert_eq!(told, wanted);
}

/// Point 12: a task that a VM of the pool was waiting for: its timeline tells the pool's side too.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_timeline_tells_that_the_vm_came_from_the_pool(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.preallocated.machine = 1).await;
    bench.turn_until_states("available 1", 5).await;
    let task = bench.ask(&bench.request("p")).await.view;
    let address = task.vm.as_ref().unwrap().address.clone().unwrap();
    let machine = task.vm.unwrap().provider_id.unwrap();
    let wanted = [
        "Wanted ahead of demand: one of 1 of class medium from sim at sim, in launch <id>.".to_owned(),
        format!("The provider made machine {machine}."),
        format!("The machine runs at {address}; its first contact is awaited."),
        "First contact: personalised; a job may take it.".to_owned(),
        "Asked for a machine VM of class medium.".to_owned(),
        "Given VM <id>.".to_owned(),
        "The job may begin.".to_owned(),
    ];
    assert_eq!(told(&api, task.id).await, wanted);
}

/// Point 12: why a task failed: each round is told, with when the next is tried and what the provider said last.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_timeline_tells_why_nothing_starts(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let bench = Bench::new(pool).await;
    for _ in 0..3 {
        bench.sim.inject(vm_service::sim::Fault::Refuse("VcpuLimitExceeded: 32 are allowed".to_owned()));
    }
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, TaskState::Failed, 40).await;
    let told = told(&api, task).await;
    assert!(told.iter().any(|line| line.starts_with("A start failed; the next is tried at 14:13:2")), "{told:#?}");
    assert_eq!(told.last().unwrap(), "3 starts failed in a row; the last said: VcpuLimitExceeded: 32 are allowed");
}
