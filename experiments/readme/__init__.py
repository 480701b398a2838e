"""Make the README's tables from the records in `results/`."""
