"""A portrait of a circuit: what can be compared with a circuit of another model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from hagd_jax.causal import Circuit, Wiring
from hagd_jax.errors import InputError, require_config, require_is, require_list
from hagd_jax.models import LanguageModel
from hagd_jax.roles import NAMES, SignatureConfig
from hagd_jax.roles.signature import read_prompts
from hagd_jax.tasks.definition import Task
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.tasks.seen import Seen, look
from hagd_jax.transfer.config import PortraitConfig
from hagd_jax.transfer.population import (
    FAR,
    Population,
    measured,
    population,
    stand_ins,
)
from hagd_jax.transfer.structure import edge_shares
from hagd_jax.units import Unit, neurons
from hagd_jax.units import tree as tree_of
from hagd_jax.units.dictionary import NEURONS
from hagd_jax.units.unit import ATTENTION, CLUSTER


@dataclasses.dataclass(frozen=True, eq=False)
class Portrait:
    """A portrait says of some units of a model what they do and who reads whom.

    Nothing in it depends on the width, depth or family of the model, so that units of different
    models can be compared.

    Attributes:
        units: n units.
        names: What each is, for a reader, such as `heads 5.1,3` or `MLP 7 (340)` for some neurons.
        values: (n, K) signatures (`roles.NAMES`), in standard deviations from the mean of the
            model's heads and MLPs; 0 where a unit does not know a column.
        known: (n, K) bool.
        shares: (n + 2, n + 2) what share of its input a unit reads from each other one, see
            `edge_shares`: the embedding first, the logits last. None if it was not measured.
        depth: (n,) from 0 to 1: the mean of (layer + ½) / L over the layers of each unit.
        model: The model's name.
        task: The task's name.
        seen: The data that was looked at.

    Raises:
        InputError: If shapes do not fit, or a number is not finite.
    """

    units: tuple[Unit, ...]
    names: tuple[str, ...]
    values: np.ndarray
    known: np.ndarray
    shares: np.ndarray | None
    depth: np.ndarray
    model: str
    task: str
    seen: Seen = dataclasses.field(default_factory=Seen.unknown)

    def __post_init__(self):
        count = len(self.units)
        if not count:
            raise InputError("portrait", got="no unit", expected="one or more")
        if len(self.names) != count:
            raise InputError("names of a portrait", got=f"{len(self.names)}", expected=f"{count}")
        shapes = {"values": (count, len(NAMES)), "known": (count, len(NAMES)), "depth": (count,)}
        if self.shares is not None:
            shapes["shares"] = (count + 2, count + 2)
        for name, shape in shapes.items():
            found = np.asarray(getattr(self, name))
            if found.shape != shape:
                raise InputError(f"{name} of a portrait", got=f"shape {found.shape}",
                                 expected=f"{shape}")  # fmt: skip
            if found.dtype.kind not in "fb":
                raise InputError(f"{name} of a portrait", got=str(found.dtype)[:40],
                                 expected="an array of numbers")  # fmt: skip
            if not np.isfinite(found).all():
                raise InputError(f"{name} of a portrait", got="NaN or infinity",
                                 expected="finite numbers")  # fmt: skip
            object.__setattr__(self, name, found)
        self._require_possible()

    def _require_possible(self) -> None:
        """Refuse numbers that no measurement gives, and names that are no line of text."""
        far, shares = np.abs(self.values).max(), self.shares
        bad = ""
        if np.asarray(self.known).dtype != bool:
            bad = "`known` that is not bool"
        elif far > FAR + 1e-6:
            bad = f"a value of {far:.3g} deviations"
        elif self.depth.min() < 0 or self.depth.max() > 1:
            bad = "a depth outside 0 to 1"
        elif shares is not None and (shares.min() < 0 or shares.sum(0).max() > 1 + 1e-6):
            bad = "shares below 0, or that sum to more than 1"
        elif not all(isinstance(name, str) and name.isprintable() for name in self.names):
            bad = "a name that is not printable"
        if bad:
            raise InputError("portrait", got=bad, expected="what `portrait` measures")

    def __len__(self) -> int:
        return len(self.units)

    def __repr__(self) -> str:
        words = "without structure" if self.shares is None else "with structure"
        units = "unit" if len(self) == 1 else "units"
        return f"Portrait({len(self)} {units} of {self.task!r} in {self.model!r}, {words})"


def portrait(
    model: LanguageModel,
    task: Task | Prompts,
    circuit: Circuit | Wiring | Iterable[str | Unit] | None = None,
    config: PortraitConfig = PortraitConfig(),
    *,
    among: Population | None = None,
) -> Portrait:
    """Measure what the units of a circuit do and who reads whom.

    Args:
        model: The model.
        task: The circuit's task, with counterfactuals; or prompts.
        circuit: A circuit of heads and neurons; or units, or their names. If None, all heads and
            MLPs of the model, which may stand in for the units of another model's circuit; the
            edges between these are not measured.
        config: How they are measured.
        among: The model's heads and MLPs, from `population`; measured here if None.

    Returns:
        The portrait, units in the order of the circuit.

    Raises:
        InputError: If the circuit is of another model, of a transcoder's features or split by span,
            or if the model is a mixture of experts and `config.edges` is not 0.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> own = [name for name, role in case.roles.items() if "token" not in role]
        >>> portrait(case.model, case.prompts, own[:1])
        Portrait(1 unit of '' in 'induction plain small 0', with structure)
    """
    require_is("model", model, LanguageModel)
    require_is("task", task, Task, Prompts)
    require_config("config", config, PortraitConfig)
    units = stand_ins(model) if circuit is None else _units(model, circuit)
    seen, shares = Seen.nothing(), None
    if config.edges and circuit is not None and units:
        prompts = read_prompts(model, task, SignatureConfig(config.split, config.prompts))
        shares = edge_shares(model, prompts, units, config)
        name = {"split": config.split, "task": task.name} if isinstance(task, Task) else {}
        seen |= look(prompts, ablation=config.ablations, model=model, dictionary=NEURONS, **name)
    found = measured(model, task, units, config)
    if among is None:
        among = Population.of(found) if circuit is None else population(model, task, config)
    require_is("among", among, Population)
    seen |= found.seen | among.seen
    if isinstance(circuit, Circuit | Wiring):
        seen |= circuit.seen
    name = task.name if isinstance(task, Task) else ""
    layers = model.config.n_layers
    depth = np.array([(sum(unit.layers) + 1) / 2 / layers for unit in units])
    names = tuple(_name(unit, model.config.n_heads) for unit in units)
    return Portrait(units, names, among.standardise(found), found.known, shares, depth, model.name,
                    name, seen)  # fmt: skip


def _name(unit: Unit, heads: int) -> str:
    """The name of a unit; of a cluster which heads, or how many neurons of which MLP."""
    if unit.kind != CLUSTER or unit.leaf:
        return unit.name
    layer = unit.layers[0]
    if unit.block != ATTENTION:
        return f"MLP {layer} ({len(unit):,})"
    return f"heads {layer}.{','.join(str(place % heads) for place in unit.places().tolist())}"


def _units(model: LanguageModel, circuit: object) -> tuple[Unit, ...]:
    """The units of a circuit, checked to be the model's own."""
    if isinstance(circuit, Wiring):
        circuit = circuit.circuit
    if isinstance(circuit, Circuit):
        if circuit.spans:
            raise InputError("circuit", got=f"one split by the spans {', '.join(circuit.spans)}",
                             expected="whole units",
                             mend="Compare the circuit that was split.")  # fmt: skip
        circuit.check_model(neurons(model))
        return circuit.units
    if isinstance(circuit, str | Unit):
        circuit = [circuit]
    listed = require_list("circuit", circuit, "a circuit, or units or their names")
    tree = tree_of(model)
    return tuple(unit if isinstance(unit, Unit) else tree.unit(unit) for unit in listed)
