//! What the database refuses of images and GPUs by itself, whatever the application believes.

use crate::support::Bench;
use sqlx::{AssertSqlSafe, PgPool};

async fn done(bench: &Bench, sql: &str) {
    sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&bench.db.pool).await.unwrap_or_else(|error| panic!("{sql}\n{error}"));
}

async fn refused(bench: &Bench, sql: &str, because: &str) {
    let error = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&bench.db.pool).await.expect_err(sql).to_string();
    assert!(error.contains(because), "{sql}\n{error}");
}

/// An image of this name.
fn image(name: &str) -> String {
    format!(
        "insert into vms.images (id, name, provider, place, architecture, kind, provider_id, registered_at, registered_by, changed_at,
             changed_by, due_at)
         values (gen_random_uuid(), 'i', 'sim', 'sim', 'x86_64', 'base', '{name}', now(), 'op', now(), 'op', now())"
    )
}

const PROMOTE: &str =
    "update vms.images set state = 'promoted', share = 0, promoted_at = now(), retired_at = null where provider_id = ";
const RETIRE: &str = "update vms.images set state = 'retired', share = 0, retired_at = now() where provider_id = ";

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_image_is_known_once_and_one_is_promoted_for_the_same_launches(pool: PgPool) {
    let bench = Bench::new(pool).await;
    for name in ["a", "b"] {
        done(&bench, &image(name)).await;
    }
    refused(&bench, &image("a"), "images_known_once").await;
    done(&bench, &format!("{PROMOTE} 'a'")).await;
    refused(&bench, &format!("{PROMOTE} 'b'"), "images_one_promoted").await;
    done(&bench, &format!("{RETIRE} 'a'")).await;
    done(&bench, &format!("{PROMOTE} 'b'")).await;
    for column in ["provider", "place", "provider_id"] {
        refused(&bench, &format!("update vms.images set {column} = 'other' where provider_id = 'a'"), "stays what it was").await;
    }
    refused(&bench, "update vms.images set kind = 'gpu'", "stays what it was").await;
    // What was deleted may come back as another row.
    done(&bench, "update vms.images set state = 'deleting' where provider_id = 'a'").await;
    refused(&bench, &image("a"), "images_known_once").await;
    done(&bench, "update vms.images set state = 'deleted', deleted_at = now() where provider_id = 'a'").await;
    done(&bench, &image("a")).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn only_candidates_have_shares_and_together_not_more_than_all(pool: PgPool) {
    let bench = Bench::new(pool).await;
    for name in ["a", "b", "c"] {
        done(&bench, &image(name)).await;
    }
    done(&bench, "update vms.images set share = 60 where provider_id = 'a'").await;
    done(&bench, "update vms.images set share = 40 where provider_id = 'b'").await;
    refused(&bench, "update vms.images set share = 1 where provider_id = 'c'", "more than all launches").await;
    refused(&bench, "update vms.images set share = 101 where provider_id = 'a'", "check constraint").await;
    refused(
        &bench,
        "update vms.images set state = 'promoted', promoted_at = now() where provider_id = 'a'",
        "share_of_a_candidate",
    )
    .await;
    done(&bench, &format!("{PROMOTE} 'a'")).await;
    refused(&bench, "update vms.images set share = 1 where provider_id = 'a'", "share_of_a_candidate").await;
    done(&bench, "update vms.images set share = 60 where provider_id = 'c'").await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_retired_or_missing_image_is_never_launched_and_one_in_use_never_deleted(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let task = bench.ask(&bench.request("p")).await.view.id;
    bench.turn_until(task, vm_service::domain::lifecycle::TaskState::Ready, 10).await;
    done(&bench, &image("image-of-all")).await;
    done(&bench, &format!("{RETIRE} 'image-of-all'")).await;
    assert_eq!(bench.count("select count(*) from vms.launches where image = 'image-of-all'").await, 1, "the machine is made of it");
    refused(&bench, "update vms.images set state = 'deleting'", "is in use").await;

    let again =
        "insert into vms.launches (id, executor, resource_class, class_spec, origin, provider, place, machines, created_at, due_at,
                     image)
                 select gen_random_uuid(), executor, resource_class, class_spec, origin, provider, place, 1, now(), now(), $image
                 from vms.launches limit 1";
    let of = |image: &str| again.replace("$image", image);
    refused(&bench, &of("'image-of-all'"), "is retired, or gone").await;
    done(&bench, &of("'another'")).await;
    let attempt = "update vms.launches set attempted_at = now(), image = 'image-of-all' where image = 'another'";
    refused(&bench, attempt, "is retired, or gone").await;
    done(&bench, &format!("{PROMOTE} 'image-of-all'")).await;
    done(&bench, "update vms.images set missing_at = now()").await;
    refused(&bench, attempt, "is retired, or gone").await;
    done(&bench, "update vms.images set missing_at = null").await;
    done(&bench, attempt).await;
    // A launch that is still to be sent needs it as a machine does.
    done(&bench, "update vms.vms set state = 'terminating'").await;
    done(&bench, "update vms.vms set state = 'terminated'").await;
    done(&bench, &format!("{RETIRE} 'image-of-all'")).await;
    refused(&bench, "update vms.images set state = 'deleting'", "is in use").await;
    done(&bench, "update vms.launches set state = 'failed'").await;
    done(&bench, "update vms.images set state = 'deleting'").await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn no_more_gpus_than_the_limit_whoever_asks(pool: PgPool) {
    let bench = Bench::new(pool).await;
    bench.set(|settings| settings.limits.gpus = Some(4)).await;
    let vm = |gpus: u32| {
        format!(
            "insert into vms.vms (id, launch_id, executor, resource_class, origin, provider, place, absolute_end_at, created_at, due_at, gpus)
             values (gen_random_uuid(), gen_random_uuid(), 'machine', 'medium', 'on_demand', 'sim', 'sim', now(), now(), now(), {gpus})"
        )
    };
    done(&bench, &vm(3)).await;
    refused(&bench, &vm(2), "limit reached: 4 GPUs").await;
    done(&bench, &vm(1)).await;
    done(&bench, &vm(0)).await;
    done(&bench, "update vms.vms set state = 'terminated'").await;
    done(&bench, &vm(4)).await;
    // A machine without a row has its class' GPUs.
    done(&bench, "update vms.vms set state = 'terminated' where gpus = 4").await;
    done(&bench, "update vms.budget set gpus_per_class = '{\"large\": 3}'").await;
    done(
        &bench,
        "insert into vms.orphans (provider, place, provider_id, first_seen_at, last_seen_at, resource_class)
         values ('sim', 'sim', 'i-1', now(), now(), 'large')",
    )
    .await;
    refused(&bench, &vm(2), "limit reached: 4 GPUs").await;
    done(&bench, &vm(1)).await;
}
