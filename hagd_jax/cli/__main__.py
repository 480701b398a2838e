"""Run `hagd` as `python -m hagd_jax.cli`, for environments without the script on the path."""

from hagd_jax.cli import main

main()
