"""`python -m hagd_jax.cli`, for where the script is not on the path."""

from hagd_jax.cli import main

main()
