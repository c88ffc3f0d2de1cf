-- What a single row's constraints cannot say: the legal moves, and the limits.

-- The same table as `domain::lifecycle`; a test holds the two equal. '' stands for "no row yet".
create table vms.legal_moves (
    kind text not null check (kind in ('vm', 'task', 'volume')),
    from_state text not null,
    to_state text not null,
    primary key (kind, from_state, to_state)
);

insert into vms.legal_moves (kind, from_state, to_state) values
    ('vm', '', 'requested'),
    ('vm', 'requested', 'launching'),
    ('vm', 'requested', 'terminated'),
    ('vm', 'launching', 'booting'),
    ('vm', 'booting', 'available'),
    ('vm', 'available', 'assigned'),
    ('vm', 'available', 'draining'),
    ('vm', 'available', 'stopping'),
    ('vm', 'stopping', 'stopped'),
    ('vm', 'stopped', 'launching'),
    ('vm', 'terminating', 'terminated'),
    ('task', '', 'queued'),
    ('task', 'queued', 'preparing'),
    ('task', 'queued', 'ready'),
    ('task', 'preparing', 'ready'),
    ('task', 'preparing', 'queued'),
    ('task', 'ready', 'released'),
    ('volume', '', 'creating'),
    ('volume', '', 'quarantined'),
    ('volume', 'creating', 'available'),
    ('volume', 'available', 'attaching'),
    ('volume', 'attaching', 'attached'),
    ('volume', 'attaching', 'available'),
    ('volume', 'attached', 'detaching'),
    ('volume', 'detaching', 'available'),
    ('volume', 'quarantined', 'available'),
    ('volume', 'quarantined', 'deleting'),
    ('volume', 'available', 'deleting'),
    ('volume', 'deleting', 'deleted');
insert into vms.legal_moves (kind, from_state, to_state)
    select 'vm', live, ending
    from unnest(array['requested', 'launching', 'booting', 'available', 'assigned', 'draining', 'stopping', 'stopped', 'quarantined']) as live,
         unnest(array['quarantined', 'terminating']) as ending
    where live <> ending;
insert into vms.legal_moves (kind, from_state, to_state)
    select 'task', open, ending
    from unnest(array['queued', 'preparing', 'ready']) as open, unnest(array['failed', 'expired', 'cancelled']) as ending;
insert into vms.legal_moves (kind, from_state, to_state)
    select 'volume', any_state, 'quarantined'
    from unnest(array['creating', 'available', 'attaching', 'attached', 'detaching']) as any_state;

create function vms.refuse_illegal_move() returns trigger language plpgsql as $$
declare
    came_from text := case when tg_op = 'UPDATE' then old.state else '' end;
begin
    if not exists (
        select from vms.legal_moves m where m.kind = tg_argv[0] and m.from_state = came_from and m.to_state = new.state
    ) then
        raise exception 'a % may not move from "%" to "%"', tg_argv[0], came_from, new.state
            using errcode = 'VM001';
    end if;
    return new;
end $$;

create trigger new_vm before insert on vms.vms for each row execute function vms.refuse_illegal_move('vm');
create trigger new_task before insert on vms.tasks for each row execute function vms.refuse_illegal_move('task');
create trigger new_volume before insert on vms.volumes for each row execute function vms.refuse_illegal_move('volume');
create trigger move_vm before update of state on vms.vms for each row
    when (new.state is distinct from old.state) execute function vms.refuse_illegal_move('vm');
create trigger move_task before update of state on vms.tasks for each row
    when (new.state is distinct from old.state) execute function vms.refuse_illegal_move('task');
create trigger move_volume before update of state on vms.volumes for each row
    when (new.state is distinct from old.state) execute function vms.refuse_illegal_move('volume');

-- Every creator of a VM takes the budget row's lock first and is then counted: in all, in flight, and for its class.
create function vms.refuse_vm_over_limit() returns trigger language plpgsql as $$
declare
    budget vms.budget;
    live bigint;
    in_flight bigint;
    of_class bigint;
    class_limit bigint;
begin
    select * into budget from vms.budget for update;
    select count(*),
           count(*) filter (where state in ('requested', 'launching', 'booting')),
           count(*) filter (where resource_class = new.resource_class)
        into live, in_flight, of_class
        from vms.vms where state <> 'terminated';
    class_limit := (budget.max_vms_per_class ->> new.resource_class)::bigint;
    if live >= budget.max_vms then
        raise exception 'limit reached: % VMs in all', budget.max_vms using errcode = 'VM002';
    end if;
    if in_flight >= budget.max_in_flight then
        raise exception 'limit reached: % VMs in flight', budget.max_in_flight using errcode = 'VM002';
    end if;
    if of_class >= class_limit then
        raise exception 'limit reached: % VMs of class %', class_limit, new.resource_class using errcode = 'VM002';
    end if;
    return new;
end $$;
create trigger vm_within_limits before insert on vms.vms for each row execute function vms.refuse_vm_over_limit();

create function vms.refuse_volume_over_limit() returns trigger language plpgsql as $$
declare
    budget vms.budget;
begin
    select * into budget from vms.budget for update;
    if (select count(*) from vms.volumes where state <> 'deleted') >= budget.max_volumes then
        raise exception 'limit reached: % volumes', budget.max_volumes using errcode = 'VM002';
    end if;
    return new;
end $$;
-- What is adopted after a loss exists already: it is never refused.
create trigger volume_within_limits before insert on vms.volumes for each row
    when (new.state = 'creating') execute function vms.refuse_volume_over_limit();

-- A claim takes the same lock and is counted against the limit of its project.
create function vms.refuse_claim_over_limit() returns trigger language plpgsql as $$
declare
    budget vms.budget;
begin
    if (select max_vms_per_project from vms.budget) is null then
        return new;
    end if;
    select * into budget from vms.budget for update;
    if (select count(*) from vms.tasks where project_id = new.project_id and state in ('preparing', 'ready'))
            >= budget.max_vms_per_project then
        raise exception 'limit reached: % VMs of project %', budget.max_vms_per_project, new.project_id using errcode = 'VM002';
    end if;
    return new;
end $$;
create trigger claim_within_limits before update of vm_id on vms.tasks for each row
    when (old.vm_id is null and new.vm_id is not null) execute function vms.refuse_claim_over_limit();

-- A VM's project and trust are those of its first task, for ever: nothing of one project may follow another.
create function vms.refuse_second_owner() returns trigger language plpgsql as $$
begin
    raise exception 'VM % belongs to another project already', old.id using errcode = 'VM001';
end $$;
create trigger vm_keeps_owner before update of project_id, cache_trust on vms.vms for each row
    when ((old.project_id is not null and new.project_id is distinct from old.project_id)
       or (old.cache_trust is not null and new.cache_trust is distinct from old.cache_trust))
    execute function vms.refuse_second_owner();

-- A bound machine stays bound to its row.
create function vms.refuse_second_machine() returns trigger language plpgsql as $$
begin
    raise exception 'VM % is bound to machine % already', old.id, old.provider_id using errcode = 'VM001';
end $$;
create trigger vm_keeps_machine before update of provider_id on vms.vms for each row
    when (old.provider_id is not null and new.provider_id is distinct from old.provider_id)
    execute function vms.refuse_second_machine();
