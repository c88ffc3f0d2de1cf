-- The Docker layer cache: volumes and what they hold, their good states (generations), what jobs used of them, and which engine a VM has.

alter table vms.tokens add column untrusted_only boolean not null default false; -- its tasks may only read caches

-- Tasks ---------------------------------------------------------------------------------------------------------------------------
alter table vms.tasks
    add column caching boolean not null generated always as (coalesce((request ->> 'docker_layer_caching')::boolean, false)) stored,
    add column cache_trust text not null generated always as (coalesce(request ->> 'cache_trust', 'trusted')) stored
        check (cache_trust in ('trusted', 'untrusted')),
    add column cache_volume_id uuid,              -- the volume that its engine works on
    add column cache_hit boolean,                 -- it held layers
    add column cache_reason text;                 -- what became of its cache; null: not decided yet

-- VMs -----------------------------------------------------------------------------------------------------------------------------
comment on column vms.vms.project_id is 'whose it is, with cache_trust, from its claim on; earlier when a volume was brought to it while it started';
alter table vms.vms
    add column zone text,                         -- where its volumes must be
    add column architecture text,                 -- of its engine, known from first contact on
    add column store text check (store in ('classic', 'containerd')),
    add column engine_major integer,
    add column cache_tries integer not null default 0, -- volumes that were brought to it
    add check ((architecture is null) = (store is null) and (store is null) = (engine_major is null));
alter table vms.launches add column near text;    -- a zone that has a volume for the task it was made for

-- Which engine an image has, learned from its VMs: known before the next one answers.
create table vms.engines (
    provider text not null,
    place text not null,
    image text not null,
    architecture text not null,
    store text not null check (store in ('classic', 'containerd')),
    engine_major integer not null,
    primary key (provider, place, image)
);

-- Volumes ---------------------------------------------------------------------------------------------------------------------------
alter table vms.volumes
    add column zone text not null default '',
    add column size_gib integer not null default 0 check (size_gib >= 0),
    add column parent_id uuid,                    -- the generation that it is a copy of
    add column content text not null default 'nothing' check (content in ('nothing', 'good', 'unchecked')),
    add column layers jsonb not null default '{}', -- of its last good state: name -> bytes
    add column used_bytes bigint,
    add column good_at timestamptz,               -- when its last job ended well
    add column jobs integer not null default 0,   -- that ended well
    add column worn boolean not null default false, -- it has been mounted
    add column mounted boolean not null default false, -- from before the mount until after a clean unmount
    add column kept_at timestamptz,               -- what is kept of its last state has been decided
    add column unwanted boolean not null default false, -- to be deleted when it is off
    add column asked_at timestamptz,              -- the provider was last asked for the present move
    add column deadline_at timestamptz,           -- by when the present move must be over
    drop constraint volumes_check1,
    add constraint on_a_vm check (case when vm_id is null then state not in ('attaching', 'attached', 'detaching')
                                       else state in ('creating', 'attaching', 'attached', 'detaching') end),
    -- Only a clean unmount leads from a mounted volume back into service.
    add constraint unmounted_first check (not mounted or state in ('attached', 'quarantined', 'deleting', 'deleted')),
    -- Nothing that an untrusted job may have written is ever used again.
    add constraint untrusted_once check (cache_trust = 'trusted' or not worn or state <> 'available'),
    -- Nor is a volume that was mounted ever taken for one of another content.
    add constraint worn_is_not_empty check (not worn or content <> 'nothing' or state in ('attached', 'quarantined', 'deleting', 'deleted'));
create index volumes_lineage on vms.volumes (project_id, state) where state <> 'deleted';
create index volumes_due on vms.volumes (due_at) where state not in ('available', 'quarantined', 'deleted');

-- Good states of a lineage. Only of what trusted jobs wrote.
create table vms.generations (
    id uuid primary key,
    project_id text not null check (length(project_id) between 1 and 200),
    cache_trust text not null default 'trusted' check (cache_trust = 'trusted'),
    architecture text not null,
    store text not null check (store in ('classic', 'containerd')),
    engine_major integer not null,
    provider text not null,
    place text not null,
    provider_id text unique,                      -- the snapshot
    volume_id uuid,                               -- of which it was made; null: seeded, or adopted
    state text not null default 'creating' check (state in ('creating', 'good', 'deleting', 'deleted')),
    reason text,
    content text not null default 'good' check (content in ('good', 'unchecked')),
    layers jsonb not null default '{}',
    used_bytes bigint,
    size_gib integer not null check (size_gib > 0),
    created_at timestamptz not null,
    good_at timestamptz,
    last_used_at timestamptz not null,
    deleted_at timestamptz,
    deadline_at timestamptz not null,             -- by when it must be completed
    due_at timestamptz not null,
    lease_token bigint not null default 0,
    lease_until timestamptz
);
create index generations_lineage on vms.generations (project_id, state) where state <> 'deleted';
create index generations_due on vms.generations (due_at) where state in ('creating', 'deleting');

