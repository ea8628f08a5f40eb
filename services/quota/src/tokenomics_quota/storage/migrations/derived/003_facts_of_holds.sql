-- A fact may name a hold. What the hold's caller says it cost is a fact too, a provisional one: it counts for as
-- long as no usage that reaches balances names the hold.
ALTER TABLE fact
    ADD COLUMN hold_id text,
    DROP CONSTRAINT fact_event_kind_check,
    DROP CONSTRAINT fact_check2,
    ADD CONSTRAINT fact_event_kind_check
        CHECK (event_kind IN ('recorded', 'corrected', 'awaited', 'provisional')),
    ADD CONSTRAINT fact_derived_check
        CHECK ((event_kind IN ('recorded', 'provisional')) = (cost_micro_usd IS NOT NULL AND period IS NOT NULL)),
    ADD CONSTRAINT fact_provisional_check CHECK (event_kind <> 'provisional' OR hold_id IS NOT NULL);
COMMENT ON COLUMN fact.event_kind IS
    'awaited: left by a correction whose original has not arrived; provisional: from the own topic, the others from usage';
COMMENT ON COLUMN fact.counted IS
    'false for a back-fill that policy keeps out of balances, and for a provisional fact that usage takes the place of';

CREATE INDEX fact_names_hold ON fact (hold_id) WHERE hold_id IS NOT NULL AND event_kind = 'recorded';
CREATE INDEX fact_provisional ON fact (hold_id) WHERE event_kind = 'provisional';
-- Facts that settle holds, in the order of the log.
CREATE INDEX fact_settles ON fact (event_kind, partition, record_offset) WHERE hold_id IS NOT NULL;
