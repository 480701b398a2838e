"""Comparisons with other implementations, and golden files made by them."""
