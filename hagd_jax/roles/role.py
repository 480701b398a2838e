"""Roles of units, and the rows that a table of a circuit shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from hagd_jax.causal import Circuit
from hagd_jax.errors import InputError, require_is
from hagd_jax.models import LanguageModel
from hagd_jax.roles.necessity import necessity
from hagd_jax.roles.rules import RULES, UNNAMED, Rule
from hagd_jax.roles.signature import SignatureConfig, Signatures, read_prompts, signatures
from hagd_jax.tasks.definition import Task
from hagd_jax.tasks.prompts import Prompts
from hagd_jax.units import Source, Space, Spanned, Unit, as_dictionary, neurons
from hagd_jax.units.dictionary import MLPS, NEURONS, whole_label
from hagd_jax.units.split import whole_space, whole_unit
from hagd_jax.units.unit import BAND, block_ranges


class Role(NamedTuple):
    """A role is what a rule says of a unit.

    Attributes:
        name: One of `ROLES`; `unnamed` where no rule holds.
        rule: Name of the rule; empty where none holds.
        confidence: Lower end of the 95% interval of the share of tuning units that the rule named
            rightly; 0 where none holds.
    """

    name: str
    rule: str = ""
    confidence: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Roles(Sequence[Role]):
    """Roles are those of some units, in their order; printed, a line each.

    Attributes:
        units: The units.
        roles: A role for each.
    """

    units: tuple[Unit, ...]
    roles: tuple[Role, ...]

    def __len__(self) -> int:
        return len(self.roles)

    def __getitem__(self, index):  # type: ignore[override]
        return self.roles[index]

    def __iter__(self) -> Iterator[Role]:
        return iter(self.roles)

    def of(self, name: str) -> Role:
        """Return the role of the unit of a name.

        Raises:
            InputError: If there is no such unit among them.
        """
        for unit, role in zip(self.units, self.roles, strict=True):
            if unit.name == name:
                return role
        raise InputError("unit", got=repr(name)[:80], expected="one that has a role here")

    def __str__(self) -> str:
        return "\n".join(
            f"{unit.name}: {role.name}"
            + (f" ({role.rule}; right in at least {role.confidence:.0%})" if role.rule else "")
            for unit, role in zip(self.units, self.roles, strict=True)
        )

    def __repr__(self) -> str:
        named = sum(role.name != UNNAMED for role in self.roles)
        return f"Roles({named} of {len(self)} units named)"


def roles_of(signatures: Signatures, rules: Sequence[Rule] = RULES) -> Roles:
    """Name the role of every unit by the first rule that holds.

    Args:
        signatures: As measured, not standardised.
        rules: In the order in which they are tried.

    Returns:
        A role for each unit; `unnamed` where no rule holds.

    Raises:
        InputError: If the signatures were standardised, which rules do not know.

    Example:
        >>> case = hagd.testbeds.role_case("induction", "plain", 0)
        >>> head = next(name for name, role in case.roles.items() if role == "induction")
        >>> roles_of(hagd.roles.signatures(case.model, case.prompts, [head]))[0].name
        'induction'
    """
    require_is("signatures", signatures, Signatures)
    if signatures.standard:
        raise InputError(
            "signatures", got="standardised ones", expected="them as measured",
            mend="Pass what `signatures` returned, before `.standardised()`.",
        )  # fmt: skip
    return Roles(signatures.units, named(signatures.values, rules))


def named(values: np.ndarray, rules: Sequence[Rule] = RULES) -> tuple[Role, ...]:
    """Name the role of every row of a table of signatures, see `roles_of`.

    Args:
        values: (U, K), not standardised.
        rules: In the order in which they are tried.

    Returns:
        A role for each row.

    Example:
        >>> named(np.zeros((1, len(hagd.roles.NAMES))))[0].name
        'inert'
    """
    found = [Role(UNNAMED)] * len(values)
    taken = np.zeros(len(values), bool)
    for rule in rules:
        for i in np.flatnonzero(rule.holds(values) & ~taken).tolist():
            found[i], taken[i] = Role(rule.role, rule.name, rule.confidence), True
    return tuple(found)


class Described(NamedTuple):
    """A described unit is a row of a table of a circuit.

    Attributes:
        unit: Name of the unit.
        leaves: Heads and neurons in it.
        role: What a rule says of it.
        necessity: Share of the metric's change that is lost when the unit alone takes its
            counterfactual values.
    """

    unit: str
    leaves: int
    role: Role
    necessity: float


def described(
    model: LanguageModel,
    task: Task | Prompts,
    circuit: Circuit,
    config: SignatureConfig = SignatureConfig(),
    *,
    key: jax.Array | None = None,
    dictionary: Source | None = None,
) -> tuple[Described, ...]:
    """Describe the units of a circuit: their size, role and necessity alone.

    Roles are those of heads, neurons and what is made of these, whole MLPs among it. Features of a
    transcoder, and units that hold some, are unnamed; their necessity is measured all the same, as
    `necessity` defines it. A unit at one span has the role of the whole unit, and its own necessity
    at that span.

    Args:
        model: The model.
        task: The task of the circuit.
        circuit: The circuit.
        config: How signatures are measured.
        key: Of the synthetic prompts.
        dictionary: What the circuit's nodes inside MLPs are: a transcoder, `units.blocks(model)`,
            or neurons by default.

    Returns:
        A row for each unit, in the order of the circuit.

    Raises:
        InputError: If the circuit is of another model or dictionary, or is split by span and the
            task lacks its spans.

    Example:
        >>> case = hagd.testbeds.role_case("lookup", "plain", 0)
        >>> tree = hagd.units.tree(case.model)
        >>> circuit = Circuit.of_units(tree, list(case.roles)[:1], model="m", task="t")
        >>> described(case.model, case.prompts, circuit)[0].role.name
        'token lookup'
    """
    require_is("circuit", circuit, Circuit)
    require_is("model", model, LanguageModel)
    nodes = as_dictionary(model, dictionary)
    if circuit.spans and not isinstance(nodes, Spanned):
        nodes = nodes.by_span(circuit.spans)
    circuit.check_model(nodes)
    space, label = neurons(model).space, whole_label(circuit.dictionary)
    own = [of_neurons(unit, space, label) for unit in whole_units(circuit)]
    known = list(dict.fromkeys(unit for unit in own if unit is not None))
    roles, lost = dict[Unit | None, Role](), np.zeros(0)
    if nodes.label != NEURONS:
        prompts = read_prompts(model, task, config)
        lost = necessity(model, prompts, circuit.units, dictionary=nodes,
                         batch_size=config.batch_size)  # fmt: skip
    if known:
        found = signatures(model, task, known, config, key=key)
        roles.update(zip(known, roles_of(found), strict=True))
        lost = found.column("necessity") if nodes.label == NEURONS else lost
    return tuple(
        Described(unit.name, len(unit), roles.get(same, Role(UNNAMED)), share)
        for unit, same, share in zip(circuit.units, own, lost.tolist(), strict=True)
    )


def whole_units(circuit: Circuit) -> list[Unit]:
    """Return for each unit of a circuit the whole unit that it is, or is a part of.

    Args:
        circuit: The circuit.

    Returns:
        As many units, in their order; a unit comes once for each of its spans in the circuit.
    """
    names = circuit.spans
    if not names:
        return list(circuit.units)
    whole = whole_space(circuit.space, len(names))
    return [whole_unit(unit, whole, names) for unit in circuit.units]


def of_neurons(unit: Unit, space: Space, dictionary: str) -> Unit | None:
    """Return the unit of heads and neurons that is the same part of the model.

    Args:
        unit: A unit of any dictionary.
        space: Numbers of layers, heads and neurons.
        dictionary: Label of the unit's dictionary.

    Returns:
        The unit; None if it holds features of a transcoder.

    Example:
        >>> whole = Unit("mlp", (1, 1), 0, "mlp", ((5, 6),))
        >>> of_neurons(whole, Space(2, 2, 8), "mlps").ranges
        ((12, 20),)
    """
    # Heads come first in every space.
    if dictionary == NEURONS or unit.ranges[-1][1] <= space.layers * space.heads:
        return unit
    if dictionary != MLPS:
        return None
    ranges = block_ranges(space, unit.kind, *unit.layers)
    return Unit(unit.kind, unit.layers, unit.index if unit.kind == BAND else 0, unit.block, ranges)
