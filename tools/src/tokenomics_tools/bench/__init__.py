"""Benchmarks: each hot path beside its floor, both measured in the same run."""
