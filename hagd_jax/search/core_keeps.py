"""What a core keeps of a behaviour, beside its circuit and random members of the circuit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.causal import Circuit, SizePoint, size_curve
from hagd_jax.errors import InputError, require_index, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.search.certified_core import Core
from hagd_jax.tasks.definition import Task
from hagd_jax.units import Nodes, Source, as_dictionary


class CoreKeeps(NamedTuple):
    """What a core keeps is measured beside its circuit and random members of the circuit.

    Attributes:
        core: Size, faithfulness, accuracy and KL of the leaves of the core alone.
        circuit: The same of the circuit.
        random: The same of as many random members of the circuit, one a draw.
        shared: Leaves of the core that are members of the circuit.
    """

    core: SizePoint
    circuit: SizePoint
    random: tuple[SizePoint, ...]
    shared: int

    __repr__ = one_line

    def row(self) -> dict[str, float]:
        """Return faithfulness, accuracy and KL of core, circuit and, as means, random members.

        A faithfulness that is not defined is NaN.
        """
        found: dict[str, float] = {"leaves": self.core.nodes, "shared": self.shared}
        found["circuit leaves"] = self.circuit.nodes
        groups = (("", [self.core]), ("circuit ", [self.circuit]), ("random ", self.random))
        for said, points in groups:
            found[f"{said}faithfulness"] = float(np.mean([p.faithfulness.value for p in points]))
            found[f"{said}accuracy"] = float(np.mean([p.accuracy.value for p in points]))
            found[f"{said}kl"] = float(np.mean([p.kl for p in points]))
        return found


def core_keeps(
    model: LanguageModel,
    task: Task,
    circuit: Circuit,
    core: Core,
    *,
    radius: int = 1,
    dictionary: Source | None = None,
    draws: int = 16,
    **how: str | int,
) -> CoreKeeps:
    """Measure the core alone beside its circuit and as many random members of the circuit.

    It is a measurement and no verdict: `causal.validate` judges circuits.

    Args:
        model: The model.
        task: The behaviour.
        circuit: The circuit that the core is compared with.
        core: A core over the leaves of the same dictionary.
        radius: Which units count as the core, see `Core.members`.
        dictionary: What the nodes inside MLPs are: a transcoder, or neurons by default.
        draws: Number of random parts of the circuit.
        **how: `ablation`, `split`, `batch_size` and `seed` of `causal.size_curve`; the seed also
            draws the random members.

    Returns:
        The measurements, each with its interval.

    Raises:
        InputError: If the circuit or the core has other nodes than the dictionary, the core has no
            member at that radius or more leaves than the circuit, or both were found in different
            models or dictionaries.

    Example:
        >>> from hagd_jax.search import core
        >>> from hagd_jax.testbeds import as_task, hand_built
        >>> case = hand_built()[0]
        >>> every = Nodes.full(hagd.units.neurons(case.model).space, True)
        >>> circuit = Circuit.from_mask(every, every, model="either", task="or")
        >>> scores = np.tile(np.arange(len(circuit)) / 1.0, (32, 1))
        >>> core_keeps(case.model, as_task(case), circuit, core(scores, 3)).row()["shared"]
        3
    """
    require_is("circuit", circuit, Circuit)
    require_is("core", core, Core)
    nodes = as_dictionary(model, dictionary)
    circuit.check_model(nodes)
    _require_same(circuit, core, nodes.space.nodes)
    draws, seed = require_index("draws", draws), require_index("seed", how.get("seed", 0))
    inside, own = core.leaf_mask(radius), circuit.places()
    size = int(inside.sum())
    if not 1 <= size <= len(own) or not draws:
        raise InputError(
            "core", got=f"{size} leaves at radius {radius}, {draws} draws",
            expected=f"1 to {len(own)} leaves, the circuit's number, and a draw or more",
            mend="Choose another radius, or discover more units.",
        )  # fmt: skip
    rng = np.random.default_rng([seed, 2])
    masks = [inside, circuit.mask().flat()]
    for _ in range(draws):
        some = np.zeros(len(inside), bool)
        some[rng.choice(own, size, replace=False)] = True
        masks.append(some)
    points = size_curve(
        model, task, [Nodes.from_flat(nodes.space, mask) for mask in masks],
        dictionary=dictionary, **how,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    return CoreKeeps(points[0], points[1], points[2:], int(inside[own].sum()))


def _require_same(circuit: Circuit, core: Core, leaves: int) -> None:
    """Refuse a core of other leaves, or found in another model or dictionary."""
    if core.leaves != leaves:
        raise InputError("core", got=f"{core.leaves} leaves", expected=f"{leaves}, as the model")
    for what in ("models", "dictionaries"):
        own, other = getattr(core.seen, what), getattr(circuit.seen, what)
        if own and other and not set(own) & set(other):
            raise InputError(
                f"{what} of the core", got=", ".join(own),
                expected=f"one of the circuit's: {', '.join(other)}",
            )  # fmt: skip
