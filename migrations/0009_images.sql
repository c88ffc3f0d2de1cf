-- Images that VMs are made of: known ones, tried with a share of the launches, promoted or taken back on what was measured, and collected.
-- And GPUs: a limit of their own.

alter table vms.legal_moves
    drop constraint legal_moves_kind_check,
    add constraint legal_moves_kind_check check (kind in ('vm', 'task', 'volume', 'image'));
insert into vms.legal_moves (kind, from_state, to_state) values
    ('image', '', 'candidate'),
    ('image', 'candidate', 'promoted'),
    ('image', 'candidate', 'retired'),
    ('image', 'promoted', 'retired'),
    ('image', 'retired', 'promoted'),
    ('image', 'retired', 'deleting'),
    ('image', 'deleting', 'retired'),
    ('image', 'deleting', 'deleted');

create table vms.images (
    id uuid primary key,
    name text not null check (length(name) between 1 and 200),
    provider text not null,
    place text not null,                          -- region or host
    architecture text not null check (architecture in ('x86_64', 'arm64')),
    kind text not null check (kind in ('base', 'gpu')),
    provider_id text not null check (length(provider_id) between 1 and 200), -- what launches name: an AMI, or the hash of a folder
    facts jsonb not null default '{}',            -- distribution, engine, store, hash of its inputs, snapshots: as its builder and the provider say
    state text not null default 'candidate',
    share integer not null default 0 check (share between 0 and 100), -- percent of the launches that it fits
    reason text,                                  -- why it is where it is
    registered_at timestamptz not null,
    registered_by text not null,
    changed_at timestamptz not null,              -- when state or share were last changed, and by whom
    changed_by text not null,
    promoted_at timestamptz,
    retired_at timestamptz,
    deleted_at timestamptz,
    missing_at timestamptz,                       -- since when the provider does not have it; null: it has
    due_at timestamptz not null,                  -- when its deletion is next tried
    constraint share_of_a_candidate check (share = 0 or state = 'candidate'),
    check (state <> 'promoted' or promoted_at is not null),
    check ((retired_at is not null) = (state in ('retired', 'deleting', 'deleted'))),
    check ((deleted_at is not null) = (state = 'deleted'))
);
create unique index images_known_once on vms.images (provider, place, provider_id) where state <> 'deleted';
create unique index images_one_promoted on vms.images (provider, place, architecture, kind) where state = 'promoted';
create index images_recent on vms.images (registered_at desc, id);
create trigger new_image before insert on vms.images for each row execute function vms.refuse_illegal_move('image');
create trigger move_image before update of state on vms.images for each row
    when (new.state is distinct from old.state) execute function vms.refuse_illegal_move('image');

create function vms.refuse_another_image() returns trigger language plpgsql as $$
begin
    raise exception 'image % stays what it was registered as', old.id using errcode = 'VM001';
end $$;
create trigger image_stays_what_it_is before update of provider, place, architecture, kind, provider_id on vms.images for each row
    when ((new.provider, new.place, new.architecture, new.kind, new.provider_id)
          is distinct from (old.provider, old.place, old.architecture, old.kind, old.provider_id))
    execute function vms.refuse_another_image();

-- The candidates for the same launches share them: not more than all. One at a time looks, under the lock of the budget.
create function vms.refuse_shares_over_all() returns trigger language plpgsql as $$
begin
    perform from vms.budget for update;
    if (select sum(i.share) from vms.images i
        where (i.provider, i.place, i.architecture, i.kind) = (new.provider, new.place, new.architecture, new.kind)) > 100 then
        raise exception 'the candidates would get more than all launches' using errcode = 'VM002';
    end if;
    return null;
end $$;
create trigger shares_within_all after insert or update of share on vms.images for each row
    when (new.share > 0) execute function vms.refuse_shares_over_all();

-- No launch begins with an image that was retired, or that the provider has not any more.
create function vms.refuse_retired_image() returns trigger language plpgsql as $$
begin
    if exists (select from vms.images i
               where (i.provider, i.place, i.provider_id) = (new.provider, new.place, new.image)
                 and (i.state in ('retired', 'deleting') or i.missing_at is not null)) then
        raise exception 'image % is retired, or gone', new.image using errcode = 'VM001';
    end if;
    return new;
end $$;
create trigger launch_of_a_good_image before insert on vms.launches for each row
    when (new.image is not null) execute function vms.refuse_retired_image();
create trigger attempt_of_a_good_image before update of image, attempted_at on vms.launches for each row
    when (new.image is not null and old.attempted_at is null and new.attempted_at is not null)
    execute function vms.refuse_retired_image();

-- Nothing is deleted that a machine lives from, or a launch still asks for. What a machine without a row is made of is not known.
create function vms.refuse_deletion_in_use() returns trigger language plpgsql as $$
begin
    if exists (select from vms.launches l
               where (l.provider, l.place, l.image) = (new.provider, new.place, new.provider_id)
                 and (l.state = 'requested' or exists (select from vms.vms v where v.launch_id = l.id and v.state <> 'terminated')))
        or exists (select from vms.orphans o where (o.provider, o.place) = (new.provider, new.place)) then
        raise exception 'image % is in use', new.id using errcode = 'VM001';
    end if;
    return new;
