-- History, not derived: what was said to the company. A rebuild never touches it.
CREATE TABLE announcement (
    announcement_id uuid PRIMARY KEY,
    account_id text NOT NULL,
    threshold_basis_points int NOT NULL,
    limit_micro_usd bigint NOT NULL,
    posted_micro_usd bigint NOT NULL,
    announced_at timestamptz NOT NULL,
    UNIQUE (account_id, threshold_basis_points, limit_micro_usd),
    -- An announcement is true when it is made.
    CHECK (posted_micro_usd::numeric * 10000 >= limit_micro_usd::numeric * threshold_basis_points)
);
