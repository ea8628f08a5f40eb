"""What quota derives from events: pure folds, the same live and replayed."""
