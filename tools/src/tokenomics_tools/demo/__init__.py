"""The main job on real input, checked claim by claim."""
