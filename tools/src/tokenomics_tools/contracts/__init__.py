"""Generates what follows from the contracts, and checks that it is current and breaks no reader."""
