"""Tests of adapters and processes: they need the stack."""
