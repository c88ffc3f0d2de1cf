-- The schema of vm-service. Constraints here refuse what must never be, whatever the application believes:
-- two tasks on one VM, one volume on two VMs, a volume of another project or trust on a VM, illegal moves, more than the limits allow.
-- No key or trigger stands in the way of `delete from vms.tasks; delete from vms.volumes; delete from vms.vms;`.

create schema if not exists vms;

-- Who we are. One row.
create table vms.installation (
    only_row boolean primary key default true check (only_row),
    id uuid not null,                             -- tags every machine
    created_at timestamptz not null
);

-- Live settings, one row a version; the newest is in force.
create table vms.settings (
    version bigint generated always as identity primary key,
    body jsonb not null,
    created_at timestamptz not null,
    created_by text not null                      -- principal
);

-- API tokens; only a keyed hash is kept.
create table vms.tokens (
    id uuid primary key,
    principal text not null check (length(principal) between 1 and 200),
    role text not null check (role in ('dispatcher', 'operator', 'viewer')),
    hash bytea not null unique,
    created_at timestamptz not null,
    revoked_at timestamptz
);

-- The limits in force, and the lock that every creator takes. One row.
create table vms.budget (
    only_row boolean primary key default true check (only_row),
    max_vms integer not null default 0 check (max_vms >= 0),
    max_in_flight integer not null default 0 check (max_in_flight >= 0),
    max_volumes integer not null default 0 check (max_volumes >= 0),
    max_vms_per_project integer check (max_vms_per_project > 0),
    max_vms_per_class jsonb not null default '{}' -- class name -> number
);
insert into vms.budget default values;

-- One call that makes machines: intent and idempotency token, stored before the call.
create table vms.launches (
    id uuid primary key,
    attempt integer not null default 1 check (attempt >= 1),
    state text not null default 'requested' check (state in ('requested', 'sent', 'failed')),
    executor text not null check (executor in ('machine', 'remote_docker')),
    resource_class text not null,
    class_spec jsonb not null,                    -- the class as it was when the launch was decided
    origin text not null check (origin in ('preallocated', 'on_demand')),
    provider text not null,
    place text not null,                          -- region or host
    machines integer not null check (machines >= 1),
    bootstrap_sealed bytea,                       -- host key and login of first contact; null once void
    error text,                                   -- the last refusal
    created_at timestamptz not null,
    attempted_at timestamptz,                     -- first call; from then on machines may exist
    due_at timestamptz not null,                  -- when its next step is due
    lease_token bigint not null default 0,        -- fencing number: grows with every lease
    lease_until timestamptz
);
create index launches_due on vms.launches (due_at) where state = 'requested';

create table vms.vms (
    id uuid primary key,
    launch_id uuid not null,
    executor text not null check (executor in ('machine', 'remote_docker')),
    resource_class text not null,
    origin text not null check (origin in ('preallocated', 'on_demand')),
    provider text not null,
    place text not null,
    provider_id text unique,                      -- the machine, once bound; never bound twice
    state text not null default 'requested',
    reason text,                                  -- why it is where it is
    deadline_at timestamptz,                      -- by when the present state must end
    absolute_end_at timestamptz not null,         -- the VM shuts itself down then, and we end it then
    address text,                                 -- an IP address
    ssh_port integer check (ssh_port between 1 and 65535),
    docker_port integer check (docker_port between 1 and 65535),
    host_key text,                                -- public, pinned from first contact on
    identity_sealed bytea,                        -- keys and certificates; null after release
    project_id text,                              -- of the task that has it, with trust: what a volume must match
    cache_trust text check (cache_trust in ('trusted', 'untrusted')),
    hold_reason text,
    hold_until timestamptz,
    console text,                                 -- end of the console, kept when a boot failed
    created_at timestamptz not null,
    missing_at timestamptz,                       -- first complete list that did not show its machine
    start_failed_at timestamptz,                  -- given up before it was available
    launched_at timestamptz,                      -- bound to a machine
    booted_at timestamptz,                        -- the machine ran
    available_at timestamptz,
    assigned_at timestamptz,
    terminating_at timestamptz,
    terminated_at timestamptz,
    due_at timestamptz not null,                  -- when its next step is due
    lease_token bigint not null default 0,
    lease_until timestamptz,
    check ((hold_reason is null) = (hold_until is null)),
    check (state in ('requested', 'terminating', 'terminated', 'quarantined') or provider_id is not null),
    check (state not in ('available', 'assigned') or (address is not null and host_key is not null)),
    unique (id, executor, resource_class),
    unique (id, project_id, cache_trust)
);
create index vms_live on vms.vms (state, due_at) where state <> 'terminated';
create index vms_failed_starts on vms.vms (executor, resource_class, start_failed_at) where start_failed_at is not null;
create index vms_launch on vms.vms (launch_id);
create index vms_recent on vms.vms (created_at desc, id);

