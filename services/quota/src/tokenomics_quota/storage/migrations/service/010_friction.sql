-- What callers were answered while rules had friction budgets: not derived from the log. Weeks before the last are deleted.
-- Of each server the checks of a week (its Monday, UTC) that no rule held back.
CREATE TABLE friction_passed (
    week date NOT NULL,
    server_id uuid NOT NULL,
    checks bigint NOT NULL CHECK (checks > 0),
    PRIMARY KEY (week, server_id)
);
-- A rule held a subject back within an hour, however often it did, and on whichever servers.
CREATE TABLE friction_interruption (
    hour timestamptz NOT NULL,
    rule text NOT NULL,
    subject text NOT NULL,
    PRIMARY KEY (hour, rule, subject)
);
