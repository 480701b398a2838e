"""Test the judge on known circuits, on planted lies and on simulated circuits."""
