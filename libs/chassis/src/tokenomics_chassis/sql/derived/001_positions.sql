CREATE TABLE position (
    source_id   integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    topic       text    NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint  NOT NULL DEFAULT 0,
    change_seq  bigint  NOT NULL DEFAULT 0,
    as_of       timestamptz, -- append time of the last record projected
    PRIMARY KEY (topic, partition)
);

CREATE TABLE parked (
    topic         text        NOT NULL,
    partition     integer     NOT NULL,
    record_offset bigint      NOT NULL,
    append_ms     bigint      NOT NULL,
    key           bytea,
    value         bytea,
    header_names  bytea[]     NOT NULL, -- mostly UTF-8, but a producer may write anything
    header_values bytea[]     NOT NULL,
    error_code    text        NOT NULL,
    error_message text        NOT NULL,
    attempts      integer     NOT NULL DEFAULT 1,
    parked_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition, record_offset)
);

CREATE TABLE skipped (
    topic         text    NOT NULL,
    partition     integer NOT NULL,
    record_offset bigint  NOT NULL,
    reason_code   text    NOT NULL,
    ticket_id     text    NOT NULL,
    PRIMARY KEY (topic, partition, record_offset)
);
