"""How time and memory grow, and what fits where."""
