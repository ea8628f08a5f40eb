"""Quota guides AI spend with progressive friction instead of hard stops."""
