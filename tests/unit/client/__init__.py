"""What callers install."""
