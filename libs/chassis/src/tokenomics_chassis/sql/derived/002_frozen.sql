-- Until then nothing is projected into this version: a promotion lets the next one reach it. It stands on the
-- position's row, whose lock every batch takes first, so that no batch under way outlives the freeze.
ALTER TABLE position ADD COLUMN frozen_until timestamptz;
