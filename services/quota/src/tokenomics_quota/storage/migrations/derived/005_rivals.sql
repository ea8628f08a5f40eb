-- All records whose identity a lower one holds, those that conflict with it too: which of them are parked follows
-- from their digests whenever a yet lower record takes the identity. Conflicts parked before this are not here.
ALTER TABLE repeated RENAME TO rival;
ALTER TABLE rival ADD COLUMN digest bytea;
UPDATE rival SET digest = coalesce(
    (
        SELECT digest FROM governing_event
        WHERE governing_event.topic = rival.topic AND governing_event.identity = rival.identity
    ),
    (SELECT digest FROM fact WHERE fact.identity = rival.identity)
);
DELETE FROM rival WHERE digest IS NULL; -- of an identity that nobody holds any more
ALTER TABLE rival
    ALTER COLUMN digest SET NOT NULL,
    ADD CONSTRAINT rival_digest_check CHECK (octet_length(digest) = 16);
COMMENT ON TABLE rival IS 'records whose identity a lower one holds; parked if their digest differs from its';
