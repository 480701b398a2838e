"""What the heads and MLPs of a compiled program are for, as its own source says."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from hagd_jax.causal.node import Node
from hagd_jax.errors import require_is
from hagd_jax.models import LanguageModel
from hagd_jax.testbeds.case import Case
from hagd_jax.testbeds.compiled import Compiled, Program, compile_program
from hagd_jax.testbeds.crafting import Tracr, tracr
from hagd_jax.testbeds.guise import hidden_in, scrambled
from hagd_jax.testbeds.known import HOST, compiled_case
from hagd_jax.testbeds.role_plan import RoleCase


def role_program(program: Program, seed: int | None = None) -> RoleCase:
    """Compile a program, and read the roles of its units off its source.

    A head computes one `Aggregate` or `SelectorWidth`, whose selector is evaluated on every input:

    - it selects the position before: `previous token`;
    - all positions: `averaging`;
    - others that the input does not change: `positional`;
    - the positions of the query's token: `duplicate token`;
    - those of some tokens, whatever the query: `token finder`;
    - otherwise, if its tokens are the program's output: `mover of the answer`; else `unnamed`.

    An MLP that computes functions of the tokens alone is a `token lookup`; otherwise, if it
    computes the program's output, a `writer of the answer`; else `unnamed`. Units whose output is
    the same on all inputs are left out: what they do cannot be tested on them.

    Args:
        program: The program.
        seed: Hide the model among units that do nothing, two of which become `inert` roles, and
            move its units with this seed; as it was compiled if None.

    Returns:
        The model with its prompts and the roles of its units.

    Raises:
        MissingDependencyError: If the compiler is not installed.
        InputError: If the program does not compile.

    Example:
        >>> role_program(hagd.testbeds.PROGRAMS["shift"]).roles
        {'head 0.0': 'previous token'}
    """
    require_is("program", program, Program)
    t = tracr()
    expression = program.make(t.rasp, t.lib)
    # The expression itself, so that labels of directions are those of its parts.
    compiled = compile_program(program._replace(make=lambda rasp, lib: expression))
    case = compiled_case(compiled)
    roles = _roles(t, expression, compiled, case)
    model, kept = case.model, Case(case.name, case.model, case.prompts, _by_role(roles), case.why)
    if seed is None:
        return RoleCase(case.name, model, case.prompts, {_named(n): r for n, r in roles.items()})
    c = model.config
    host = dataclasses.replace(HOST, gated_mlp=c.gated_mlp, causal=c.causal)
    host = host.replace(n_layers=max(c.n_layers, host.n_layers))
    wide = hidden_in(kept, host, seed)
    idle = [node for node in _heads(wide.model) if node not in _heads(model)][:2]
    wide = wide._replace(truth={**wide.truth, "inert": frozenset(idle)})
    moved = scrambled(wide, seed)
    # The layers of MLPs stay.
    found = {_named(n): r for r, nodes in moved.truth.items() for n in nodes if n.kind == "head"}
    found |= {_named(n): r for n, r in roles.items() if n.kind == "mlp"}
    return RoleCase(f"{case.name}, hidden", moved.model, moved.prompts, found)


def _named(node: Node) -> str:
    return f"mlp {node.layer}" if node.kind == "mlp" else f"head {node.layer}.{node.index}"


def _by_role(roles: dict[Node, str]) -> dict[str, frozenset[Node]]:
    found: dict[str, frozenset[Node]] = {}
    for node, role in roles.items():
        if node.kind == "head":
            found[role] = found.get(role, frozenset()) | {node}
    return found


def _heads(model: LanguageModel) -> list[Node]:
    """The heads that write anything."""
    out = np.asarray(model.params["blocks"]["attn"]["o"]["kernel"])
    return [Node("head", *place) for place in np.argwhere(out.any((2, 3))).tolist()]


def _roles(t: Tracr, expression: Any, compiled: Compiled, case: Case) -> dict[Node, str]:
    graph = t.graph.extract_rasp_graph(expression).graph
    parts = {str(name): data["EXPR"] for name, data in graph.nodes(data=True)}
    blocks, labels = compiled.model.params["blocks"], compiled.labels
    varies = case.truth["mean"]
    roles: dict[Node, str] = {}
    for node in sorted(varies):
        if node.kind == "head":
            written = np.asarray(blocks["attn"]["o"]["kernel"])[node.layer, node.index].any(0)
            (made,) = _made(labels, written, parts)
            roles[node] = _of_head(made, made is expression, compiled)
    for layer in sorted({node.layer for node in varies if node.kind == "neuron"}):
        own = [n.index for n in varies if n.kind == "neuron" and n.layer == layer]
        written = np.asarray((np.asarray(blocks["mlp"]["out"]["kernel"])[layer, own]).any(0))
        roles[Node("mlp", layer, 0)] = _of_mlp(t, _made(labels, written, parts), expression)
    return roles


def _made(labels: tuple[str, ...], written: np.ndarray, parts: dict[str, Any]) -> list[Any]:
    """The expressions whose values stand in the directions that a unit writes."""
    names = {}
    for label, own in zip(labels, written, strict=True):
        name = label.removesuffix("_selector_width_attn_output")
        name = name if name in parts else name.rpartition(":")[0]
        if own and name in parts:
            names[name] = parts[name]
    return list(names.values())


def _of_head(made: Any, final: bool, compiled: Compiled) -> str:
    program = compiled.program
    tokens, _ = compiled.tables[program.length]
    rows = [[program.vocabulary[i] for i in row] for row in tokens[:, 1:]]
    selected = np.array([made.selector(row) for row in rows], bool)  # (N, queries, keys)
    length = program.length
    ids = tokens[:, 1:]
    if (selected == selected[0]).all():
        if selected[0].all():
            return "averaging"
        before = np.eye(length, k=-1, dtype=bool)
        return "previous token" if (selected[0] == before)[1:].all() else "positional"
    if (selected == (ids[:, :, None] == ids[:, None])).all():
        return "duplicate token"
    sought = {int(token) for token in ids[selected.any(1)]}
    if (selected == np.isin(ids, list(sought))[:, None]).all():
        return "token finder"
    moves = final and getattr(getattr(made, "sop", None), "label", "") == "tokens"
    return "mover of the answer" if moves else "unnamed"


def _of_mlp(t: Tracr, made: list[Any], expression: Any) -> str:
    def of_tokens(part: Any) -> bool:
        return isinstance(part, t.rasp.Map) and part.inner.label == "tokens"

    if made and all(map(of_tokens, made)):
        return "token lookup"
    # Expressions have an `==` of their own, which makes another expression.
    final = any(part is expression for part in made)
    return "writer of the answer" if final else "unnamed"
