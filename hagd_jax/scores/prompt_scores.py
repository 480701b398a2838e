"""Scores of every node on every prompt, from which statistics over prompts are derived."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError, require_index, require_is, require_number
from hagd_jax.models import LanguageModel
from hagd_jax.models.arrays import read_array, read_indices
from hagd_jax.parallel import constrain, replicate
from hagd_jax.scores.gradient_config import GradientConfig, check_scored
from hagd_jax.scores.methods import How, Method, mask_gradients, read_method
from hagd_jax.scores.path import Metric
from hagd_jax.tasks.batching import padded_batches
from hagd_jax.tasks.metric import logit_difference
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen, look
from hagd_jax.units import Dictionary, Nodes, Scores, Source, Space, as_dictionary

# Of prompts, whether a node's sign is stable.
RESAMPLES = 200
_AXES = ("batch", "features")


@dataclasses.dataclass(frozen=True, eq=False)
class PromptScores:
    """Prompt scores hold a number for each node on each prompt, and the data that decided them.

    It is not a pytree: pass `values` to compiled functions, so that `seen` enters no cache key.

    Attributes:
        values: (P, N) float32, nodes in the order of `Nodes.flat`.
        space: Numbers of layers, heads and features.
        seen: The data that decided them.

    Raises:
        InputError: If values are not of these nodes, or there are none.

    Example:
        >>> values = np.array([[1.0, 2.0, -1.0], [3.0, -4.0, -1.0]], np.float32)
        >>> scores = PromptScores(values, Space(1, 1, 2), Seen.nothing())
        >>> scores.mean().flat().tolist(), scores.mean_magnitude().flat().tolist()
        ([2.0, -1.0, -1.0], [2.0, 3.0, 1.0])
        >>> scores.resample([1, 1]).mean().flat().tolist()
        [3.0, -4.0, -1.0]
    """

    values: Any
    space: Space
    seen: Seen

    def __post_init__(self):
        require_is("space", self.space, Space)
        require_is("seen", self.seen, Seen)
        values = read_array("values", self.values)
        fits = values.ndim == 2 and values.shape[1] == self.space.nodes and len(values)
        if not fits or not jnp.issubdtype(values.dtype, np.floating):
            raise InputError(
                "values", got=f"{values.dtype} of shape {values.shape}",
                expected=f"floats of shape (prompts, {self.space.nodes})",
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        try:
            prompts, nodes = self.values.shape
            return f"PromptScores({prompts:,} prompts, {nodes:,} nodes, {self.seen})"
        except Exception:  # values that are no array: a message must show them too
            return one_line(self)

    def mean(self) -> Scores:
        """Average over prompts: s_i = (1/P) Σ_p s_pi, which is what the method's own mean is."""
        return self._scores(_statistic(self.values, "mean", self._mesh))

    def magnitude_of_mean(self) -> Scores:
        """Take |mean|, which ranks nodes that hinder beside nodes that help."""
        return self._scores(_statistic(self.values, "magnitude_of_mean", self._mesh))

    def mean_magnitude(self) -> Scores:
        """Average magnitudes: (1/P) Σ_p |s_pi|, where effects of both signs do not cancel."""
        return self._scores(_statistic(self.values, "mean_magnitude", self._mesh))

    def sign_stable(self, resamples: int = RESAMPLES, *, seed: int = 0) -> Scores:
        """Shrink means whose sign depends on the choice of prompts.

        s_i = mean_i · (1/R) Σ_r 1[sign(mean of s_pi over resample r) = sign(mean_i)], where each
        resample draws P prompts with replacement. Nikankin et al. (2025, arXiv:2510.25786) drop
        edges whose bootstrapped sign is not certain enough; here they are shrunk by the share.

        Args:
            resamples: R.
            seed: Of the draws.

        Returns:
            The scores; those of one prompt are its own.

        Raises:
            ConfigError: If `resamples` is not positive.
            InputError: If the seed is no whole number.
        """
        require_number("resamples", resamples, least=1, whole=True)
        require_index("seed", seed)
        rows = np.random.default_rng(seed).integers(0, len(self), (resamples, len(self)))
        counts = np.stack([np.bincount(row, minlength=len(self)) for row in rows])
        return self._scores(_stable(self.values, counts.astype(np.float32), self._mesh))

    def resample(self, indices: Any) -> PromptScores:
        """Select prompts by number; a number may occur several times.

        Args:
            indices: (K,) integers from 0 to P − 1.

        Returns:
            The scores on K prompts. They have seen what all of them have, since which prompts
            were selected is itself a choice among these.

        Raises:
            InputError: If they are not numbers of prompts.
        """
        indices = read_indices("indices", indices, len(self), (None,))
        return PromptScores(_selected(self.values, indices, self._mesh), self.space, self.seen)

    @property
    def _mesh(self) -> jax.sharding.Mesh | None:
        mesh = getattr(getattr(self.values, "sharding", None), "mesh", None)
        return mesh if isinstance(mesh, jax.sharding.Mesh) else None

    def _scores(self, flat: jax.Array) -> Scores:
        return Scores(Nodes.from_flat(self.space, flat), self.seen)


