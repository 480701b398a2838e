"""Experiments. Each script states its command and runtime, and writes a file in `results/`."""
