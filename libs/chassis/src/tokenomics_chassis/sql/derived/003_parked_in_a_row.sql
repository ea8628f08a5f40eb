-- Records the reader could not apply since the last that it could, or that an operator mended. Those of which the
-- producer is to blame, and those queued behind another, don't count.
ALTER TABLE position ADD COLUMN parked_in_a_row integer NOT NULL DEFAULT 0;
