-- Command side, never derived: what somebody would have published. Losing it loses drafts, no policy.
CREATE TABLE policy_proposal (
    proposal_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    proposal_id text NOT NULL UNIQUE,
    kind text NOT NULL,
    replaces int,
    effective_from timestamptz NOT NULL,
    document text NOT NULL,
    proposed_by text NOT NULL,
    proposed_at timestamptz NOT NULL
);
