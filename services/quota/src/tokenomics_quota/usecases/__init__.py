"""What quota does: each use case takes its ports as arguments and knows no adapter."""
