//! A database as a busy day leaves it: 10,000 VMs, a hundred thousand ended tasks, their events and caches; what speed is measured over.
//!
//! Every row satisfies the constraints of its table and refers only to rows that exist. The triggers are passed by: they would check each
//! of the moves that led here, for a minute.

use chrono::{DateTime, Utc};
use sqlx::{Executor as _, PgPool};
use vm_service::db::Db;
use vm_service::db::wake::Wake;

/// VMs that are not terminated.
pub(crate) const VMS: i32 = 10_000;
/// Of them at work, each with a task that is `ready`.
pub(crate) const AT_WORK: i32 = 8_000;
/// Tasks that wait.
pub(crate) const QUEUED: i32 = 500;
/// Tasks that have ended.
pub(crate) const ENDED: i32 = 100_000;
/// Cache volumes.
pub(crate) const VOLUMES: i32 = 2_000;

/// Fills an empty database. `hot` of the ended tasks, with their VMs, have not been moved to the history yet: up to all of them.
pub(crate) async fn seed(pool: &PgPool, hot: i32, now: DateTime<Utc>) {
    let mut tx = Db { pool: pool.clone(), wake: Wake::default() }.begin().await.unwrap();
    tx.execute("set local session_replication_role = replica").await.unwrap();
    for statement in
        [BUDGET, LIVE_VMS, LAUNCHES, LIVE_TASKS, HOT_VMS, HOT_TASKS, OLD_TASKS, OLD_VMS, VOLUME_ROWS, USES, TASK_EVENTS, VM_EVENTS]
    {
        sqlx::query(statement).bind(now).bind(hot).execute(&mut *tx).await.unwrap_or_else(|error| panic!("{error}: {statement}"));
    }
    tx.commit().await.unwrap();
    pool.execute("analyze").await.unwrap();
}

// Ids: the kind in the first digit, the number in the last twelve. Kinds: 1 live VMs, 2 their tasks, 3 tasks that wait, 4 VMs of ended
// tasks, 5 ended tasks, 6 launches, 7 volumes. `$1` is now, `$2` the number of ended tasks that are hot.

const BUDGET: &str = "update vms.budget set max_vms = 200000, max_in_flight = 200000, max_volumes = 200000
    where $1::timestamptz is not null and $2::int is not null";