create table vms.tasks (
    id uuid primary key,
    principal text not null,
    request_hash bytea not null,                  -- of the body: the same id with another body is refused
    request jsonb not null,
    executor text not null check (executor in ('machine', 'remote_docker')),
    resource_class text not null,
    project_id text not null check (length(project_id) between 1 and 200),
    priority smallint not null default 0,
    state text not null default 'queued',
    vm_id uuid unique,                            -- unique for ever: a VM serves one task
    failure_code text,
    failure_detail text,
    created_at timestamptz not null,
    ready_at timestamptz,
    ended_at timestamptz,
    max_run_seconds integer not null check (max_run_seconds > 0),
    expires_at timestamptz,                       -- the job's own deadline, from ready on
    lease_seconds integer,                        -- the dispatcher promised a heartbeat at least this often
    heartbeat_until timestamptz,
    due_at timestamptz not null,
    lease_token bigint not null default 0,
    lease_until timestamptz,
    check (state in ('queued', 'failed', 'cancelled', 'expired') or vm_id is not null),
    check (state <> 'queued' or vm_id is null),
    check ((failure_code is not null) = (state in ('failed', 'expired'))),
    check ((ended_at is not null) = (state in ('released', 'failed', 'expired', 'cancelled'))),
    -- Cascades, so that the runbook's third delete passes whatever was claimed since its first.
    foreign key (vm_id, executor, resource_class) references vms.vms (id, executor, resource_class) on delete cascade
);
create index tasks_queue on vms.tasks (priority desc, created_at, id) where state = 'queued';
create index tasks_open on vms.tasks (due_at) where state in ('preparing', 'ready');
create index tasks_recent on vms.tasks (created_at desc, id);
create index tasks_ended on vms.tasks (ended_at) where ended_at is not null;

create table vms.volumes (
    id uuid primary key,
    project_id text not null check (length(project_id) between 1 and 200),
    cache_trust text not null check (cache_trust in ('trusted', 'untrusted')),
    architecture text not null,
    store text not null check (store in ('classic', 'containerd')),
    engine_major integer not null,
    provider text not null,
    place text not null,
    provider_id text unique,
    state text not null default 'creating',
    reason text,
    vm_id uuid,
    hold_reason text,
    hold_until timestamptz,
    created_at timestamptz not null,
    last_used_at timestamptz not null,
    deleted_at timestamptz,
    due_at timestamptz not null,
    lease_token bigint not null default 0,
    lease_until timestamptz,
    check ((hold_reason is null) = (hold_until is null)),
    check ((vm_id is not null) = (state in ('attaching', 'attached', 'detaching'))),
    -- A volume is only ever on a VM that works for its own project and trust.
    foreign key (vm_id, project_id, cache_trust) references vms.vms (id, project_id, cache_trust) on delete cascade
);
create unique index volumes_one_per_vm on vms.volumes (vm_id) where vm_id is not null;

-- What happened, for timelines and operators. No secret is ever in it.
create table vms.events (
    id bigint generated always as identity primary key,
    at timestamptz not null,
    kind text not null,
    task_id uuid,
    vm_id uuid,
    principal text not null default '',           -- whose task it is about
    message text not null
);
create index events_task on vms.events (task_id, id) where task_id is not null;
create index events_vm on vms.events (vm_id, id) where vm_id is not null;
create index events_at on vms.events (at);

-- Ended tasks and VMs, so that the hot tables stay small. Trimmed by age.
create table vms.history (
    kind text not null check (kind in ('task', 'vm')),
    id uuid not null,
    principal text not null default '',
    request_hash bytea,
    body jsonb not null,                          -- the row as it ended, without secrets
    ended_at timestamptz not null,
    primary key (kind, id)
);
create index history_age on vms.history (ended_at);

-- Machines that the provider names and no row knows: seen twice before anything is done about them.
create table vms.orphans (
    provider text not null,
    place text not null,
    provider_id text not null,
    first_seen_at timestamptz not null,
    last_seen_at timestamptz not null,
    sightings integer not null default 1,
    primary key (provider, place, provider_id)
);

-- The last run of each scheduled work.
create table vms.schedules (
    name text primary key,
    last_run_at timestamptz not null
);
