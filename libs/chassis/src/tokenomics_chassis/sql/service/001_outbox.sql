CREATE TABLE outbox (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    aggregate_id  text        NOT NULL,
    version       bigint      NOT NULL,
    topic         text        NOT NULL,
    key           bytea,
    header_names  text[]      NOT NULL,
    header_values bytea[]     NOT NULL,
    -- A record the broker refuses would block all behind it: refuse it while its author can still react.
    value         bytea       CHECK (octet_length(value) <= 900000),
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (aggregate_id, version)
);

-- A hint for the relay; polling is the truth.
CREATE FUNCTION signal_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(TG_TABLE_SCHEMA || '_outbox', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER outbox_signal AFTER INSERT ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION signal_outbox();
