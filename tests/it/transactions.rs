//! What is written after a transaction whose beginning was dropped is kept: a client that leaves takes nothing of others with it.

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection};
use std::time::Duration;
use vm_service::db::Db;
use vm_service::db::wake::Wake;

/// Each beginning is dropped one turn of the runtime later than the one before: from before anything was sent until after the answer.
const TRIES: i64 = 100;

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_dropped_beginning_takes_nothing_of_others_with_it(options: PgPoolOptions, connect: PgConnectOptions) {
    let pool = options.max_connections(1).connect_with(connect.clone()).await.unwrap();
    let db = Db { pool: pool.clone(), wake: Wake::default() };
    for nth in 0..TRIES {
        tokio::select! {
            biased;
            begun = db.begin() => drop(begun.unwrap()),
            () = turns(nth) => {}
        }
        let insert = "insert into vms.events (at, kind, message) values (now(), 'kept', '')";
        sqlx::query(insert).execute(&db.pool).await.unwrap();
        // The connection is back in the pool: the next beginning sends at once.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // What stands in an open transaction is lost with its connection.
    pool.close().await;
    let mut other = PgConnection::connect_with(&connect).await.unwrap();
    let kept: i64 = sqlx::query_scalar("select count(*) from vms.events where kind = 'kept'").fetch_one(&mut other).await.unwrap();
    assert_eq!(kept, TRIES);
}

async fn turns(number: i64) {
    for _ in 0..number {
        tokio::task::yield_now().await;
    }
}
