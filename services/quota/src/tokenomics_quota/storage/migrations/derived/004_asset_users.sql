-- Who used what somebody shared, by the names that tools gave them. One row per source, as in posted.
CREATE TABLE asset_user (
    asset_id text NOT NULL,
    subject text NOT NULL,
    source_id int NOT NULL REFERENCES position (source_id),
    change_seq bigint NOT NULL,
    PRIMARY KEY (asset_id, subject, source_id)
);
CREATE INDEX asset_user_change ON asset_user (source_id, change_seq);
