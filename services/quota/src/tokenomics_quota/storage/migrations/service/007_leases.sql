-- What a hold is beside that its client draws from by itself.
CREATE TABLE lease (
    hold_no bigint PRIMARY KEY,
    draw_until timestamptz NOT NULL,
    longest_call interval NOT NULL CHECK (longest_call >= interval '0'),
    typical_call bytea NOT NULL,
    renewal int NOT NULL CHECK (renewal >= 0),
    renewal_digest bytea NOT NULL,
    drawn_micro_usd bigint NOT NULL CHECK (drawn_micro_usd >= 0),
    is_returned boolean NOT NULL
);
COMMENT ON COLUMN lease.draw_until IS 'by the ledger''s clock; its client counts from before it asked, hence to no later';
COMMENT ON COLUMN lease.typical_call IS 'what a renewal is judged and priced by, as its writer reads it';
