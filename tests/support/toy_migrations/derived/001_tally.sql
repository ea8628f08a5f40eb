CREATE TABLE tally (
    name       text    PRIMARY KEY,
    total      bigint  NOT NULL CHECK (total < 1000000000),
    source_id  integer NOT NULL,
    change_seq bigint  NOT NULL
);

-- A record applied twice would violate this key.
CREATE TABLE applied (
    topic         text    NOT NULL,
    partition     integer NOT NULL,
    record_offset bigint  NOT NULL,
    PRIMARY KEY (topic, partition, record_offset)
);
