"""Helpers for models with known circuits: flat masks of the true circuit, sampled prompts."""

from __future__ import annotations

import numpy as np

from hagd_jax.causal import Node
from hagd_jax.tasks import Prompts
from hagd_jax.testbeds import Case
from hagd_jax.units import Space, neurons


def places(space: Space) -> dict[Node, int]:
    """Map each node to its index in a flat mask: heads layer by layer, then neurons."""
    kinds = (("head", space.heads), ("neuron", space.features))
    every = (Node(kind, i, j) for kind, n in kinds for i in range(space.layers) for j in range(n))
    return {node: place for place, node in enumerate(every)}


def truth_of(case: Case, ablation: str) -> np.ndarray:
    """Return the true circuit under an ablation as a flat mask, (nodes,) bool."""
    space = neurons(case.model).space
    row, place = np.zeros(space.nodes, bool), places(space)
    row[[place[node] for node in case.truth[ablation]]] = True
    return row


def sample(prompts: Prompts, most: int, seed: int) -> Prompts:
    """Choose at most `most` prompts at random, and keep their order."""
    chosen = np.random.default_rng(seed).permutation(len(prompts))[:most]
    return prompts[np.sort(chosen)]
