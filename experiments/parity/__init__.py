"""Compare results with other implementations, and make golden files with them."""
