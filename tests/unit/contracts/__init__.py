"""Unit tests of the contracts library."""
