//! After the load: waits until everything has come to rest, has the whole pool replaced, and takes down how it all ended.

use super::BASE;
use super::checks::{Seen, Story};
use super::trouble::Trouble;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use uuid::Uuid;

/// For everything to come to rest; what moves longer is told by the checks.
const REST: Duration = Duration::from_secs(60);

pub(super) async fn story(trouble: &mut Trouble, tasks: Vec<Seen>) -> Story {
    wait_for_rest(trouble, None).await;
    // Spare VMs linger for a minute: replaced by the operator, the base alone comes again.
    let url = format!("http://{}/api/v1/vms/terminate", trouble.replicas[0].role.listen);
    let ended = trouble.http.post(url).bearer_auth(&trouble.token).json(&json!({"state": "available"})).send().await.unwrap();
    assert!(ended.status().is_success(), "{ended:?}");
    wait_for_rest(trouble, Some(BASE)).await;
    let base = usize::try_from(BASE).unwrap();
    let mut story = Story { tasks, machines: trouble.cloud.sim.truth(), base, ..Story::default() };
    story.asked_to_end = trouble.cloud.asked_to_end();
    story.free = free(trouble).await;
    let launches: Vec<(Uuid, i32)> =
        sqlx::query_as("select id, machines from vms.launches").fetch_all(&trouble.pool).await.unwrap();
    story.launches = launches.into_iter().map(|(id, machines)| (id, usize::try_from(machines).unwrap())).collect();
    let ends: Vec<(Uuid, String)> = sqlx::query_as(
        "select id, state from vms.tasks union all select id, body ->> 'state' from vms.history where kind = 'task'",
    )
    .fetch_all(&trouble.pool)
    .await
    .unwrap();
    story.ends = ends.into_iter().collect();
    story
}

async fn free(trouble: &Trouble) -> Vec<String> {
    sqlx::query_scalar("select provider_id from vms.vms where state = 'available'").fetch_all(&trouble.pool).await.unwrap()
}

/// At rest: each live machine is a free VM, and (when told) so many there are.
async fn wait_for_rest(trouble: &Trouble, wanted: Option<u32>) {
    let deadline = Instant::now() + REST;
    while Instant::now() < deadline {
        let free: BTreeSet<String> = free(trouble).await.into_iter().collect();
        let live: BTreeSet<String> = trouble.cloud.sim.live().into_keys().collect();
        let busy: bool = sqlx::query_scalar("select exists (select from vms.vms where state not in ('available', 'terminated'))")
            .fetch_one(&trouble.pool)
            .await
            .unwrap();
        if !busy && free == live && wanted.is_none_or(|wanted| usize::try_from(wanted).unwrap() == free.len()) {
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}
