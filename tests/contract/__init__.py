"""Contract tests: the catalogue, the envelope against an oracle, the checks against seeded violations."""
