-- The closings of a period, by period: what came later is found by comparing totals with the newest of them.
CREATE INDEX announcement_closed ON announcement (split_part(key, '/', 4), key, version) WHERE about = 'closed';
