-- What people and rules did, and at whose data they looked: history, chained entry by entry, never rebuilt and never
-- changed. The same entries are events on the service's own topic.
CREATE TABLE audit (
    sequence      bigint      PRIMARY KEY CHECK (sequence > 0),
    at            timestamptz NOT NULL,
    actor         text        NOT NULL,
    caller        text        NOT NULL,
    action        text        NOT NULL,
    target        text        NOT NULL,
    reason_code   text,
    ticket_id     text,
    details       jsonb       NOT NULL,
    once          text,
    previous_hash bytea       NOT NULL CHECK (octet_length(previous_hash) = 32),
    hash          bytea       NOT NULL CHECK (octet_length(hash) = 32)
);
CREATE UNIQUE INDEX audit_once ON audit (once) WHERE once IS NOT NULL;
CREATE INDEX audit_target ON audit (target, sequence);
CREATE INDEX audit_action ON audit (action, sequence);
CREATE INDEX audit_actor ON audit (actor, sequence);

CREATE FUNCTION refuse_to_change_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_audit();

-- Another one after every restart and every restore: what was sent meanwhile, or before, may be missing here then.
CREATE FUNCTION incarnation_of(relation regclass) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT extract(epoch FROM pg_postmaster_start_time()) || '/' || relation::oid
$$;

-- The head of the chain. Its row's lock makes the entries one line.
CREATE TABLE audit_chain (
    is_one            boolean     PRIMARY KEY DEFAULT true CHECK (is_one),
    sequence          bigint      NOT NULL DEFAULT 0,
    hash              bytea       NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    at                timestamptz NOT NULL DEFAULT '2000-01-01 00:00:00Z',
    anchored_sequence bigint      NOT NULL DEFAULT 0,
    anchored_at       timestamptz NOT NULL DEFAULT '2000-01-01 00:00:00Z',
    open_for          text
);
COMMENT ON COLUMN audit_chain.at IS 'time of the newest entry: of the next one it is the earliest';
COMMENT ON COLUMN audit_chain.open_for IS
    'incarnation_of(audit_chain) for which the head is known to be the newest that was ever sent';
INSERT INTO audit_chain DEFAULT VALUES;
