-- Command side, never derived: what policies would have decided. Losing it loses questions and their answers.
CREATE TABLE simulation (
    simulation_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    simulation_id text NOT NULL UNIQUE,
    documents text NOT NULL,
    since timestamptz NOT NULL,
    before timestamptz NOT NULL CHECK (before > since),
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'completed', 'failed')),
    begun int NOT NULL DEFAULT 0,
    replayed_events bigint NOT NULL DEFAULT 0,
    total_events bigint NOT NULL DEFAULT 0,
    result text,
    error_message text,
    ended_at timestamptz,
    CHECK ((state = 'completed') = (result IS NOT NULL)),
    CHECK ((state = 'failed') = (error_message IS NOT NULL)),
    CHECK ((state = 'running') = (ended_at IS NULL))
);
COMMENT ON COLUMN simulation.documents IS 'JSON, by kind';
COMMENT ON COLUMN simulation.begun IS 'how often; but for those times that were ended by a stop of the process';
CREATE INDEX simulation_running ON simulation (simulation_no) WHERE state = 'running';
