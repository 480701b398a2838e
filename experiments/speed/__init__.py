"""Measure speed, beside other implementations and beside the arithmetic limit."""
