"""Mixtures of experts: where their weights lie.

Published files have a tensor for each matrix of each expert. Transformers 5 computes with one
tensor for all experts of a layer; it writes the published form unless asked for its own, and
reads both, as is done here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from hagd_jax.brief import quoted
from hagd_jax.errors import ConfigError
from hagd_jax.models.config import DecoderConfig
from hagd_jax.models.decoder import param_specs
from hagd_jax.models.families import kin
from hagd_jax.models.families.table import Weight, select

_OTHERS = tuple(
    weight
    for weight in (*kin.ENDS, *kin.BEFORE, *kin.READS, *kin.QK_NORMS, *kin.WRITES)
    if not weight.leaf.startswith("blocks/mlp/")
)
_FUSED = "mlp.experts.gate_up_proj"


class Names(NamedTuple):
    """The names are those of a layer's tensors, where experts are stored one by one.

    Attributes:
        router: Of the router.
        experts: What the numbers of experts follow.
        gate: Of an expert's gate.
        up: Of the other matrix that reads its input.
        down: Of its output.
    """

    router: str
    experts: str
    gate: str
    up: str
    down: str


def table(config: DecoderConfig, names: Collection[str], own: Names) -> tuple[Weight, ...]:
    """List the weights of a mixture, in the form that a checkpoint has.

    Args:
        config: The decoder.
        names: Tensors of the checkpoint; the published form is taken where there are none.
        own: How the family calls them.

    Returns:
        One entry for each tensor of a layer and parameter in it.
    """
    fused = any(name.endswith(_FUSED) for name in names)
    dense = config.dense_layers
    mixed = [i for i in range(config.n_layers) if i not in dense] if dense else None
    router = kin.LAYER + ("mlp.gate.weight" if fused else own.router)
    found = [*_OTHERS, Weight("blocks/mlp/router/kernel", router, "x e", "e x", layers=mixed)]
    found += _together(mixed) if fused else _apart(config, mixed, own)
    return select([*found, *_dense(dense)], param_specs(config))


def _apart(config: DecoderConfig, layers: list[int] | None, own: Names) -> Iterator[Weight]:
    """One tensor a matrix and expert: an expert's neurons are a block of those of its layer."""
    for expert in range(config.experts):
        name, first = f"{kin.LAYER}{own.experts}.{expert}.", expert * config.d_expert
        for leaf, matrix in (("gate", own.gate), ("in", own.up)):
            yield Weight(f"blocks/mlp/{leaf}/kernel", name + matrix, "f e", "e f",
                         layers=layers, block=(0, first))  # fmt: skip
        yield Weight("blocks/mlp/out/kernel", name + own.down, "e f", "f e",
                     layers=layers, block=(first, 0))  # fmt: skip


def _together(layers: list[int] | None) -> Iterator[Weight]:
    """All experts of a layer in two tensors, gates before the other inputs."""
    for half, leaf in enumerate(("gate", "in")):
        yield Weight(f"blocks/mlp/{leaf}/kernel", kin.LAYER + _FUSED, "x (t f) e", "e (x f)",
                     {"t": half}, layers=layers)  # fmt: skip
    down = kin.LAYER + "mlp.experts.down_proj"
    yield Weight("blocks/mlp/out/kernel", down, "x e f", "(x f) e", layers=layers)


def _dense(layers: tuple[int, ...]) -> Iterator[Weight]:
    """Layers that are no mixture: their neurons come first, and the rest of the layer is zero."""
    if not layers:
        return
    for leaf, name in (("gate", "gate_proj"), ("in", "up_proj"), ("out", "down_proj")):
        stored, ours = ("e i", "i e") if leaf == "out" else ("i e", "e i")
        name = f"{kin.LAYER}mlp.{name}.weight"
        yield Weight(f"blocks/mlp/{leaf}/kernel", name, stored, ours, layers=layers, block=(0, 0))


def neurons(experts: int, each: int, name: str) -> dict[str, Any]:
    """Return the fields of `DecoderConfig` for so many experts with so many neurons each.

    Args:
        experts: E.
        each: Neurons of an expert.
        name: The option of `config.json` that says so.

    Raises:
        ConfigError: If there are no experts, or an expert has no neurons.
    """
    for option, value in (("number of experts", experts), (name, each)):
        if value < 1:
            raise ConfigError(f"config.json: {option}", got=quoted(value), expected="1 or more")
    return {"experts": experts, "d_mlp": experts * each}
