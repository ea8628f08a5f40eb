-- How far the announcer has read the service's own topic. Never versioned: it goes with what was announced.
CREATE TABLE recalled (
    topic       text    NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint  NOT NULL,
    PRIMARY KEY (topic, partition)
);
