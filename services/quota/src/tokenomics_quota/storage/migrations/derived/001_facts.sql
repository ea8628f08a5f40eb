-- One row per event of the usage topic: what it said, and what follows from it.
-- Rewritten in full by a rebuild; every total derives from it.
CREATE TABLE fact (
    identity bytea PRIMARY KEY CHECK (octet_length(identity) = 16),
    digest bytea,
    event_kind text NOT NULL CHECK (event_kind IN ('recorded', 'corrected', 'awaited')),
    append_ms bigint,
    partition int,
    record_offset bigint,
    occurred_at timestamptz,
    subject text,
    provider text,
    model text,
    input_tokens int,
    cached_input_tokens int,
    cache_creation_tokens int,
    output_tokens int,
    reasoning_tokens int,
    service_tier text,
    reported_cost_micro_usd bigint CHECK (reported_cost_micro_usd >= 0),
    purpose text,
    project_id text,
    corrects bytea,
    revision int,
    counted boolean,
    applied_revision int,
    cost_micro_usd bigint CHECK (cost_micro_usd >= 0),
    pricing text CHECK (pricing IN ('reported', 'book', 'fallback')),
    price_book_version int,
    subject_id text,
    team_id text,
    cost_centre_id text,
    period text,
    CHECK (event_kind = 'awaited' OR (digest IS NOT NULL AND occurred_at IS NOT NULL AND subject IS NOT NULL)),
    CHECK ((event_kind = 'corrected') = (corrects IS NOT NULL AND revision IS NOT NULL)),
    CHECK ((event_kind = 'recorded') = (cost_micro_usd IS NOT NULL AND period IS NOT NULL))
);
COMMENT ON COLUMN fact.event_kind IS 'awaited: left by a correction whose original has not arrived';
COMMENT ON COLUMN fact.counted IS 'false for a back-fill that policy keeps out of balances';

-- A directory event re-derives the facts of the subjects it touches.
CREATE INDEX fact_subject ON fact (subject, occurred_at);
-- A price book re-derives the facts since it took effect; facts arrive roughly in the order of their time.
CREATE INDEX fact_occurred_at ON fact USING brin (occurred_at);
CREATE INDEX fact_corrects ON fact (corrects) WHERE corrects IS NOT NULL;

-- Posted amounts, one row per account and source: only the source's own transaction writes its rows, so
-- that concurrent partitions never wait for each other on a team's total. A balance is the sum over sources.
CREATE TABLE posted (
    account_id text NOT NULL,
    source_id int NOT NULL REFERENCES position (source_id),
    period text NOT NULL,
    posted_micro_usd bigint NOT NULL,
    change_seq bigint NOT NULL,
    PRIMARY KEY (account_id, source_id)
);
-- The exact cursor of views and announcer: a source's transactions are serialised by its position row.
CREATE INDEX posted_change ON posted (source_id, change_seq);

-- Records that repeat the holder of their identity: parked, all of them, should a lower record with another
-- payload turn up later in another partition and show that they were the ones in the wrong.
CREATE TABLE repeated (
    topic text NOT NULL,
    identity bytea NOT NULL,
    append_ms bigint NOT NULL,
    partition int NOT NULL,
    record_offset bigint NOT NULL,
    PRIMARY KEY (topic, identity, partition, record_offset)
);

-- Directory and policy events in force, the input of every derivation.
CREATE TABLE governing_event (
    topic text NOT NULL,
    identity bytea NOT NULL CHECK (octet_length(identity) = 16),
    digest bytea NOT NULL,
    append_ms bigint NOT NULL,
    partition int NOT NULL,
    record_offset bigint NOT NULL,
    event_type text NOT NULL,
    data bytea NOT NULL,
    governing_version bigint NOT NULL,
    PRIMARY KEY (topic, identity)
);
CREATE INDEX governing_event_version ON governing_event (governing_version);

-- Every version of governing_event, one a transaction that changed it; read under the governing lock. The
-- random id tells two histories apart that reached the same number: another process after a rollback, or a
-- restored copy that went on by itself.
CREATE TABLE governing_version (
    number bigint PRIMARY KEY,
    history_id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO governing_version (number) VALUES (0);