-- What jobs used of a lineage: by it is decided what is kept. The engine is null for a job that had no cache.
create table vms.cache_uses (
    task_id uuid primary key,
    at timestamptz not null,
    project_id text not null,
    cache_trust text not null,
    architecture text,
    store text,
    engine_major integer,
    hit boolean not null,
    used jsonb                                    -- name -> bytes; null: not known
);
create index cache_uses_recent on vms.cache_uses (project_id, at desc);
create index cache_uses_at on vms.cache_uses (at);

-- What the last five jobs of a lineage used.
create function vms.lately_used(project text, arch text, the_store text, major integer) returns jsonb language sql stable as $$
    select coalesce(jsonb_object_agg(layer.key, layer.value), '{}')
    from (select used from vms.cache_uses u
          where u.project_id = project and u.cache_trust = 'trusted' and u.architecture = arch and u.store = the_store
            and u.engine_major = major and u.used is not null
          order by u.at desc, u.task_id limit 5) recent,
         jsonb_each(recent.used) as layer
$$;

-- How many bytes of what was used are held.
create function vms.worth(held jsonb, used jsonb) returns bigint language sql immutable as $$
    select coalesce(sum(value::bigint), 0)::bigint from jsonb_each_text(used) as layer (name, value) where held ? layer.name
$$;

create function vms.refuse_foreign_parent() returns trigger language plpgsql as $$
begin
    if not exists (select from vms.generations g
                   where g.id = new.parent_id and g.state = 'good' and g.project_id = new.project_id and g.architecture = new.architecture
                     and g.store = new.store and g.engine_major = new.engine_major and g.provider = new.provider and g.place = new.place) then
        raise exception 'volume % may not be a copy of generation %', new.id, new.parent_id using errcode = 'VM001';
    end if;
    return new;
end $$;
create trigger volume_of_its_lineage before insert on vms.volumes for each row
    when (new.parent_id is not null) execute function vms.refuse_foreign_parent();

create function vms.refuse_bad_generation() returns trigger language plpgsql as $$
begin
    if not exists (select from vms.volumes v
                   where v.id = new.volume_id and v.state = 'detaching' and not v.mounted and v.content = 'good'
                     and v.project_id = new.project_id and v.cache_trust = 'trusted' and v.architecture = new.architecture
                     and v.store = new.store and v.engine_major = new.engine_major) then
        raise exception 'volume % has no good state of this lineage to be kept', new.volume_id using errcode = 'VM001';
    end if;
    return new;
end $$;
create trigger generation_of_good_state before insert on vms.generations for each row
    when (new.volume_id is not null) execute function vms.refuse_bad_generation();

-- Out of the quarantine comes only what nobody is known to have left badly, and it is checked whole.
create function vms.refuse_release_from_quarantine() returns trigger language plpgsql as $$
begin
    raise exception 'volume % stays in quarantine', old.id using errcode = 'VM001';
end $$;
create trigger volume_stays_quarantined before update of state on vms.volumes for each row
    when (old.state = 'quarantined' and new.state = 'available' and (old.content <> 'unchecked' or old.mounted))
    execute function vms.refuse_release_from_quarantine();

-- The claim: also of a VM that a volume of its project was brought to.
create or replace function vms.claim(the_task uuid, the_vm uuid, now timestamptz) returns void language plpgsql as $$
declare
    made vms.tasks;
begin
    update vms.vms v
    set state = 'assigned', assigned_at = now, project_id = t.project_id, cache_trust = t.cache_trust, reason = null,
        deadline_at = null, due_at = now, lease_token = v.lease_token + 1, lease_until = null
    from vms.tasks t
    where v.id = the_vm and v.state = 'available' and (v.hold_until is null or v.hold_until <= now)
      and (v.project_id is null or t.caching and (v.project_id, v.cache_trust) = (t.project_id, t.cache_trust))
      and t.id = the_task and t.state = 'queued';
    if not found then
        raise exception 'VM % is not free for task % any more', the_vm, the_task using errcode = 'VM001';
    end if;
    -- Keys of its own, or a cache, must be put in first.
    update vms.tasks t
    set vm_id = the_vm, due_at = now, claimed_at = now, waiting_reason = null,
        state = case when needs.some then 'preparing' else 'ready' end,
        ready_at = case when not needs.some then now end,
        expires_at = case when not needs.some then now + make_interval(secs => max_run_seconds) end
    from (select caching or jsonb_array_length(coalesce(request -> 'ssh_public_keys', '[]')) > 0 as some
          from vms.tasks where id = the_task) needs
    where t.id = the_task and t.state = 'queued'
    returning t.* into made;
    if made is null then
        raise exception 'task % does not wait any more', the_task using errcode = 'VM001';
    end if;
    insert into vms.events (at, kind, task_id, vm_id, message)
    select now, told.kind, the_task, the_vm, told.message
    from (values ('task.claimed', 'Given VM ' || the_vm || '.'), ('task.ready', 'The job may begin.')) as told (kind, message)
    where told.kind = 'task.claimed' or made.state = 'ready';
