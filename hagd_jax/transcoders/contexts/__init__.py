"""Top activating contexts: where in held-out text each feature fires most."""
