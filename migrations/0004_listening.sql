-- Whether dispatchers can be heard: the API listened from `since` to `at`, without a longer pause than one of `is_silent`.
create table vms.listening (
    only_row boolean primary key default true check (only_row),
    since timestamptz not null,
    at timestamptz not null
);

-- Its dispatcher fell silent: it promised a heartbeat, and could have sent it. While the API is away nobody can.
create function vms.is_silent(t vms.tasks, now timestamptz) returns boolean language sql stable as $$
    select coalesce(t.heartbeat_until <= now, false) and exists (
        select from vms.listening l
        where l.at > now - interval '15 s' and l.since <= now - make_interval(secs => t.lease_seconds)
    )
$$;
