"""Tests of pure rules: they need nothing."""
