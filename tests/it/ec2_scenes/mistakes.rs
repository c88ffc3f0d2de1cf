//! What operators get wrong, for ten minutes in which a job comes each minute: one clear sentence on the jobs, in the log and in `doctor`,
//! and never a loop that spends money or calls.

use super::scene::Scene;
use crate::api_support::Logs;
use crate::ec2_wire::faults::Fault;
use chrono::TimeDelta;
use sqlx::PgPool;
use std::time::Duration;
use vm_service::domain::ec2::Architecture;
use vm_service::domain::settings::Settings;
use vm_service::provider::Provider as _;

const MINUTES: usize = 10;
/// After the first minute, in which each second counts: a loop that runs wild is seen at any pace, and this one takes less time.
const STEP: Duration = Duration::from_secs(5);
/// A list of machines and one of volumes each 30 s, and one of announcements each minute, whatever jobs want.
const LISTS: usize = 2 * (2 * MINUTES + 1) + MINUTES + 1;
/// Calls for launches in all this time, with those that choose what to ask for: starts that fail are tried after ever longer pauses.
const STARTS: usize = 16;

/// A mistake that AWS is asked about: what it says to these calls, in its own words.
async fn refused(pool: PgPool, action: &str, status: u16, code: &str, message: &str, sentence: &str) {
    let scene = Scene::new(pool).await;
    scene.cloud.inject(Fault::refuse(action, status, code).saying(message).always());
    is_told(&scene, sentence, sentence).await;
}

/// A mistake in the settings.
async fn set_wrong(pool: PgPool, change: impl FnOnce(&mut Settings), job: &str, doctor: &str) {
    let scene = Scene::new(pool).await;
    scene.set(change).await;
    is_told(&scene, job, doctor).await;
}

