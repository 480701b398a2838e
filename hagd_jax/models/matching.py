"""Does a checkpoint hold just the tensors that a model needs? Asked before anything is read."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Callable, Iterator, Sequence

from hagd_jax.brief import spelled
from hagd_jax.errors import CheckpointError
from hagd_jax.models.families.table import Sizes, Source, Weight

_log = logging.getLogger(__name__)
_AT_MOST = 5


def match(
    source: Source,
    weights: Sequence[Weight],
    sizes: Sizes,
    *,
    prefix: str = "",
    ignores: Callable[[str], bool] = lambda name: False,
    strict: bool = True,
) -> tuple[Weight, ...]:
    """Check every tensor's name, shape and dtype against a weight table.

    Args:
        source: The checkpoint.
        weights: What the model needs.
        sizes: Size of each axis, see `axis_sizes`; `l` is the number of layers.
        prefix: Start of names that is dropped when no tensor in the checkpoint has it.
        ignores: Whether a stored tensor that the model does not need is known to be harmless.
        strict: Refuse other tensors that the model does not need.

    Returns:
        The weights, under the names that the checkpoint uses.

    Raises:
        CheckpointError: Naming the tensor and its file.
    """
    names, weights = source.names(), named(weights, source, prefix)
    expected: set[str] = set()
    for weight, name in _tensors(weights, sizes["l"]):
        if name not in names:
            raise _absent(name, weight, sizes, source, expected)
        expected.add(name)
        want, have = weight.stored_shape(sizes), source.shape(name)
        if have != want:
            raise CheckpointError(
                f"{source.describe(name)}: tensor {name}",
                got=f"shape {have}",
                expected=f"{want} by config.json",
                mend="The configuration and the weights are of different models.",
            )
        source.dtype(name)
    unknown = sorted(name for name in names - expected if not ignores(name))
    if unknown:
        what = f"{source.describe(unknown[0])}: tensor {_list(unknown)}"
        if not strict:
            _log.warning("%s: %d left out: the model has no place for them", what, len(unknown))
            return tuple(weights)
        raise CheckpointError(
            what,
            got=f"{len(unknown)} that the model has no place for",
            expected="only its own weights",
            mend="If they can be left out, load with strict=False.",
        )
    return tuple(weights)


def named(weights: Sequence[Weight], source: Source, prefix: str) -> Sequence[Weight]:
    """Rename a weight table to the names that a checkpoint uses.

    Args:
        weights: The table.
        source: The checkpoint.
        prefix: Start of names that is dropped when no tensor in the checkpoint has it.

    Returns:
        The table.
    """
    if not prefix or any(name.startswith(prefix) for name in source.names()):
        return weights
    return [dataclasses.replace(w, name=w.name.removeprefix(prefix)) for w in weights]


def _tensors(weights: Sequence[Weight], layers: int) -> Iterator[tuple[Weight, str]]:
    # Layer by layer and lazily: a damaged number of layers ends at the first one that is absent.
    for layer in range(layers):
        for weight in weights:
            if weight.within(layer) if weight.per_layer else layer == 0:
                yield weight, weight.tensor(layer)


def _absent(
    name: str, weight: Weight, sizes: Sizes, source: Source, expected: set[str]
) -> CheckpointError:
    spare = sorted(source.names() - expected)
    near = difflib.get_close_matches(name, spare[:2000], n=2)
    where = source.describe(spare[0]) if spare else "the checkpoint"
    mend = f"The nearest names there: {', '.join(map(spelled, near))}." if near else None
    if weight.leaf.startswith("unembed"):
        mend = "Is it tied to the embedding? Then config.json must say tie_word_embeddings: true."
    return CheckpointError(
        f"tensor {name}",
        got=f"no such tensor ({where} ...)",
        expected=f"one of shape {weight.stored_shape(sizes)}",
        mend=mend,
    )


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _AT_MOST} more" if len(names) > _AT_MOST else ""
    return ", ".join(map(spelled, names[:_AT_MOST])) + more
