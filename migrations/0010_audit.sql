-- The audit log: who did what, when, from where, and whether it was let. Append-only, and chained by hash so that an edit shows.
--
-- A row is written by the transaction of what it tells, *unsealed*; within about a second `vms.seal_audit` gives it the next link of
-- the chain. So nobody who acts waits for the chain, links have no gaps, and the order of the chain is that in which rows were seen.
-- What the chain shows: a sealed row that was changed or is gone, also the last one. What it cannot show: a row that was changed or
-- deleted before it was sealed, and a chain that somebody with all rights has made anew from some row on, head included; the files that
-- are written by the hour, or a head that was noted elsewhere, show that.

-- The guide's event form.
create table vms.audit (
    id uuid primary key,                          -- version 7: grows with time
    version integer not null,                     -- of the form
    action text not null,                         -- such as `vm.terminate`
    success boolean not null,
    actor jsonb not null,                         -- who
    target jsonb,                                 -- what it was done to
    payload jsonb not null,                       -- what belongs to this action; never a secret
    request jsonb,                                -- the request behind it; null: a command on the server
    scope jsonb,                                  -- whose the target is, such as a project
    occurred_at timestamptz not null,
    metadata jsonb not null,                      -- names and texts
    link bigint,                              -- in the chain; null: not sealed yet
    previous bytea,                               -- hash of the row before
    hash bytea,                                   -- of all above, and of the row before
    check ((link is null) = (hash is null) and (link is null) = (previous is null))
);
create index audit_recent on vms.audit (occurred_at desc, id desc);
create index audit_actor on vms.audit ((actor ->> 'id'), occurred_at desc, id desc);
create index audit_target on vms.audit ((target ->> 'id'), occurred_at desc, id desc);
create index audit_action on vms.audit (action, occurred_at desc, id desc);
create unique index audit_link on vms.audit (link) where link is not null;
create index audit_unsealed on vms.audit (occurred_at, id) where link is null;

-- The last link of the chain, and the lock of whoever adds one.
create table vms.audit_head (
    only_row boolean primary key default true check (only_row),
    link bigint not null,
    hash bytea not null
);
insert into vms.audit_head (link, hash) values (0, '\x0000000000000000000000000000000000000000000000000000000000000000');

-- SHA-256 over the hash of the row before, the link, and the row's content as jsonb writes it: names in jsonb's own order, time in UTC.
create function vms.audit_hash(previous bytea, link bigint, a vms.audit) returns bytea language sql stable as $$
    select sha256(previous || convert_to(jsonb_build_object(
        'link', link, 'id', a.id, 'version', a.version, 'action', a.action, 'success', a.success, 'actor', a.actor,
        'target', a.target, 'payload', a.payload, 'request', a.request, 'scope', a.scope, 'metadata', a.metadata,
        'occurred_at', to_char(a.occurred_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))::text, 'UTF8'))
$$;

-- Seals the oldest rows that are not sealed; returns how many. One at a time: who finds the head taken leaves it to the other.
create function vms.seal_audit(most integer) returns integer language plpgsql as $$
declare
    head vms.audit_head;
    a vms.audit;
    sealed integer := 0;
begin
    if not exists (select from vms.audit where link is null) then
        return 0;
    end if;
    select * into head from vms.audit_head for update skip locked;
    if not found then
        return 0;
    end if;
    for a in select * from vms.audit where link is null order by occurred_at, id limit most loop
        update vms.audit set link = head.link + 1, previous = head.hash, hash = vms.audit_hash(head.hash, head.link + 1, a)
        where id = a.id returning link, hash into head.link, head.hash;
        sealed := sealed + 1;
    end loop;
    update vms.audit_head set link = head.link, hash = head.hash;
    return sealed;
end $$;

-- Looks at the part of the chain after a link; returns how far it looked, and the first row where the chain does not hold.
create function vms.check_audit(after bigint, most bigint)
returns table (checked bigint, up_to bigint, hash bytea, broken_at bigint, broken_id uuid, why text) language sql stable as $$
    with head as (select h.link, h.hash from vms.audit_head h),
    goal as (select least(after + most, head.link) as link from head),
    part as (
        select a.link, a.id, a.hash, a.previous, vms.audit_hash(a.previous, a.link, a) as computed,
               lag(a.link, 1, after) over (order by a.link) as link_before,
               lag(a.hash) over (order by a.link) as hash_before
        from vms.audit a where a.link > after and a.link <= after + most
    ),
    start as (
        select case when after = 0 then decode(repeat('00', 32), 'hex') else (select a.hash from vms.audit a where a.link = after) end
            as hash
    ),
    faults as (
        select p.link_before + 1 as link, null::uuid as id,
               format('%s rows are gone: %s to %s', p.link - p.link_before - 1, p.link_before + 1, p.link - 1) as why
        from part p where p.link <> p.link_before + 1
        union all
        select p.link, p.id, 'this row was changed' from part p where p.computed is distinct from p.hash
        union all
        select p.link, p.id, 'this row does not follow the one before it: one of the two was changed'
        from part p, start
        where p.link = p.link_before + 1
          and p.previous is distinct from case when p.link_before = after then start.hash else p.hash_before end
        union all
        select coalesce((select max(p.link) from part p), after) + 1, null, 'the last rows are gone'
        from goal where coalesce((select max(p.link) from part p), after) < goal.link
        union all
        select max(p.link), null, 'there are rows after the last one that was sealed' from part p, head having max(p.link) > max(head.link)
        union all
        select p.link, p.id, 'the head of the chain was changed' from part p join head on head.link = p.link
        where head.hash <> p.hash
    ),
    first as (select * from faults order by link, id nulls first limit 1)
    select (select count(*) from part), goal.link, (select p.hash from part p where p.link = goal.link),
           first.link, first.id, first.why
    from goal left join first on true
$$;

create function vms.refuse_audit_edit() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and tg_level = 'ROW' and old.link is null and new.link is not null
            and to_jsonb(old) - '{link,previous,hash}'::text[] = to_jsonb(new) - '{link,previous,hash}'::text[] then
        return new;
    end if;
    raise exception 'the audit log is append-only' using errcode = 'VM003';
end $$;
create trigger audit_is_append_only before update or delete on vms.audit for each row execute function vms.refuse_audit_edit();
create trigger audit_is_not_emptied before truncate on vms.audit for each statement execute function vms.refuse_audit_edit();
