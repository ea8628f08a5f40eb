"""Quota on a real database."""