async fn is_told(scene: &Scene, job: &str, doctor: &str) {
    let logs = Logs::default();
    let to = logs.clone();
    let _logging = tracing::subscriber::set_default(tracing_subscriber::fmt().json().with_writer(move || to.clone()).finish());
    let mut jobs = Vec::new();
    for minute in 0..MINUTES {
        jobs.push(scene.bench.ask(&scene.bench.request("p")).await.view.id);
        let step = if minute == 0 { Duration::from_secs(1) } else { STEP };
        for _ in 0..60 / step.as_secs() {
            scene.bench.turn_by(1, TimeDelta::from_std(step).unwrap()).await;
            scene.cloud.pass(step);
        }
    }
    for task in jobs {
        let mut lines = scene.bench.timeline(task).await;
        lines.extend(scene.bench.task(task).await.view.failure.map(|failure| failure.detail));
        let told = lines.join("\n");
        assert!(told.contains(job), "a job is not told {job:?}, but:\n{told}");
    }
    let log = logs.text();
    assert!(log.contains(job), "the log does not say {job:?}, but:\n{log}");
    let calls = scene.cloud.journal();
    let starts = calls.iter().filter(|it| ["RunInstances", "DescribeImages"].contains(&it.action.as_str())).count();
    println!("{} calls, {starts} of them for starts", calls.len());
    assert!(starts <= STARTS, "{starts} calls for starts in {MINUTES} minutes");
    assert!(calls.len() - starts <= LISTS, "{} other calls in {MINUTES} minutes", calls.len() - starts);
    assert!(scene.cloud.instances().await.is_empty(), "nothing was made");

    let findings = scene.ec2.check(&[]).await;
    let wrong: Vec<String> = findings.into_iter().filter(|it| !it.ok).map(|it| format!("{}: {}", it.what, it.detail)).collect();
    assert!(wrong.iter().any(|line| line.contains(doctor)), "doctor does not say {doctor:?}, but: {wrong:#?}");
    scene.ends_clean().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_image_that_does_not_exist(pool: PgPool) {
    let wrong = |settings: &mut Settings| {
        settings.ec2.images.insert("eu-west-1".to_owned(), "ami-0123456789abcdef0".to_owned());
    };
    let sentence =
        "there is no image ami-0123456789abcdef0 in eu-west-1, or this account may not use it: set another as ec2.images.eu-west-1";
    set_wrong(pool, wrong, sentence, sentence).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_image_at_all(pool: PgPool) {
    let wrong = |settings: &mut Settings| {
        settings.ec2.images.clear();
        settings.resource_classes.get_mut("medium").unwrap().ec2.architecture = Architecture::Arm64;
    };
    let sentence =
        "no image is set for eu-west-1, and Canonical publishes none there: build one with the scripts in ami/, and set it";
    set_wrong(pool, wrong, sentence, sentence).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_subnet_that_does_not_exist(pool: PgPool) {
    let wrong = |settings: &mut Settings| settings.ec2.subnets = vec!["subnet-0123456789abcdef0".to_owned()];
    let job = "launching m5.large on demand in subnet-0123456789abcdef0: InvalidSubnetID.NotFound";
    let doctor = "there is no subnet subnet-0123456789abcdef0 in this account and region: take it out of ec2.subnets";
    set_wrong(pool, wrong, job, doctor).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_subnet_of_another_network(pool: PgPool) {
    let said = "Security group sg-1 and subnet subnet-2 belong to different networks.";
    refused(pool, "RunInstances", 400, "InvalidParameter", said, &format!("InvalidParameter: {said}")).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_zone_that_does_not_have_the_instance_type(pool: PgPool) {
    let said = "Your requested instance type (m5.large) is not supported in your requested Availability Zone (eu-west-1a).";
    refused(pool, "RunInstances", 400, "Unsupported", said, &format!("Unsupported: {said}")).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_action_that_is_denied(pool: PgPool) {
    let said = "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/ci is not authorized to perform: \
                ec2:RunInstances. Encoded authorization failure message: 4kib";
    let sentence = "is not authorized to perform: ec2:RunInstances. Give the role or user what `vm-service iam-policy` prints.";
    refused(pool, "RunInstances", 403, "UnauthorizedOperation", said, sentence).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn everything_is_denied(pool: PgPool) {
    let said = "You are not authorized to perform this operation.";
    let sentence = "You are not authorized to perform this operation. Give the role or user what `vm-service iam-policy` prints.";
    refused(pool, "*", 403, "UnauthorizedOperation", said, sentence).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_key_that_is_not_known(pool: PgPool) {
    let said = "AWS was not able to validate the provided access credentials";
    let sentence =
        "(AuthFailure): AWS was not able to validate the provided access credentials. Check the access key and its secret half";
    refused(pool, "*", 401, "AuthFailure", said, sentence).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_session_that_has_expired(pool: PgPool) {
    let said = "The security token included in the request is expired";
    let sentence = "(ExpiredToken): The security token included in the request is expired. The credentials are out of date, or this machine's \
                    clock is wrong: get fresh ones, or set it right.";
    refused(pool, "*", 400, "ExpiredToken", said, sentence).await;
}

/// "Signature version 4 requests must reach AWS within five minutes of their time stamp" (AWS, "Troubleshoot Signature Version 4").
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_clock_that_is_wrong(pool: PgPool) {
    let sentence = "(RequestExpired): Request has expired. The credentials are out of date, or this machine's clock is wrong";
    refused(pool, "*", 400, "RequestExpired", "Request has expired.", sentence).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_clock_that_is_wrong_said_in_another_way(pool: PgPool) {
    let said = "Signature expired: 20261122T110000Z is now earlier than 20261122T115500Z (20261122T120000Z - 5 min.)";
    let sentence = "- 5 min.). Check the access key and its secret half in the settings, this machine's clock, whether";
    refused(pool, "*", 403, "SignatureDoesNotMatch", said, sentence).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_region_that_is_not_enabled(pool: PgPool) {
    let said = "You are not subscribed to this service. Please go to http://aws.amazon.com to subscribe.";
    let sentence = "to subscribe. Enable the region in the account, or set another as ec2.region.";
    refused(pool, "*", 403, "OptInRequired", said, sentence).await;
}

/// The endpoint of one region and the name of another: AWS takes no signature for another region, and nothing of this one is there.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_endpoint_of_another_region(pool: PgPool) {
    let scene = Scene::new(pool).await.in_region("eu-west-2").await;
    is_told(&scene, "Check the access key and its secret half in the settings", "whether ec2.endpoint, if set, is in ec2.region")
        .await;
    let violations = scene.cloud.violations();
    assert!(!violations.is_empty() && violations.iter().all(|it| it.starts_with("signature: ")), "{violations:#?}");
}
