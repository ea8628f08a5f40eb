"""The pure parts of the chassis' streams."""