end $$;
create trigger image_not_in_use before update of state on vms.images for each row
    when (old.state = 'retired' and new.state = 'deleting') execute function vms.refuse_deletion_in_use();

-- What became of the machines of an image since it was registered; kept beside the rows of the VMs, which move to the history soon.
create table vms.image_boots (
    vm_id uuid primary key,
    image_id uuid not null references vms.images (id) on delete cascade,
    asked_at timestamptz not null,                -- when the VM was requested
    ready_at timestamptz,                         -- first available
    failed_at timestamptz,                        -- given up before that
    reason text,                                  -- of the failure
    task_ended boolean not null default false,    -- a task had it, and has ended
    task_failure text                             -- that task's, where it was for a reason of the infrastructure
);
create index image_boots_image on vms.image_boots (image_id, asked_at);

create function vms.note_image_boot() returns trigger language plpgsql as $$
begin
    if old.provider_id is null and new.provider_id is not null then
        insert into vms.image_boots (vm_id, image_id, asked_at)
        select new.id, i.id, new.created_at
        from vms.launches l join vms.images i on (i.provider, i.place, i.provider_id) = (l.provider, l.place, l.image) and i.state <> 'deleted'
        where l.id = new.launch_id
        on conflict (vm_id) do nothing;
    end if;
    if old.available_at is null and new.available_at is not null then
        update vms.image_boots set ready_at = new.available_at where vm_id = new.id and ready_at is null;
    end if;
    if old.start_failed_at is null and new.start_failed_at is not null and new.available_at is null then
        -- Also one that never came to have a machine: an image can fail before that.
        insert into vms.image_boots (vm_id, image_id, asked_at, failed_at, reason)
        select new.id, i.id, new.created_at, new.start_failed_at, new.reason
        from vms.launches l join vms.images i on (i.provider, i.place, i.provider_id) = (l.provider, l.place, l.image) and i.state <> 'deleted'
        where l.id = new.launch_id
        on conflict (vm_id) do update set failed_at = excluded.failed_at, reason = excluded.reason where image_boots.ready_at is null;
    end if;
    return null;
end $$;
create trigger boot_of_an_image after update of provider_id, available_at, start_failed_at on vms.vms for each row
    when ((old.provider_id is null and new.provider_id is not null) or (old.available_at is null and new.available_at is not null)
          or (old.start_failed_at is null and new.start_failed_at is not null))
    execute function vms.note_image_boot();

create function vms.note_image_task() returns trigger language plpgsql as $$
begin
    update vms.image_boots
    set task_ended = true,
        task_failure = case when new.failure_code in ('vm_lost', 'vm_start_failed', 'preparation_failed') then new.failure_code end
    where vm_id = coalesce(new.vm_id, old.vm_id);
    return null;
end $$;
create trigger task_on_an_image after update of state on vms.tasks for each row
    when (old.ended_at is null and new.ended_at is not null and coalesce(new.vm_id, old.vm_id) is not null)
    execute function vms.note_image_task();

-- Images that somebody asked to have registered, all or none: whoever can ask the provider looks, and answers.
create table vms.image_orders (
    id uuid primary key,
    principal text not null,
    wanted jsonb not null,
    share integer not null default 0 check (share between 0 and 100),
    created_at timestamptz not null,
    answered_at timestamptz,
    images uuid[] not null default '{}',          -- registered, or known before
    fresh boolean not null default false,         -- one of them was not known before
    refusal text,                                 -- one sentence
    check (refusal is null or (answered_at is not null and images = '{}'))
);
create index image_orders_open on vms.image_orders (created_at) where answered_at is null;

-- GPUs ------------------------------------------------------------------------------------------------------------------------------
alter table vms.vms add column gpus integer not null default 0 check (gpus >= 0);
alter table vms.budget
    add column max_gpus integer check (max_gpus >= 0), -- null: no limit of their own
    add column gpus_per_class jsonb not null default '{}'; -- class name -> number, for machines without a row

-- Of VMs that are not terminated, and of machines without a row.
create function vms.gpus_taken() returns bigint language sql stable as $$
    select (select coalesce(sum(v.gpus), 0) from vms.vms v where v.state <> 'terminated' and v.gpus > 0)
         + (select coalesce(sum((b.gpus_per_class ->> o.resource_class)::bigint), 0)::bigint from vms.orphans o, vms.budget b
            where b.gpus_per_class ? o.resource_class)
$$;
create function vms.refuse_gpus_over_limit() returns trigger language plpgsql as $$
declare
    most integer;
begin
    if not exists (select from fresh where gpus > 0) then
        return null;
    end if;
    select max_gpus into most from vms.budget for update;
    if vms.gpus_taken() > most then
        raise exception 'limit reached: % GPUs', most using errcode = 'VM002';
    end if;
    return null;
end $$;
create trigger gpus_within_limit after insert on vms.vms referencing new table as fresh
    for each statement execute function vms.refuse_gpus_over_limit();
