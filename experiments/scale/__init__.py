"""Measure how time and memory grow, and plan which programs fit on which devices."""
