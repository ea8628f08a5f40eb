-- What was read of each CloudEvents source in each partition, whatever became of it: it follows from the log alone.
CREATE TABLE event_source (
    source_id      integer NOT NULL REFERENCES position (source_id),
    source         text    NOT NULL,
    last_append_ms bigint  NOT NULL,
    PRIMARY KEY (source_id, source)
);
-- How many, and how late, by the hour in which they were appended (since 1970); the last day of each partition.
CREATE TABLE event_source_hour (
    source_id integer  NOT NULL REFERENCES position (source_id),
    hour      integer  NOT NULL,
    source    text     NOT NULL,
    delay_bin smallint NOT NULL, -- see tokenomics_chassis.event_sources
    events    bigint   NOT NULL,
    PRIMARY KEY (source_id, hour, source, delay_bin)
);
ALTER TABLE position
    ADD COLUMN newest_hour integer NOT NULL DEFAULT 0,
    ADD COLUMN event_sources integer NOT NULL DEFAULT 0; -- how many are in event_source
