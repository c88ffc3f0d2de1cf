-- The engine: fair queues, breakers, shared call budgets, shared looks, losses of rows.

-- Tasks ---------------------------------------------------------------------------------------------------------------------------
alter table vms.tasks
    add column claimed_at timestamptz,            -- when it was last given a VM: what a project got lately
    add column waiting_reason text,               -- told in its timeline already
    add column unfit_vms integer not null default 0; -- VMs that could not be made fit for it
create index tasks_claimed on vms.tasks (claimed_at) where claimed_at is not null;

-- VMs -----------------------------------------------------------------------------------------------------------------------------
alter table vms.vms
    add column guest_end_at timestamptz,          -- when the VM shuts itself down, as it was told last
    add column end_asked_at timestamptz;          -- when the provider was last asked to end its machine
comment on column vms.vms.absolute_end_at is 'when it must end; moved by a hold, and then told to the guest';
update vms.vms set guest_end_at = absolute_end_at where available_at is not null;
alter table vms.launches
    add column image text,                        -- what its machines are made of, by the provider's name
    add column silent_seconds integer not null default 600; -- its machines end themselves when nobody called by then

-- The starts of a kind of VM: failures in a row close it, and it opens again step by step.
create table vms.breakers (
    provider text not null,
    place text not null,
    executor text not null,
    resource_class text not null,
    failed_at timestamptz[] not null default '{}', -- rounds of failed starts since the last that succeeded, newest last
    reason text,                                   -- of the last of them
    allowance integer check (allowance >= 1),      -- how many may start at a time while it opens again; null: no limit of its own
    primary key (provider, place, executor, resource_class)
);

-- What all replicas together may ask of a provider: a bucket is kept as the time at which it is full again.
create table vms.call_rates (
    provider text not null,
    place text not null,
    bucket text not null check (bucket in ('launch_calls', 'launch_machines')),
    full_at timestamptz not null,
    primary key (provider, place, bucket)
);

-- Which settings the limits are those of: a replica that stood still does not put older ones back.
alter table vms.budget add column settings_version bigint not null default -1;

-- Work that one replica does for all: who takes the turn moves it on.
create table vms.turns (
    name text not null,
    provider text not null,
    place text not null,
    next_at timestamptz not null,
    primary key (name, provider, place)
);

-- Losses of rows --------------------------------------------------------------------------------------------------------------------
-- A machine or volume that was made in one of these spans and has no row is not an orphan: its row may have been lost. It is *unknown*.
create table vms.losses (
    id bigint generated always as identity primary key,
    since timestamptz not null default '-infinity',
    until timestamptz,                            -- null: up to now; the next look at the clock sets it
    seen_at timestamptz,                          -- a complete list showed what machines there are; before, nothing is launched
    reason text not null
);
-- The service's last sign of life: behind after an older copy of the database was put back.
create table vms.pulse (
    only_row boolean primary key default true check (only_row),
    at timestamptz not null
);

create function vms.note_lost_rows() returns trigger language plpgsql as $$
begin
    if tg_op = 'TRUNCATE' then
        insert into vms.losses (reason) values ('the table of VMs was emptied');
    elsif exists (select from gone where state <> 'terminated') then
        insert into vms.losses (reason) values ('rows of live VMs were deleted');
    end if;
    return null;
end $$;
create trigger vms_deleted after delete on vms.vms referencing old table as gone
    for each statement execute function vms.note_lost_rows();
create trigger vms_truncated after truncate on vms.vms for each statement execute function vms.note_lost_rows();

-- The first of the runbook's deletes: the VM of a running job has no task any more, and must not be taken for one whose job is over.
create function vms.note_lost_tasks() returns trigger language plpgsql as $$
begin
    if tg_op = 'TRUNCATE' then
        insert into vms.losses (reason) values ('the table of tasks was emptied');
    elsif exists (select from gone where state in ('preparing', 'ready')) then
        insert into vms.losses (reason) values ('rows of running tasks were deleted');
    end if;
    return null;
end $$;
create trigger tasks_deleted after delete on vms.tasks referencing old table as gone
    for each statement execute function vms.note_lost_tasks();
create trigger tasks_truncated after truncate on vms.tasks for each statement execute function vms.note_lost_tasks();

-- Machines without a row, from their first sighting to their end.
alter table vms.orphans
    add column unknown boolean not null default false, -- its row may have been lost: left alone until its own end
    add column executor text,
    add column resource_class text,
    add column made_at timestamptz,               -- by its tags
    add column ends_at timestamptz,               -- unknown: when it must have ended by itself
    add column state text not null default 'seen' check (state in ('seen', 'quarantined', 'terminating')),
    add column state_at timestamptz,
    add column end_asked_by text;                 -- the operator who wants it gone

-- Volumes ---------------------------------------------------------------------------------------------------------------------------
alter table vms.volumes
    add column missing_at timestamptz;            -- first complete list that did not show it

