"""Compare circuits of different models, and carry them from one to another."""
