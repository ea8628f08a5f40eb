-- Calls counted on an account of the scope pass every rule but prohibited data while one is in force: from
-- started_at until the earlier of `until` and ended_at. In the ledger's line of transactions, like holds.
CREATE TABLE bypass (
    bypass_id      text        PRIMARY KEY,
    scope_kind     text        NOT NULL
        CHECK (scope_kind IN ('subject', 'project', 'team', 'cost_centre', 'unattributed')),
    scope_owner_id text        NOT NULL,
    started_at     timestamptz NOT NULL,
    until          timestamptz NOT NULL CHECK (until > started_at),
    reason_code    text        NOT NULL,
    ticket_id      text        NOT NULL,
    decided_by     text        NOT NULL,
    ended_at       timestamptz CHECK (ended_at BETWEEN started_at AND until)
);
COMMENT ON COLUMN bypass.ended_at IS
    'when somebody ended it; equal to until once it is written down that its time had come';
CREATE INDEX bypass_not_ended ON bypass (until) WHERE ended_at IS NULL;

ALTER TABLE ledger ADD COLUMN bypass_seq bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN ledger.bypass_seq IS 'number of the newest change of a bypass';
