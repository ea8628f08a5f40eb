-- Every version of the derived state there ever was, and every recomputation that verified one. Each has tables
-- of its own in the schema <service>_v<version>.
CREATE TABLE derived_version (
    version       integer     PRIMARY KEY CHECK (version > 0),
    rebuild_id    text        NOT NULL UNIQUE, -- chosen by who asked; the same id is the same rebuild
    state         text        NOT NULL CHECK (state IN (
        'catching_up', -- reads history, worked off by `replay`
        'caught_up',   -- level with the log and fed like the active one: may be promoted
        'active',      -- what servers answer from and the announcer judges
        'standby',     -- was active and is still fed: may be rolled back to
        'verifying',   -- reads history up to pinned positions, to be compared and dropped
        'retired',     -- dropped
        'failed'       -- stopped on an error of its own
    )),
    reason_code   text        NOT NULL,
    ticket_id     text        NOT NULL,
    asked_by      text        NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT now(),
    total_records bigint, -- in the log when the work began; NULL until then
    caught_up_at  timestamptz,
    error_message text,
    CHECK ((state = 'failed') = (error_message IS NOT NULL))
);
CREATE UNIQUE INDEX derived_version_active ON derived_version ((true)) WHERE state = 'active';
CREATE UNIQUE INDEX derived_version_rebuilding ON derived_version ((true)) WHERE state = 'catching_up';
CREATE UNIQUE INDEX derived_version_verifying ON derived_version ((true)) WHERE state = 'verifying';
INSERT INTO derived_version (version, rebuild_id, state, reason_code, ticket_id, asked_by)
VALUES (1, 'initial', 'active', 'initial', 'none', 'migrate');

-- Which versions the live servers hold in memory: a version is promoted only when all of them hold it.
CREATE TABLE loaded_version (
    server_id uuid        NOT NULL,
    version   integer     NOT NULL REFERENCES derived_version,
    seen_at   timestamptz NOT NULL, -- by the database's clock; a server that is silent is not live
    PRIMARY KEY (server_id, version)
);

-- What a recomputation is compared with, and the verdict.
CREATE TABLE verification (
    verify_id        text    PRIMARY KEY,
    version          integer NOT NULL UNIQUE REFERENCES derived_version,
    part             text    NOT NULL, -- as the service names its parts; empty: all
    compared_version integer,
    next_offsets     jsonb,  -- "topic/partition" to the offset at which both are compared; NULL until pinned
    live_hashes      jsonb,  -- table to hash, at those offsets
    recomputed_hashes jsonb
);

-- Who changed what about versions, and why. Append-only.
CREATE TABLE version_change (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version     integer     NOT NULL REFERENCES derived_version,
    from_state  text        NOT NULL,
    to_state    text        NOT NULL,
    reason_code text        NOT NULL,
    ticket_id   text        NOT NULL,
    asked_by    text        NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now()
);
