"""Heavy proofs of the guarantees, against an independent recomputation: `python -m tests.proofs`."""
