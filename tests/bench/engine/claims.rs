//! A claim from a full pool, beside the least that any claim in Postgres can be: one statement that takes a free row, and its commit.
//!
//! Both are durable in the way the server is set up, alternate in pairs, and go over the same pool of connections.

use super::world::Engine;
use crate::report::{Report, median};
use chrono::TimeDelta;
use std::time::Instant;
use uuid::Uuid;
use vm_service::sim::Sim;

const PAIRS: usize = 300;

pub(super) async fn measure(report: &mut Report) -> anyhow::Result<()> {
    let engine = Engine::new("claims", Sim::new).await?;
    engine.sim.set_max_batch(1000);
    engine
        .set(|settings| {
            settings.limits.vms = Some(5000);
            settings.limits.in_flight = Some(5000);
            settings.preallocated.machine = 2 * u32::try_from(PAIRS).unwrap_or(u32::MAX);
        })
        .await?;
    let available = "select count(*) from vms.vms where state = 'available'";
    while engine.count(available).await? < 2 * i64::try_from(PAIRS)? {
        engine.turn(TimeDelta::seconds(1)).await?;
    }
    let pool = &engine.world.db.pool;
    for statement in [
        "create table public.bare (id uuid primary key, free boolean not null, task uuid, made_at timestamptz not null)",
        "insert into public.bare select gen_random_uuid(), true, null, now() from generate_series(1, 600)",
        "create index on public.bare (made_at) where free",
    ] {
        sqlx::query(statement).execute(pool).await?;
    }
    let calls = engine.calls().all;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for n in 0..PAIRS {
        if n % 2 == 0 {
            ours.push(claim(&engine).await?);
        }
        bare.push(bare_claim(pool).await?);
        if n % 2 == 1 {
            ours.push(claim(&engine).await?);
        }
    }
    let given = engine.count("select count(*) from vms.tasks where state = 'ready'").await?;
    anyhow::ensure!(given == i64::try_from(PAIRS)?, "{given} of {PAIRS} were given a VM in the commit of their PUT");
    anyhow::ensure!(engine.calls().all == calls, "a claim called the cloud");
    report.figure("claim_p50", median(&ours), "ms")?;
    report.figure("bare_claim_p50", median(&bare), "ms")?;
    let ratio = median(&ours) / median(&bare);
    report.line(&format!("figure claim_ratio {ratio:.2} of_bare (bar: 3)"))
}

async fn claim(engine: &Engine) -> anyhow::Result<f64> {
    let begun = Instant::now();
    engine.ask("p").await?;
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}

async fn bare_claim(pool: &sqlx::PgPool) -> anyhow::Result<f64> {
    let task = Uuid::new_v4();
    let begun = Instant::now();
    let taken = sqlx::query(
        "update public.bare set free = false, task = $1
         where id = (select id from public.bare where free order by made_at limit 1 for update skip locked)",
    )
    .bind(task)
    .execute(pool)
    .await?;
    anyhow::ensure!(taken.rows_affected() == 1, "no row was free");
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}
