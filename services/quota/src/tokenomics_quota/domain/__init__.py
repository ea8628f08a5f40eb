"""Rules of quota: pure functions and values; no I/O, no clock, no randomness."""