-- Limits: counted once a statement, and machines without a row count too.
drop trigger vm_within_limits on vms.vms;
drop function vms.refuse_vm_over_limit();
create function vms.refuse_vms_over_limit() returns trigger language plpgsql as $$
declare
    budget vms.budget;
    live bigint;
    in_flight bigint;
    over record;
begin
    select * into budget from vms.budget for update;
    select count(*), count(*) filter (where state in ('requested', 'launching', 'booting'))
        into live, in_flight
        from vms.vms where state <> 'terminated';
    live := live + (select count(*) from vms.orphans);
    if live > budget.max_vms then
        raise exception 'limit reached: % VMs in all', budget.max_vms using errcode = 'VM002';
    end if;
    if in_flight > budget.max_in_flight then
        raise exception 'limit reached: % VMs in flight', budget.max_in_flight using errcode = 'VM002';
    end if;
    for over in
        select limits.class, limits.most from jsonb_each_text(budget.max_vms_per_class) as limits (class, most)
        where limits.class in (select resource_class from fresh)
          and (select count(*) from vms.vms v where v.state <> 'terminated' and v.resource_class = limits.class)
              + (select count(*) from vms.orphans o where o.resource_class = limits.class) > limits.most::bigint
    loop
        raise exception 'limit reached: % VMs of class %', over.most, over.class using errcode = 'VM002';
    end loop;
    return null;
end $$;
create trigger vms_within_limits after insert on vms.vms referencing new table as fresh
    for each statement execute function vms.refuse_vms_over_limit();

-- Why a VM's time is up; null: it is not. A VM with an open task is never overdue: the task's own deadline ends both.
create function vms.why_overdue(v vms.vms, now timestamptz) returns text language sql stable as $$
    select case
        when v.state in ('requested', 'terminating', 'terminated') or v.hold_until > now then null
        when exists (select from vms.tasks t where t.vm_id = v.id and t.state in ('preparing', 'ready')) then null
        when v.absolute_end_at <= now then 'it reached its absolute end'
        when v.state = 'draining' then coalesce(v.reason, 'it is not needed any more')
        when v.state = 'quarantined' then 'its hold is over'
        when v.state = 'assigned' and (exists (select from vms.tasks t where t.vm_id = v.id) or not exists
            (select from vms.losses l where v.assigned_at between l.since and coalesce(l.until, now))) then 'the job is over'
        when v.state = 'available' and v.deadline_at <= now then 'it waited too long for a job'
        -- Who waits for a start ends it at the deadline, with its console; this is for the case that nobody does.
        when v.state in ('launching', 'booting') and v.deadline_at <= now - interval '30 s' then 'it did not start in time'
    end
$$;

-- The claim, in one round trip: a PUT that finds a free VM is a single statement and its commit.
create function vms.claim(the_task uuid, the_vm uuid, now timestamptz) returns void language plpgsql as $$
declare
    made vms.tasks;
begin
    update vms.vms v
    set state = 'assigned', assigned_at = now, project_id = t.project_id, cache_trust = 'trusted', reason = null,
        deadline_at = null, due_at = now, lease_token = v.lease_token + 1, lease_until = null
    from vms.tasks t
    where v.id = the_vm and v.state = 'available' and (v.hold_until is null or v.hold_until <= now)
      and t.id = the_task and t.state = 'queued';
    if not found then
        raise exception 'VM % is not free for task % any more', the_vm, the_task using errcode = 'VM001';
    end if;
    -- Keys of its own must be put in first.
    update vms.tasks t
    set vm_id = the_vm, due_at = now, claimed_at = now, waiting_reason = null,
        state = case when needs.keys then 'preparing' else 'ready' end,
        ready_at = case when not needs.keys then now end,
        expires_at = case when not needs.keys then now + make_interval(secs => max_run_seconds) end
    from (select jsonb_array_length(coalesce(request -> 'ssh_public_keys', '[]')) > 0 as keys from vms.tasks where id = the_task) needs
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

-- A task with what is needed to answer for it.
create view vms.task_answers as
    select t.id, t.principal, t.request_hash, t.request, t.state, t.failure_code, t.failure_detail, t.created_at, t.ready_at,
           t.ended_at, t.vm_id, t.project_id, v.provider, v.provider_id, v.origin, v.address, v.ssh_port, v.docker_port,
           v.identity_sealed
    from vms.tasks t left join vms.vms v on v.id = t.vm_id;

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
        select v.id into free from vms.vms v
        where v.state = 'available' and v.executor = the_executor and v.resource_class = the_class
          and (v.hold_until is null or v.hold_until <= now) and v.absolute_end_at >= now + make_interval(secs => the_run_seconds)
        order by v.available_at, v.id
        limit 1
        for update skip locked;
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
-- Free VMs of a kind, oldest first: what a claim looks for.
create index vms_free on vms.vms (executor, resource_class, available_at) where state = 'available';
drop index vms.vms_failed_starts;
