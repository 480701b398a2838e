"""Transfer: circuits of different models compared, and carried from one to another."""

from hagd_jax.transfer.compare import Comparison, compare
from hagd_jax.transfer.config import MatchConfig, PortraitConfig
from hagd_jax.transfer.matching import Match, match, role_similarity, structure_similarity
from hagd_jax.transfer.nulls import lookalikes, reshuffled
from hagd_jax.transfer.population import Population, population
from hagd_jax.transfer.portrait import Portrait, portrait

__all__ = [
    "Comparison",
    "Match",
    "MatchConfig",
    "Population",
    "Portrait",
    "PortraitConfig",
    "compare",
    "lookalikes",
    "match",
    "population",
    "portrait",
    "reshuffled",
    "role_similarity",
    "structure_similarity",
]