end $$;

drop function vms.put_task;
drop view vms.task_answers;
create view vms.task_answers as
    select t.id, t.principal, t.request_hash, t.request, t.state, t.failure_code, t.failure_detail, t.created_at, t.ready_at,
           t.ended_at, t.vm_id, t.project_id, v.provider, v.provider_id, v.origin, v.address, v.ssh_port, v.docker_port,
           v.identity_sealed, t.cache_volume_id, t.cache_hit, t.cache_reason
    from vms.tasks t left join vms.vms v on v.id = t.vm_id;

-- A free VM for a task, oldest first. With a cache: one that its project's volume was brought to, then one in the zone of a free volume.
create function vms.free_vm(the_task uuid, now timestamptz) returns uuid language plpgsql as $$
declare
    t vms.tasks;
    free uuid;
begin
    select * into t from vms.tasks where id = the_task;
    if t.caching then
        select v.id into free from vms.vms v
        where v.state = 'available' and v.executor = t.executor and v.resource_class = t.resource_class
          and (v.project_id is null or (v.project_id, v.cache_trust) = (t.project_id, t.cache_trust))
          and (v.hold_until is null or v.hold_until <= now) and v.absolute_end_at >= now + make_interval(secs => t.max_run_seconds)
        order by v.project_id is null,
                 not exists (select from vms.volumes u
                             where u.state = 'available' and u.project_id = t.project_id and u.cache_trust = t.cache_trust
                               and (u.provider, u.place, u.zone) = (v.provider, v.place, v.zone)),
                 v.available_at, v.id
        limit 1
        for update of v skip locked;
    else
        select v.id into free from vms.vms v
        where v.state = 'available' and v.executor = t.executor and v.resource_class = t.resource_class and v.project_id is null
          and (v.hold_until is null or v.hold_until <= now) and v.absolute_end_at >= now + make_interval(secs => t.max_run_seconds)
        order by v.available_at, v.id
        limit 1
        for update skip locked;
    end if;
    return free;
end $$;

-- Makes a task, and gives it a free VM unless another task waits for one of its kind: then the queue decides. No row: the id is taken,
-- here or in the history.
create function vms.put_task(
    the_task uuid, the_principal text, the_hash bytea, the_request jsonb, the_executor text, the_class text, the_project text,
    the_priority smallint, the_run_seconds integer, the_lease_seconds integer, now timestamptz
) returns setof vms.task_answers language plpgsql as $$
declare
    free uuid;
    claimed boolean := false;
    before bigint;
begin
    insert into vms.tasks (id, principal, request_hash, request, executor, resource_class, project_id, priority,
                           created_at, due_at, max_run_seconds, lease_seconds, heartbeat_until)
    values (the_task, the_principal, the_hash, the_request, the_executor, the_class, the_project, the_priority,
            now, now, the_run_seconds, the_lease_seconds, now + make_interval(secs => the_lease_seconds))
    on conflict (id) do nothing;
    if not found then
        return;
    end if;
    -- Looked up after the insert: it may have waited for the move of this very task into the history.
    if exists (select from vms.history where kind = 'task' and id = the_task) then
        delete from vms.tasks where id = the_task;
        return;
    end if;
    insert into vms.events (at, kind, task_id, message)
    values (now, 'task.created', the_task, format('Asked for a %s VM of class %s.', the_executor, the_class));
    if not exists (select from vms.tasks t
                   where t.state = 'queued' and t.executor = the_executor and t.resource_class = the_class and t.id <> the_task) then
        free := vms.free_vm(the_task, now);
    end if;
    if free is not null then
        if (select b.max_vms_per_project from vms.budget b) is null then
            -- Its row is locked, and no limit is in the way: it cannot be refused.
            perform vms.claim(the_task, free, now);
            claimed := true;
        else
            begin
                perform vms.claim(the_task, free, now);
                claimed := true;
            exception when sqlstate 'VM002' then
                -- Over its project's limit: it waits.
            end;
        end if;
    end if;
    if not claimed then
        select count(*) into before from
            (select from vms.tasks t
             where t.state = 'queued' and t.executor = the_executor and t.resource_class = the_class and t.id <> the_task
             limit 1000) others;
        insert into vms.events (at, kind, task_id, message)
        values (now, 'task.queued', the_task,
                case before
                    when 0 then format('No %s VM of class %s is free; no other task waits for one.', the_executor, the_class)
                    when 1 then format('Waits for a %s VM of class %s; one other task waits too.', the_executor, the_class)
                    when 1000 then format('Waits for a %s VM of class %s; 1000 or more other tasks wait too.', the_executor, the_class)
                    else format('Waits for a %s VM of class %s; %s other tasks wait too.', the_executor, the_class, before)
                end);
    end if;
    return query select * from vms.task_answers a where a.id = the_task;
end $$;
