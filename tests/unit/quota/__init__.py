"""Pure rules of the quota service."""
