-- The reserve: VMs that are stopped, and started when no VM is free.
alter table vms.vms
    add column power_asked_at timestamptz;        -- when the provider was last asked to stop its machine, or to start it again

-- There was no capacity to start it: it stays in the reserve.
insert into vms.legal_moves (kind, from_state, to_state) values ('vm', 'launching', 'stopped');

-- As before, and a VM that does not stop.
create or replace function vms.why_overdue(v vms.vms, now timestamptz) returns text language sql stable as $$
    select case
        when v.state in ('requested', 'terminating', 'terminated') or v.hold_until > now then null
        when exists (select from vms.tasks t where t.vm_id = v.id and t.state in ('preparing', 'ready')) then null
        when v.absolute_end_at <= now then 'it reached its absolute end'
        when v.state = 'draining' then coalesce(v.reason, 'it is not needed any more')
        when v.state = 'quarantined' then 'its hold is over'
        when v.state = 'assigned' and (exists (select from vms.tasks t where t.vm_id = v.id) or not exists
            (select from vms.losses l where v.assigned_at between l.since and coalesce(l.until, now))) then 'the job is over'
        when v.state = 'available' and v.deadline_at <= now then 'it waited too long for a job'
        when v.state in ('stopping', 'stopped') and v.deadline_at <= now then 'it was in the reserve for too long'
        -- Who waits for a start ends it at the deadline, with its console; this is for the case that nobody does.
        when v.state in ('launching', 'booting') and v.deadline_at <= now - interval '30 s' then 'it did not start in time'
    end
$$;
