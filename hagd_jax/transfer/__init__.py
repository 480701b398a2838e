"""Transfer: circuits of different models compared, and carried from one to another."""

from hagd_jax.transfer.carry import carried_scores, carry
from hagd_jax.transfer.compare import Comparison, compare
from hagd_jax.transfer.config import MatchConfig, PortraitConfig
from hagd_jax.transfer.matching import Match, match, role_similarity, structure_similarity
from hagd_jax.transfer.nulls import lookalikes, reshuffled
from hagd_jax.transfer.population import Population, population, stand_ins
from hagd_jax.transfer.portrait import Portrait, portrait
from hagd_jax.transfer.portrait_file import load_portrait, save_portrait

__all__ = [
    "Comparison",
    "Match",
    "MatchConfig",
    "Population",
    "Portrait",
    "PortraitConfig",
    "carried_scores",
    "carry",
    "compare",
    "load_portrait",
    "lookalikes",
    "match",
    "population",
    "portrait",
    "reshuffled",
    "role_similarity",
    "save_portrait",
    "stand_ins",
    "structure_similarity",
]
