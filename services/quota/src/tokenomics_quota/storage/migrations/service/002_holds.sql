-- The hold ledger: command side, never rebuilt. Whatever moves a hold or an account locks the single row of
-- `ledger` first, so that these transactions form one line. Each takes as many numbers there as it has commands,
-- and writes them on what they change: so `change_seq` is an exact cursor, and no row here is ever waited for but
-- that one. There are no foreign keys: numbers come from rows read or written in the same place of the line.
CREATE TABLE ledger (
    is_one boolean PRIMARY KEY DEFAULT true CHECK (is_one),
    change_seq bigint NOT NULL DEFAULT 0,
    last_now timestamptz NOT NULL DEFAULT '2000-01-01 00:00:00Z',
    open_for text
);
COMMENT ON COLUMN ledger.last_now IS 'the latest ledger''s now: max(clock, last_now), so that it never goes back';
COMMENT ON COLUMN ledger.open_for IS
    'incarnation of the database for which nothing can be missing: of another one, nothing is placed or ended';
INSERT INTO ledger DEFAULT VALUES;

-- What an account holds beside what is posted to it.
CREATE TABLE ledger_account (
    account_no int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL UNIQUE,
    placements int NOT NULL DEFAULT 0 CHECK (placements >= 0),
    live_micro_usd bigint NOT NULL DEFAULT 0 CHECK (live_micro_usd >= 0),
    settling_micro_usd bigint NOT NULL DEFAULT 0 CHECK (settling_micro_usd >= 0),
    covered_micro_usd bigint NOT NULL DEFAULT 0 CHECK (covered_micro_usd >= 0),
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'frozen', 'closed')),
    change_seq bigint NOT NULL
) WITH (fillfactor = 50);
COMMENT ON COLUMN ledger_account.placements IS 'sequence of its latest placement';
COMMENT ON COLUMN ledger_account.live_micro_usd IS 'sum of its rows in expiry, those that are past included';
COMMENT ON COLUMN ledger_account.settling_micro_usd IS 'settled by call, in full, until a fact shows it as posted';
COMMENT ON COLUMN ledger_account.covered_micro_usd IS 'settled within a hold that was live then';
-- A block range knows the largest number of its block: that finds what changed, and lets rows change in place.
CREATE INDEX ledger_account_change ON ledger_account USING brin (change_seq)
    WITH (pages_per_range = 1, autosummarize = on);

