"""Experiments: each script states its command and runtime, and writes a file of `results/`."""