const LIVE_VMS: &str = "insert into vms.vms
        (id, launch_id, executor, resource_class, origin, provider, place, provider_id, state, absolute_end_at, guest_end_at, address, ssh_port,
         docker_port, host_key, identity_sealed, project_id, cache_trust, created_at, launched_at, booted_at, available_at, assigned_at,
         terminating_at, deadline_at, due_at, zone)
    select ('10000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, ('60000000-0000-4000-8000-' || lpad((n / 10)::text, 12, '0'))::uuid,
           kind.executor, kind.class, case when n % 3 = 0 then 'preallocated' else 'on_demand' end, 'sim', 'here', 'live-' || n, s.state,
           $1 + interval '20 h', $1 + interval '20 h', '10.' || n / 65536 || '.' || n / 256 % 256 || '.' || n % 256, 22, 2376,
           'ssh-ed25519 AAAA' || n, decode(repeat('5ea1', 600), 'hex'), case when s.state = 'assigned' then 'acme/app-' || n % 200 end,
           case when s.state = 'assigned' then 'trusted' end, made.at, made.at + interval '5 s',
           case when s.state not in ('launching') then made.at + interval '20 s' end,
           case when s.state not in ('launching', 'booting') then made.at + interval '40 s' end,
           case when s.state in ('assigned', 'terminating') then made.at + interval '41 s' end,
           case when s.state = 'terminating' then $1 - interval '5 s' end, $1 + interval '1 h', $1 + interval '1 h', 'zone-' || n % 3
    from generate_series(0, 9999) n,
         lateral (select case when n < 8000 then 'assigned' when n < 9000 then 'available' when n < 9300 then 'booting'
                              when n < 9600 then 'launching' else 'terminating' end as state) s,
         lateral (select case when n / 10 % 2 = 0 then 'machine' else 'remote_docker' end as executor,
                         case when n / 10 % 5 = 0 then 'large' else 'medium' end as class) kind,
         -- A few are stale: older than a day.
         lateral (select $1 - case when n % 500 = 0 then interval '30 h' else interval '1 s' * (n % 7200 + 60) end as at) made
    where $2::int is not null";

const LAUNCHES: &str = "insert into vms.launches
        (id, state, executor, resource_class, class_spec, origin, provider, place, machines, created_at, attempted_at, due_at)
    select launch_id, 'sent', min(executor), min(resource_class),
           '{\"vcpus\": 2, \"memory_mib\": 4096, \"disk_gib\": 20}', min(origin), 'sim', 'here', count(*), min(created_at), min(created_at), $1
    from vms.vms where $2::int is not null group by launch_id";

const LIVE_TASKS: &str = "insert into vms.tasks
        (id, principal, request_hash, request, executor, resource_class, project_id, state, vm_id, created_at, claimed_at, ready_at,
         max_run_seconds, expires_at, due_at, waiting_reason)
    select ('20000000-0000-4000-8000-' || right(id::text, 12))::uuid, 'ci', 'hash'::bytea,
           jsonb_build_object('executor', executor, 'project_id', project_id, 'resource_class', resource_class, 'priority', 0),
           executor, resource_class, project_id, 'ready', id, created_at, assigned_at, assigned_at, 21600, $1 + interval '6 h', $1, null
    from vms.vms where state = 'assigned' and $2::int is not null
    union all
    select ('30000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'ci', 'hash'::bytea,
           jsonb_build_object('executor', 'machine', 'project_id', 'acme/app-' || n % 200, 'resource_class', 'medium', 'priority', 0),
           'machine', 'medium', 'acme/app-' || n % 200, 'queued', null, $1 - interval '1 s' * (n % 300), null, null, 21600, null, $1,
           'The limit of 200000 VMs is reached.'
    from generate_series(0, 499) n";

const HOT_VMS: &str = "insert into vms.vms
        (id, launch_id, executor, resource_class, origin, provider, place, provider_id, state, reason, absolute_end_at, address, ssh_port,
         docker_port, host_key, project_id, cache_trust, created_at, launched_at, booted_at, available_at, assigned_at, terminating_at,
         terminated_at, due_at)
    select ('40000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, ('60000000-0000-4000-9000-' || lpad((n / 10)::text, 12, '0'))::uuid,
           case when n % 2 = 0 then 'machine' else 'remote_docker' end, 'medium', 'on_demand', 'sim', 'here', 'ended-' || n, 'terminated',
           'the job is over', $1 + interval '1 h', '10.9.0.1', 22, 2376, 'ssh-ed25519 AAAA', 'acme/app-' || n % 200, 'trusted',
           e.at - interval '90 s', e.at - interval '85 s', e.at - interval '70 s', e.at - interval '50 s', e.at - interval '49 s',
           e.at, e.at + interval '20 s', e.at
    from generate_series(0, $2 - 1) n, lateral (select $1 - interval '30 s' - interval '18 ms' * n as at) e";

const HOT_TASKS: &str = "insert into vms.tasks
        (id, principal, request_hash, request, executor, resource_class, project_id, state, vm_id, failure_code, failure_detail, created_at,
         claimed_at, ready_at, ended_at, max_run_seconds, due_at)
    select ('50000000-0000-4000-8000-' || right(id::text, 12))::uuid, 'ci', 'hash'::bytea,
           jsonb_build_object('executor', executor, 'project_id', project_id, 'resource_class', resource_class, 'priority', 0,
                              'labels', jsonb_build_object('pipeline', right(id::text, 12))),
           executor, resource_class, project_id, case when right(id::text, 2) = '00' then 'failed' else 'released' end, id,
           case when right(id::text, 2) = '00' then 'vm_lost' end,
           case when right(id::text, 2) = '00' then 'the VM''s machine is gone' end,
           created_at - interval '1 s', assigned_at, assigned_at, terminating_at, 21600, $1
    from vms.vms where state = 'terminated' and $2::int is not null";

const OLD_TASKS: &str = "insert into vms.history (kind, id, principal, request_hash, body, ended_at)
    select 'task', it.id, 'ci', 'hash'::bytea,
           jsonb_build_object('executor', 'machine', 'project_id', 'acme/app-' || n % 200, 'resource_class', 'medium', 'priority', 0,
                'labels', jsonb_build_object('pipeline', n::text), 'id', it.id, 'state', 'released', 'created_at', e.at - interval '90 s',
                'ready_at', e.at - interval '49 s', 'ended_at', e.at, 'cache', null, 'failure', null,
                'vm', jsonb_build_object('id', it.vm, 'provider', 'sim', 'provider_id', 'ended-' || n, 'origin', 'on_demand',
                                         'address', '10.9.0.1')),
           e.at
    from generate_series($2, 99999) n,
         lateral (select $1 - interval '31 min' - interval '20 s' * n as at) e,
         lateral (select ('50000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid as id,
                         ('40000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid as vm) it";

const OLD_VMS: &str = "insert into vms.history (kind, id, body, ended_at)
    select 'vm', ('40000000-0000-4000-8000-' || right(id::text, 12))::uuid,
           jsonb_build_object('id', body -> 'vm' ->> 'id', 'executor', 'machine', 'resource_class', 'medium', 'origin', 'on_demand',
                'provider', 'sim', 'place', 'here', 'provider_id', body -> 'vm' ->> 'provider_id', 'state', 'terminated',
                'created_at', body ->> 'created_at', 'terminated_at', ended_at),
           ended_at
    from vms.history where kind = 'task' and $1::timestamptz is not null and $2::int is not null";

const VOLUME_ROWS: &str = "insert into vms.volumes
        (id, project_id, cache_trust, architecture, store, engine_major, provider, place, provider_id, state, created_at, last_used_at, due_at,
         zone, size_gib, content, layers, used_bytes, good_at, jobs, worn)
    select ('70000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'acme/app-' || n % 200, 'trusted', 'x86_64', 'classic', 28, 'sim', 'here',
           'volume-' || n, 'available', $1 - interval '10 d', $1 - interval '1 min' * n, $1, 'zone-' || n % 3, 100, 'good',
           jsonb_build_object('sha256:' || md5(n::text), 1 << 20), 1 << 30, $1 - interval '1 min' * n, n % 50, true
    from generate_series(0, 1999) n where $2::int is not null";

const USES: &str = "insert into vms.cache_uses (task_id, at, project_id, cache_trust, architecture, store, engine_major, hit)
    select ('50000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, $1 - interval '20 s' * n, 'acme/app-' || n % 200, 'trusted',
           'x86_64', 'classic', 28, n % 4 <> 0
    from generate_series(0, 99999, 5) n where $2::int is not null";

const TASK_EVENTS: &str = "insert into vms.events (at, kind, task_id, vm_id, principal, message)
    select t.ended_at + told.later * interval '1 s', told.kind, t.id, case when told.later > -60 then t.vm_id end, '', told.message
    from (select id, ended_at, vm_id from vms.tasks where ended_at is not null and $2::int is not null
          union all
          select id, ended_at, (body -> 'vm' ->> 'id')::uuid from vms.history where kind = 'task') t,
         (values (-91, 'task.created', 'Asked for a machine VM of class medium.'), (-49, 'task.claimed', 'Given its VM.'),
                 (-49, 'task.ready', 'The job may begin.'), (0, 'task.released', 'The job is over.')) as told (later, kind, message)
    where $1::timestamptz is not null
    order by 1";

const VM_EVENTS: &str = "insert into vms.events (at, kind, vm_id, message)
    select v.created_at + told.later * interval '1 s', told.kind, v.id, told.message
    from vms.vms v,
         (values (0, 'vm.requested', 'Asked for.'), (5, 'vm.launched', 'The provider made its machine.'),
                 (20, 'vm.booting', 'The machine runs; its first contact is awaited.')) as told (later, kind, message)
    where v.state <> 'terminated' and $1::timestamptz is not null and $2::int is not null
    order by 1";

/// The rows are what this file says, and the service's own lists can read them.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_rows_are_there_and_can_be_read(pool: PgPool) {
    let now = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
    seed(&pool, 5_000, now).await;
    let counts: (i64, i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from vms.vms where state <> 'terminated'),
                (select count(*) from vms.tasks where ended_at is null),
                (select count(*) from vms.tasks where ended_at is not null) + (select count(*) from vms.history where kind = 'task'),
                (select count(*) from vms.volumes)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(counts, (VMS.into(), (AT_WORK + QUEUED).into(), ENDED.into(), VOLUMES.into()));
    let broken: i64 = sqlx::query_scalar(
        "select (select count(*) from vms.tasks t left join vms.vms v on (v.id, v.executor, v.resource_class) = (t.vm_id, t.executor, t.resource_class)
                 where t.vm_id is not null and v.id is null)
              + (select count(*) from vms.vms v left join vms.launches l on l.id = v.launch_id where v.state <> 'terminated' and l.id is null)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(broken, 0);
    let db = vm_service::db::Db { pool, wake: vm_service::db::wake::Wake::default() };
    let tasks = db.list_tasks(&vm_service::db::tasks::TaskFilter { limit: 200, ..Default::default() }).await.unwrap();
    assert_eq!(tasks.len(), 200);
    let old = vm_service::domain::ids::TaskId("50000000-0000-4000-8000-000000099999".parse().unwrap());
    assert!(db.find_task(old).await.unwrap().is_some_and(|task| task.view.ended_at.is_some()));
}
