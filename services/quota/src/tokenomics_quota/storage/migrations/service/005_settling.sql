-- How holds end by usage, and how they come back after a loss.
ALTER TABLE ledger ADD COLUMN recalled_for text;
COMMENT ON COLUMN ledger.recalled_for IS
    'incarnation of the database in which the ledger has all that its own topic tells of it';

-- How far facts have settled holds, by the topic-partition they come from. Moved together with what they settle.
CREATE TABLE settled (
    topic text NOT NULL,
    partition int NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (topic, partition)
);

-- Usage that settled some of a lease: read again, as after a loss, it settles nothing. A call says so itself.
CREATE TABLE lease_draw (
    usage_identity bytea PRIMARY KEY CHECK (octet_length(usage_identity) = 16),
    hold_no bigint NOT NULL
);
CREATE INDEX lease_draw_hold ON lease_draw (hold_no);

-- Changes that the own topic tells of and the ledger lacks, until they are done again in the order of their
-- numbers: read by partition, they come in none. Empty but for the moments after a loss.
CREATE TABLE told_change (
    change_seq bigint NOT NULL,
    event_id text NOT NULL,
    told_at timestamptz NOT NULL,
    event_type text NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (change_seq, event_id)
);
