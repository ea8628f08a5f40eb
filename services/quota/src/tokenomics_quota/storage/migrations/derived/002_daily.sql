-- What was used on each day (in UTC), by owner, whatever for: what forecasts and the look for spikes go by.
-- One row per source, as in posted.
CREATE TABLE daily (
    owner text NOT NULL, -- <kind>/<owner_id>
    day date NOT NULL,
    source_id int NOT NULL REFERENCES position (source_id),
    posted_micro_usd bigint NOT NULL,
    PRIMARY KEY (owner, day, source_id)
);
-- Of what is projected already.
INSERT INTO daily (owner, day, source_id, posted_micro_usd)
SELECT owner, (occurred_at AT TIME ZONE 'UTC')::date, source_id, sum(cost_micro_usd)
FROM fact
JOIN position ON position.topic = 'tokenomics.usage.v1' AND position.partition = fact.partition
CROSS JOIN LATERAL (VALUES
    ('subject/' || subject_id),
    ('team/' || team_id),
    ('cost_centre/' || cost_centre_id),
    ('project/' || project_id),
    (CASE WHEN subject_id IS NULL THEN 'unattributed/unattributed' END)
) AS touched (owner)
WHERE event_kind = 'recorded' AND counted AND owner IS NOT NULL
GROUP BY 1, 2, 3
HAVING sum(cost_micro_usd) <> 0;
