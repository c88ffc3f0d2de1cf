-- The console: who is signed in, and what its lists look for.

-- A session is a token that was shown once; what it may do is what the token may do now.
create table vms.sessions (
    hash bytea primary key,                       -- keyed hash of the name in the cookie
    token_id uuid not null references vms.tokens (id) on delete cascade,
    created_at timestamptz not null,
    last_seen_at timestamptz not null,
    expires_at timestamptz not null               -- whatever is done with it
);
create index sessions_token on vms.sessions (token_id);
create index sessions_expiry on vms.sessions (expires_at);

-- Ended tasks and VMs are listed beside those of the hot tables: newest first, by project, by state.
-- What JSON has is written with its offset: it is the same moment whatever the session's settings are.
create function vms.moment(text) returns timestamptz language sql immutable strict as $$ select $1::timestamptz $$;
alter table vms.history
    add column created_at timestamptz generated always as (vms.moment(body ->> 'created_at')) stored,
    add column project_id text generated always as (body ->> 'project_id') stored,
    add column state text generated always as (body ->> 'state') stored,
    add column executor text generated always as (body ->> 'executor') stored;
create index history_recent on vms.history (kind, created_at desc, id desc);
create index history_project on vms.history (kind, project_id, created_at desc, id desc);
create index history_state on vms.history (kind, state, created_at desc, id desc);

-- How starts went over the last hours.
create index events_starts on vms.events (at, kind) where kind in ('vm.available', 'vm.start_failed');
-- How often a project's jobs found layers.
create index cache_uses_hits on vms.cache_uses (project_id, hit);
