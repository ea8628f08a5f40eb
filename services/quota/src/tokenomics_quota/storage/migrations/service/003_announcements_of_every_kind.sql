-- One table for everything that is said once, whatever its kind.
ALTER TABLE announcement RENAME COLUMN account_id TO key;
ALTER TABLE announcement RENAME COLUMN posted_micro_usd TO measured;
ALTER TABLE announcement RENAME COLUMN limit_micro_usd TO bound;
ALTER TABLE announcement RENAME COLUMN threshold_basis_points TO basis_points;
ALTER TABLE announcement
    DROP CONSTRAINT announcement_account_id_threshold_basis_points_limit_micro__key,
    ADD COLUMN event_type text NOT NULL DEFAULT 'tokenomics.threshold.crossed.v1',
    ADD COLUMN about text,
    ADD COLUMN version bigint NOT NULL DEFAULT 1;
UPDATE announcement SET about = concat(basis_points, '/', bound);
ALTER TABLE announcement
    ALTER COLUMN event_type DROP DEFAULT,
    ALTER COLUMN about SET NOT NULL,
    ALTER COLUMN version DROP DEFAULT,
    ADD UNIQUE (key, about, version);
COMMENT ON COLUMN announcement.key IS 'of the event: an account id, a subject, whatever it is about';
COMMENT ON COLUMN announcement.about IS 'what beside the key makes it this announcement and no other';
COMMENT ON COLUMN announcement.measured IS 'what it rests on: at least basis_points of the bound';
