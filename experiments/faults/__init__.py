"""Runs that are killed end with the same bytes."""
