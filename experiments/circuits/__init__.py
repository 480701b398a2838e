"""Circuits found in small models, in SmolLM2-135M and in models whose circuits are known."""
