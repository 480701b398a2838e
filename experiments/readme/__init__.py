"""The README's tables, made from the results."""
