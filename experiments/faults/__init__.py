"""Measure what is lost when runs are killed, damaged or raced, or when disks or files are bad."""