-- What of an account's live amount ends when: what is live at an instant is the account's amount less what
-- ended by then, one indexed sum, whatever the number of holds that ended. Past rows are taken out by the next
-- transaction that touches the account.
CREATE TABLE expiry (
    account_no int NOT NULL,
    expires_at timestamptz NOT NULL,
    amount_micro_usd bigint NOT NULL CHECK (amount_micro_usd >= 0),
    PRIMARY KEY (account_no, expires_at)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- A hold as it was placed: one row per hold id for as long as it is remembered, written once. A part uses what
-- remains of its parent and is on no account itself: what it settles, it settles of every hold above it.
CREATE TABLE placed_hold (
    hold_no bigint PRIMARY KEY,
    placed_at timestamptz NOT NULL,
    placed_until timestamptz NOT NULL CHECK (placed_until > placed_at),
    amount_micro_usd bigint NOT NULL CHECK (amount_micro_usd >= 0),
    parent_no bigint CHECK (parent_no < hold_no),
    root_no bigint CHECK (root_no <= parent_no),
    kind text NOT NULL CHECK (kind IN ('call', 'lease', 'part')),
    hold_id text NOT NULL UNIQUE,
    subject text NOT NULL,
    project_id text,
    is_experiment boolean NOT NULL,
    account_nos int[] NOT NULL,
    digest bytea NOT NULL,
    answer bytea NOT NULL,
    CHECK ((kind = 'part') = (parent_no IS NOT NULL)),
    CHECK ((kind = 'part') = (root_no IS NOT NULL)),
    CHECK ((kind = 'part') = (account_nos = '{}'))
);
COMMENT ON COLUMN placed_hold.hold_no IS 'the ledger''s change_seq of the command that placed it';
COMMENT ON COLUMN placed_hold.placed_until IS 'its end, unless it is extended';
COMMENT ON COLUMN placed_hold.digest IS
    'over what was asked for, and each of its fields: tells a repeated call from another one with its id';
COMMENT ON COLUMN placed_hold.answer IS
    'what the call that placed it was answered beside the hold, as its writer reads it';
CREATE INDEX placed_hold_subject ON placed_hold (subject, hold_no);

-- Where holds stand whose end nobody wrote down: some are past it already. Rows come and go all the time.
CREATE TABLE live_hold (
    hold_no bigint PRIMARY KEY,
    expires_at timestamptz NOT NULL,
    amount_micro_usd bigint NOT NULL,
    covered_micro_usd bigint NOT NULL CHECK (covered_micro_usd BETWEEN 0 AND amount_micro_usd),
    cost_micro_usd bigint CHECK (cost_micro_usd >= 0),
    parts_micro_usd bigint CHECK (parts_micro_usd > 0),
    root_no bigint,
    CHECK (covered_micro_usd <= coalesce(cost_micro_usd, 0) + coalesce(parts_micro_usd, 0))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX live_hold_expires_at ON live_hold (expires_at);
CREATE INDEX live_hold_root ON live_hold (root_no) WHERE root_no IS NOT NULL;

-- Where holds stand that have ended: no hold has a row both here and among the live ones.
CREATE TABLE ended_hold (
    hold_no bigint PRIMARY KEY,
    amount_micro_usd bigint NOT NULL,
    covered_micro_usd bigint NOT NULL CHECK (covered_micro_usd BETWEEN 0 AND amount_micro_usd),
    cost_micro_usd bigint CHECK (cost_micro_usd >= 0),
    parts_micro_usd bigint CHECK (parts_micro_usd > 0),
    settling_micro_usd bigint CHECK (settling_micro_usd BETWEEN 1 AND cost_micro_usd),
    expires_at timestamptz,
    ended_by text NOT NULL CHECK (ended_by IN ('usage', 'call', 'release', 'expiry')),
    CHECK (ended_by NOT IN ('usage', 'call') OR cost_micro_usd IS NOT NULL),
    CHECK (ended_by <> 'usage' OR settling_micro_usd IS NULL),
    CHECK (covered_micro_usd <= coalesce(cost_micro_usd, 0) + coalesce(parts_micro_usd, 0))
);
COMMENT ON COLUMN ended_hold.covered_micro_usd IS
    'what usage settled of it while it was live, its parts'' included';
COMMENT ON COLUMN ended_hold.cost_micro_usd IS 'what usage of it cost, in full, parts not included; NULL: none is known';
COMMENT ON COLUMN ended_hold.parts_micro_usd IS 'of covered_micro_usd, what its parts settled; NULL: nothing';
COMMENT ON COLUMN ended_hold.settling_micro_usd IS
    'of cost_micro_usd, what its accounts count as settling; NULL: nothing';
COMMENT ON COLUMN ended_hold.expires_at IS 'its end, if that was moved; NULL: as it was placed';
COMMENT ON COLUMN ended_hold.ended_by IS 'usage, or its caller''s SettleHold, which usage may replace; or without usage';

-- Each hold as it stands.
CREATE VIEW hold AS
SELECT placed.hold_no, placed.hold_id, placed.kind,
    CASE WHEN ended.ended_by IN ('usage', 'call') THEN 'settled'
         WHEN ended.ended_by = 'release' THEN 'released'
         WHEN ended.ended_by = 'expiry' THEN 'expired'
         ELSE 'live' END AS state,
    placed.subject, placed.project_id,
    CASE WHEN placed.is_experiment THEN 'experiment' ELSE 'operational' END AS purpose,
    coalesce(live.amount_micro_usd, ended.amount_micro_usd) AS amount_micro_usd,
    placed.account_nos, placed.placed_at,
    coalesce(live.expires_at, ended.expires_at, placed.placed_until) AS expires_at,
    placed.digest, placed.answer, placed.parent_no, placed.root_no, placed.placed_until,
    coalesce(live.covered_micro_usd, ended.covered_micro_usd) AS covered_micro_usd,
    coalesce(live.cost_micro_usd, ended.cost_micro_usd) AS cost_micro_usd,
    coalesce(live.parts_micro_usd, ended.parts_micro_usd, 0) AS parts_micro_usd,
    coalesce(ended.settling_micro_usd, 0) AS settling_micro_usd,
    coalesce(ended.ended_by = 'usage', false) AS usage_named
FROM placed_hold AS placed
LEFT JOIN live_hold AS live USING (hold_no)
LEFT JOIN ended_hold AS ended USING (hold_no);

-- The proof that no admission overshot: what was committed on the account (covered and live) just before, and
-- the limit then; no limit where the account has no hard one.
CREATE TABLE placement (
    hold_no bigint NOT NULL,
    committed_before_micro_usd bigint NOT NULL CHECK (committed_before_micro_usd >= 0),
    amount_micro_usd bigint NOT NULL CHECK (amount_micro_usd >= 0),
    limit_then_micro_usd bigint,
    account_no int NOT NULL,
    sequence int NOT NULL,
    PRIMARY KEY (account_no, sequence),
    CHECK (committed_before_micro_usd + amount_micro_usd <= limit_then_micro_usd)
);
