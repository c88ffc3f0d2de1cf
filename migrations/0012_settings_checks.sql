-- Settings that somebody wants to have checked before a save: a loop that can ask the provider does it, and writes one result.
create table vms.settings_checks (
    id uuid primary key,
    principal text not null,
    version bigint not null,                      -- what the proposed settings are made on top of; 0: the seed
    base jsonb not null,                          -- those of that version
    body jsonb not null,                          -- the proposed ones, secrets sealed
    created_at timestamptz not null,
    deadline_at timestamptz not null,             -- no result is written after
    due_at timestamptz not null,                  -- when it may next be taken up
    lease_token bigint not null default 0,        -- fencing number: grows with every lease
    lease_until timestamptz,
    finished_at timestamptz,
    result jsonb,                                 -- findings and effect
    check (deadline_at > created_at),
    check ((result is null) = (finished_at is null)),
    check (finished_at <= deadline_at)
);
create index settings_checks_open on vms.settings_checks (due_at) where finished_at is null;
create index settings_checks_age on vms.settings_checks (created_at);