def prompt_scores(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig | None = None,
    *,
    method: str | Method = "eap_ig",
    dictionary: Source | None = None,
    metric: Metric = logit_difference,
) -> PromptScores:
    """Score every node on every prompt.

    Batches stream through one compiled program, in which each prompt has masks of its own. P × N
    float32 numbers are kept, and a second copy while the batches are joined. On a mesh they are
    split over it, prompts as batches are and nodes as features are, where these divide. In a
    mixture of experts `relp` and `gim` hold the router's weights constant; in the other methods
    they vary with what the router reads, while the choice of experts passes no gradient.

    Args:
        model: The model.
        prompts: P clean prompts with their counterfactuals.
        config: Steps and batching; by default those of the method, in batches of 8.
        method: `ig`, `eap`, `eap_ig`, `relp`, `gim` or `conductance`, see `METHODS`; or a `Method`.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default.
        metric: (logits (B, T, V), prompts) → (B,), each of its own prompt alone; a module-level
            function (others recompile).

    Returns:
        The scores on the devices, in units of the metric, with what they have seen.

    Raises:
        ConfigError: If there is no such method.
        InputError: If the prompts or the dictionary do not fit the model.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> scores = prompt_scores(case.model, case.prompts, method="relp")
        >>> scores
        PromptScores(81 prompts, 10 nodes, Seen(ablations counterfactual; 81 prompts; either#...))
        >>> stable = scores.sign_stable()
    """
    nodes = as_dictionary(model, dictionary)
    parts = list(_batches(model, prompts, config, read_method(method), nodes, metric))
    seen = look(prompts, ablation="counterfactual", model=model, dictionary=nodes)
    return PromptScores(_joined(parts, len(prompts), model.mesh), nodes.space, seen)


def prompt_score_rows(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig | None = None,
    *,
    method: str | Method = "eap_ig",
    dictionary: Source | None = None,
    metric: Metric = logit_difference,
) -> Iterator[np.ndarray]:
    """Yield the scores of every node on every prompt batch by batch, so that no more are kept.

    Args:
        model: As in `prompt_scores`, and so are all other arguments.
        prompts: P prompts.
        config: How gradients are computed.
        method: The method.
        dictionary: The nodes inside MLPs.
        metric: The metric.

    Yields:
        (B, N) float32 on the host, the rows of the next B prompts.

    Raises:
        ConfigError: As `prompt_scores`.
        InputError: As `prompt_scores`.

    Example:
        >>> case = hagd.testbeds.hand_built()[0]
        >>> [len(rows) for rows in prompt_score_rows(case.model, case.prompts[:20])]
        [8, 8, 4]
    """
    nodes, left = as_dictionary(model, dictionary), len(prompts)
    for part in _batches(model, prompts, config, read_method(method), nodes, metric):
        yield np.asarray(_whole(part, model.mesh))[:left]
        left -= len(part)


def _batches(
    model: LanguageModel,
    prompts: Prompts,
    config: GradientConfig | None,
    method: Method,
    nodes: Dictionary,
    metric: Metric,
) -> Iterator[jax.Array]:
    """(B, N) rows of batches, the copies that fill up the last one among them."""
    config = GradientConfig(steps=method.steps) if config is None else config
    check_scored(model, prompts, config)
    bare, own = model.bare(), nodes.bare()
    steps, how = jnp.asarray(config.steps, jnp.float32), How(method, metric, config.remat, True)
    for batch, _ in padded_batches(model, prompts, config.batch_size):
        yield _rows(bare, own, batch, steps, how)


@functools.partial(jax.jit, static_argnames="how")
def _rows(
    model: LanguageModel, dictionary: Dictionary, batch: Prompts, steps: jax.Array, how: How
) -> jax.Array:
    """(B, N): several rows of one prompt add up."""
    found = mask_gradients(model, dictionary, batch, jnp.ones(len(batch)), steps, how)

    def flat(x: jax.Array) -> jax.Array:
        layers, _, width = x.shape
        rows = x.reshape(layers, len(batch), -1, width).sum(2)
        return rows.transpose(1, 0, 2).reshape(len(batch), -1)

    whole = jnp.concatenate([flat(found.heads), flat(found.features)], 1)
    return constrain(whole, _AXES, model.mesh)


@functools.partial(jax.jit, static_argnames="mesh")
def _whole(rows: jax.Array, mesh: jax.sharding.Mesh | None) -> jax.Array:
    return replicate(rows, mesh)


@functools.partial(jax.jit, static_argnames=("count", "mesh"))
def _joined(parts: list[jax.Array], count: int, mesh: jax.sharding.Mesh | None) -> jax.Array:
    return constrain(jnp.concatenate(parts)[:count], _AXES, mesh)


@functools.partial(jax.jit, static_argnames="mesh")
def _selected(values: jax.Array, rows: jax.Array, mesh: jax.sharding.Mesh | None) -> jax.Array:
    return constrain(jnp.asarray(values)[rows], _AXES, mesh)


@functools.partial(jax.jit, static_argnames=("which", "mesh"))
def _statistic(values: jax.Array, which: str, mesh: jax.sharding.Mesh | None) -> jax.Array:
    if which == "mean_magnitude":
        return replicate(jnp.abs(values).mean(0), mesh)
    mean = jnp.asarray(values).mean(0)
    return replicate(jnp.abs(mean) if which == "magnitude_of_mean" else mean, mesh)


@functools.partial(jax.jit, static_argnames="mesh")
def _stable(values: jax.Array, counts: jax.Array, mesh: jax.sharding.Mesh | None) -> jax.Array:
    """One resample after the other: (N,) numbers are kept, whatever R."""
    mean = jnp.asarray(values).mean(0)

    def add(total: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
        return total + (jnp.sign(row @ values) == jnp.sign(mean)), None

    total, _ = jax.lax.scan(add, jnp.zeros(mean.shape), counts)
    return replicate(mean * total / len(counts), mesh)
