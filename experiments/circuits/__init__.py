"""Find circuits in small models, in SmolLM2-135M and in models with known circuits."""
