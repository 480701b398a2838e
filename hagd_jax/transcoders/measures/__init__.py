"""How well a transcoder stands in for the MLPs, and what its features write."""
